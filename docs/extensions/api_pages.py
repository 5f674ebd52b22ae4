"""The reference: a page for every public module, written from ``__all__`` before Sphinx reads its pages."""

from __future__ import annotations

import importlib
import inspect
from functools import partial
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro

FOLDER = "api"
PARTS = ("recipes", "bijections", "transformers", "conditioners", "combinators", "bases")
# what every class of a kind has, documented once
CONTRACTS = {
    pf.Bijection: ("init", "forward", "inverse", "observe", "to_torch", "to_jax"),
    pf.Transformer: ("size", "forward", "inverse"),
    pf.Base: ("init", "log_prob", "sample"),
}
OWN = "Contracts, files and results"
WORDS = {
    "recipes": "The architectures of the literature: ``recipe(dim, ...)`` gives a :py:class:`~ppl_flows.Bijection`.",
    "bijections": "Layers: a wiring of a network and a scalar map, or a map of its own.",
    "transformers": "Monotone scalar maps, which every wiring takes.",
    "conditioners": "Networks, as specifications without sizes; the wiring knows the sizes.",
    "combinators": "Bijections that are made of others.",
    "bases": "Base distributions that train with their flow.",
    "pyro": "What Pyro sees: guides, fits, distributions, transforms.",
    "numpyro": "What NumPyro sees, under the names of Pyro's page.",
    "torch": "Flows without Pyro.",
    "jax": "Flows without NumPyro.",
    "plots": "Pictures of fits, flows and draws.",
}


def members(module: str) -> list[str]:
    """Its public names; of ppl_flows itself those that no part has."""
    names = importlib.import_module(module).__all__
    if module == "ppl_flows":
        parts = {name for part in PARTS for name in getattr(pf, part).__all__}
        names = [name for name in names if name not in parts]
    return sorted(names, key=str.lower)


def entry(owner: str, name: str) -> str:
    """The directive that shows one object."""
    thing, full = getattr(importlib.import_module(owner), name), f"{owner}.{name}"
    if inspect.ismodule(thing):
        return transforms(full)
    if shared(owner, name):
        return f"``{full}`` is :py:obj:`ppl_flows.pyro.{name}`.\n"
    if not inspect.isclass(thing):
        return f".. autofunction:: {full}\n"
    text = f".. autoclass:: {full}\n   :members:\n   :show-inheritance:\n"
    for owner_of_contract, methods in CONTRACTS.items():
        if issubclass(thing, owner_of_contract) and not inspect.isabstract(thing):
            text += contract(owner_of_contract, methods)
    return text


def shared(owner: str, name: str) -> bool:
    """Whether NumPyro's object is the very one of Pyro's page."""
    return owner == "ppl_flows.numpyro" and getattr(pf.numpyro, name) is getattr(pf.pyro, name, None)


def contract(owner: type, methods: tuple[str, ...]) -> str:
    """A line that names what every class of its kind has."""
    found = [m for m in methods if hasattr(owner, m)]
    links = ", ".join(f":py:obj:`{m} <ppl_flows.{owner.__name__}.{m}>`" for m in found)
    return f"\n   As every :py:class:`ppl_flows.{owner.__name__}` it has {links}.\n"


def transforms(full: str) -> str:
    names = importlib.import_module(full).__all__
    rows = "".join(f"   * - ``{name}``\n     - :py:class:`ppl_flows.{name}`\n" for name in names)
    return (
        f".. py:module:: {full}\n\nEvery bijection as a transform class, ``{full}.{names[0]}`` and so on: it takes the "
        f"arguments of the bijection, and ``params``, ``context`` and ``seed`` of ``FlowTransform``.\n\n"
        f".. list-table::\n   :header-rows: 1\n\n   * - class\n     - of the bijection\n{rows}"
    )


def summary(owner: str, name: str) -> str:
    """A line: the name, and the first paragraph of its docstring."""
    words = " ".join((inspect.getdoc(getattr(importlib.import_module(owner), name)) or "").partition("\n\n")[0].split())
    return f"- :py:obj:`{name} <{owner}.{name}>`. {words}\n"


def page(title: str, module: str, owner: str, words: str) -> str:
    names = members(module)
    modules = [name for name in names if inspect.ismodule(getattr(importlib.import_module(module), name))]
    summaries = [name for name in names if name not in modules and not shared(owner, name)]
    head = f"{title}\n{'=' * len(title)}\n\n{words}\n\n"
    return (
        head + "".join(map(partial(summary, owner), summaries)) + "\n" + "\n".join(entry(owner, name) for name in names)
    )


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(exist_ok=True)
    pages = {part: page(part.capitalize(), f"ppl_flows.{part}", "ppl_flows", WORDS[part]) for part in PARTS}
    pages["ppl_flows"] = page(
        OWN, "ppl_flows", "ppl_flows", "What every part obeys, and what is saved, loaded, compared."
    )
    for module in ("pyro", "numpyro", "torch", "jax", "plots"):
        full = f"ppl_flows.{module}"
        pages[module] = page(full, full, full, WORDS[module])
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:  # Sphinx reads again what changes
            path.write_text(text)


def escape_stars(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """In ``*args, **kwargs:`` of a section of arguments, which Markdown's cousin takes for emphasis."""
    for i, line in enumerate(lines):
        lines[i] = line.replace("*args, **kwargs:", r"\*args, \*\*kwargs:")


def hide_private_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Of a class that only the library makes, as arguments with an underscore say: a result, a prior."""
    if what == "class" and any(parameter.startswith("_") for parameter in parameters_of(thing)):
        return "", None
    return None


def parameters_of(thing: type) -> list[str]:
    try:
        return [
            n for n, p in inspect.signature(thing).parameters.items() if p.kind is not p.VAR_POSITIONAL and n != "_"
        ]
    except ValueError:
        return []


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", hide_private_signature)
    app.connect("autodoc-process-docstring", escape_stars, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
