"""Every page whose code runs can be had as a notebook: one of MyST-NB as it was run, one with tabs in each language."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from two_languages import LANGUAGES, run, split_page

FOLDER = "_notebooks"
WIDE = 600  # pixels; wider pictures keep a size on a phone, and are scrolled


def notebooks_of(app: Sphinx, page: str) -> dict[str, str]:
    """Names of the files, and what the link to each says."""
    if app.env.metadata.get(page, {}).get("kernelspec"):
        return {f"{page}.ipynb": "notebook"}
    if any(kind for kind, _ in split_page(Path(app.env.doc2path(page)).read_text())):
        return {f"{page}_{language}.ipynb": f"notebook in {name}" for language, name in LANGUAGES.items()}
    return {}


def add_links(app: Sphinx, page: str, _: str, context: dict[str, Any], doctree: Any) -> None:
    if doctree is None or "body" not in context or page not in app.env.found_docs:
        return
    up = "../" * page.count("/")
    links = [f'<a href="{up}{FOLDER}/{name}" download>{words}</a>' for name, words in notebooks_of(app, page).items()]
    if links:
        line = f'<p class="download">Download this page as a {" or a ".join(links)}.</p>'
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{line}", 1)


def half_as_wide(app: Sphinx, doctree: nodes.document) -> None:
    """Pictures of notebooks, which have two pixels for one."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"])
        if "jupyter_execute" in path.parts and path.suffix == ".png" and "width" not in image:
            image["width"] = f"{int.from_bytes(path.read_bytes()[16:20], 'big') // 2}px"
            if int(image["width"][:-2]) > WIDE:
                image["classes"].append("wide")


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for page in app.env.found_docs:
        for name in notebooks_of(app, page):
            target = Path(app.outdir, FOLDER, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            executed = Path(app.outdir).parent / "jupyter_execute" / name
            if executed.exists():
                notebook = with_outputs(app, nbformat.read(executed, as_version=4))
            else:
                notebook = tabs_as_notebook(app, page, name.removesuffix(".ipynb").rpartition("_")[2])
            for cell in notebook.cells:
                if cell.cell_type == "code":  # what goes to stderr is of the machine that made the site
                    cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            nbformat.write(notebook, target)


def with_outputs(app: Sphinx, notebook: Any) -> Any:
    """As it was run, if it was: MyST-NB keeps outputs in its cache."""
    try:
        return get_cache(app.config.nb_execution_cache_path).merge_match_into_notebook(notebook)[1]
    except KeyError:
        return notebook


def tabs_as_notebook(app: Sphinx, page: str, language: str) -> Any:
    pieces = split_page(Path(app.env.doc2path(page)).read_text())
    outputs = iter(run(language, pieces, Path(app.config.two_languages_cache), app.config.most_steps))
    cells = []
    for kind, text in pieces:
        output = next(outputs) if kind else []
        if kind in (language, "both"):
            cells.append(nbformat.v4.new_code_cell(text, outputs=output))
        elif not kind and text.strip():
            cells.append(nbformat.v4.new_markdown_cell(plain_markdown(text)))
    return nbformat.v4.new_notebook(cells=cells)


def plain_markdown(text: str) -> str:
    """Without the words that only the site knows."""
    text = re.sub(r"^:::+.*\n?", "", text, flags=re.M)
    return re.sub(r"\{[\w:]+\}(`[^`]+`)", r"\1", text).strip()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", half_as_wide, priority=900)
    app.connect("html-page-context", add_links)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
