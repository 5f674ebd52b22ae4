"""Blocks of code in Pyro and in NumPyro as tabs, run when the site is built, with what they print and draw.

```{pyro}
a block of Pyro
```
```{numpyro}
its twin
```

Neighbours become one set of tabs, and all tabs of the site follow each other. A block ``both`` is the same in both
languages. All blocks of a language on a page are one session, in a kernel of its own. Options: ``:alt:`` describes the
picture, ``:silent:`` shows no output. What was run once is kept below ``two_languages_cache`` until the code changes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import nbformat
from docutils import nodes
from docutils.parsers.rst import directives
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger
from sphinx_design.shared import create_component, is_component

LANGUAGES = {"pyro": "Pyro", "numpyro": "NumPyro"}
BLOCK = re.compile(r"^(?P<fence>```+)\{(?P<kind>pyro|numpyro|both)\}\n(?P<body>.*?)^(?P=fence)[ ]*$", re.M | re.S)
PICTURES = "_runs"  # below the sources, as Sphinx takes images from there
logger = getLogger(__name__)


def split_page(text: str) -> list[tuple[str, str]]:
    """The page in pieces, ``(kind, text)``: kind is ``pyro``, ``numpyro``, ``both``, or ``""`` for prose."""
    pieces, end = [], 0
    for block in BLOCK.finditer(text):
        pieces += [("", text[end : block.start()]), (block["kind"], code_of(block["body"]))]
        end = block.end()
    return [*pieces, ("", text[end:])]


def code_of(body: str) -> str:
    """Without the options at its top."""
    return re.sub(r"\A(?::[\w-]+:.*\n)+\n?", "", body).strip("\n")


def run(language: str, pieces: list[tuple[str, str]], cache: Path, most_steps: str | None) -> list[Any]:
    """The outputs of every block of the page, those of the other language empty.

    Raises:
        CellExecutionError: a block fails.
    """
    codes = [code for kind, code in pieces if kind in (language, "both")]
    name = hashlib.sha256(json.dumps([codes, most_steps]).encode()).hexdigest()[:24]
    path = cache / f"{name}.ipynb"
    if path.exists():
        notebook = nbformat.read(path, as_version=4)
    else:
        logger.info(f"running {len(codes)} blocks of {LANGUAGES[language]}")
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(
                notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}
            ).execute()
        cache.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
    outputs = iter([cell.outputs for cell in notebook.cells])
    return [next(outputs) if kind in (language, "both") else [] for kind, _ in pieces if kind]


class Block(SphinxDirective):
    """One block of code, with its output."""

    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged, "silent": directives.flag}

    def run(self) -> list[nodes.Node]:
        page = self.env.current_document.docname
        pages: dict[str, Any] = self.env.current_document.setdefault("two_languages", {})
        if page not in pages:
            pages[page] = [0, {}]
        number, outputs = pages[page]
        pages[page][0] += 1
        for language in LANGUAGES:
            if language not in outputs:
                outputs[language] = self.run_page(language)
        code = "\n".join(self.content)
        block = nodes.literal_block(code, code, language="python")
        shown = {} if "silent" in self.options else {w: self.show(outputs[w][number]) for w in LANGUAGES}
        if self.name == "both":
            if not any(shown.values()):
                return [block]
            if str(shown["pyro"]) == str(shown["numpyro"]):
                return [block, *shown["pyro"]]
            return [block, *(tab(language, output) for language, output in shown.items())]
        return [tab(self.name, [block, *shown.get(self.name, [])])]

    def run_page(self, language: str) -> list[Any]:
        config = self.env.config
        pieces = split_page(Path(self.env.doc2path(self.env.current_document.docname)).read_text())
        try:
            return run(language, pieces, Path(config.two_languages_cache), config.most_steps)
        except CellExecutionError as error:
            logger.warning(f"a block of {LANGUAGES[language]} fails:\n{error}", location=self.get_location())
            return [[] for kind, _ in pieces if kind]

    def show(self, outputs: list[Any]) -> list[nodes.Node]:
        shown: list[nodes.Node] = []
        printed = ""
        for output in outputs:
            data = output.get("data", {})
            if output.output_type == "stream":
                printed += output.text if output.name == "stdout" else ""
            elif "image/png" in data:
                shown.append(self.picture(data["image/png"]))
            elif "text/html" in data:
                table = nodes.raw("", f'<div class="output table-wrapper">{data["text/html"]}</div>', format="html")
                shown.append(table)
            elif "text/plain" in data:
                printed += data["text/plain"]
        if printed.strip():
            text = printed.rstrip()
            block = nodes.container("", nodes.literal_block(text, text, language="text"), classes=["output"])
            shown.insert(0, block)
        return shown

    def picture(self, png: str) -> nodes.Node:
        raw = base64.b64decode(png)
        path = Path(self.env.srcdir, PICTURES, f"{hashlib.sha256(raw).hexdigest()[:24]}.png")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        if not self.options.get("alt"):
            logger.warning("a picture without :alt: text", location=self.get_location())
        image = nodes.image("", uri=f"/{PICTURES}/{path.name}", alt=self.options.get("alt", ""), classes=["plot"])
        image["width"] = f"{int.from_bytes(raw[16:20], 'big') // 2}px"  # it has two pixels for one
        return image


def tab(language: str, children: list[nodes.Node]) -> nodes.Node:
    label = nodes.rubric(LANGUAGES[language], LANGUAGES[language], classes=["sd-tab-label"])
    label["sync_group"], label["sync_id"] = "language", language
    content = create_component("tab-content", classes=["sd-tab-content"], children=children)
    return create_component("tab-item", classes=["sd-tab-item"], children=[label, content])


class Neighbours(SphinxTransform):
    """Tabs that stand side by side become one set."""

    default_priority = 300

    def apply(self, **_: Any) -> None:
        alone = [
            node
            for node in self.document.findall(lambda n: is_component(n, "tab-item"))
            if not is_component(node.parent, "tab-set")
        ]
        for node in alone:
            parent, place = node.parent, node.parent.index(node)
            before = parent[place - 1] if place else None
            if isinstance(before, nodes.Element) and is_component(before, "tab-set") and before.get("of_languages"):
                parent.remove(node)
                before += node
            else:
                tabs = create_component("tab-set", classes=["sd-tab-set"], children=[node.deepcopy()])
                tabs["of_languages"] = True
                node.replace_self(tabs)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("two_languages_cache", "", "env")
    app.add_config_value("most_steps", None, "env")
    for name in (*LANGUAGES, "both"):
        app.add_directive(name, Block)
    app.add_transform(Neighbours)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
