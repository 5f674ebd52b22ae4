"""Writes the stubs of ``ppl_flows.pyro.transforms`` and ``.numpyro.transforms``, whose classes are made at import.

For type checkers and editors, which do not run it (``make docs``).
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import ppl_flows as pf

SHELLS = ("pyro", "numpyro")
HEADER = '''# Generated from the classes by `make docs`; do not edit.
# ruff: noqa: E501
"""Every bijection under its own name as a transform class; see transforms.py."""

'''


def path(shell: str) -> Path:
    return Path(pf.__file__).parent / shell / "transforms.pyi"


def origins(module: str) -> dict[str, str]:
    """The import statement of every name that a module imports, or defines, at its top level."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"from {node.module} import {alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.asname or a.name: f"import {a.name}" + f" as {a.asname}" * bool(a.asname) for a in node.names}
        elif isinstance(node, ast.ClassDef):
            found[node.name] = f"from {module} import {node.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id: f"from {module} import {t.id}" for t in targets if isinstance(t, ast.Name)}
    return found


def needed(annotation: str, owners: tuple[type, ...]) -> Iterator[str]:
    """The imports that an annotation needs, which is written in the module of one of the owners."""
    for node in ast.walk(ast.parse(annotation)):
        if isinstance(node, ast.Name) and not hasattr(builtins, node.id):
            modules = [c.__module__ for owner in owners for c in owner.__mro__ if c.__module__.startswith("ppl_flows.")]
            yield next(statement for m in modules if (statement := origins(m).get(node.id)))


def written(parameter: inspect.Parameter) -> str:
    """A parameter as a stub has it: a default that is no plain number, word or tuple of them is ``...``."""
    annotation, default = str(parameter.annotation), parameter.default
    if default is parameter.empty:
        return f"{parameter.name}: {annotation}"
    if default is None and annotation != "Any" and "None" not in annotation:
        annotation += " | None"  # what stands for it is found out where the object is made
    try:
        plain = ast.literal_eval(repr(default)) == default
    except ValueError:
        plain = False
    return f"{parameter.name}: {annotation} = {repr(default).replace(chr(39), chr(34)) if plain else '...'}"


def arguments(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """The parameters, with the star before those that are keyword-only."""
    for before, parameter in zip([None, *parameters], parameters, strict=False):
        only = parameter.kind is parameter.KEYWORD_ONLY
        if only and (before is None or before.kind is not parameter.KEYWORD_ONLY):
            yield "*"
        yield written(parameter)


def stub(name: str, made: type, flow_transform: type) -> tuple[str, set[str]]:
    """A class, and the imports that it needs."""
    parameters = list(inspect.signature(made).parameters.values())
    owners = (getattr(pf, name), flow_transform)
    imports = {statement for p in parameters for statement in needed(str(p.annotation), owners)}
    summary = (inspect.getdoc(made) or "").partition("\n")[0]
    head = f'class {name}(FlowTransform):\n    """{summary}"""\n\n    def __init__(\n'
    lines = "".join(f"        {argument},\n" for argument in ("self", *arguments(parameters)))
    return f"{head}{lines}    ) -> None: ...\n", imports


def document(shell: str) -> str:
    transforms = importlib.import_module(f"ppl_flows.{shell}.transforms")
    made = [stub(name, getattr(transforms, name), transforms.FlowTransform) for name in transforms.__all__]
    imports = {f"from ppl_flows.{shell}.transform import FlowTransform"}.union(*(needed for _, needed in made))
    groups = defaultdict(set)
    for statement in imports:
        top = statement.split()[1].partition(".")[0]
        groups[0 if top in sys.stdlib_module_names else 2 if top == "ppl_flows" else 1].add(statement)
    head = "\n\n".join("\n".join(merged(groups[i])) for i in sorted(groups))
    names = "".join(f'    "{name}",\n' for name in transforms.__all__)
    return f"{HEADER}{head}\n\n__all__ = [\n{names}]\n\n" + "\n".join(text for text, _ in made)


def merged(statements: set[str]) -> list[str]:
    """One statement per module, plain imports first."""
    names = defaultdict(set)
    for statement in statements:
        if statement.startswith("from "):
            module, _, name = statement.removeprefix("from ").partition(" import ")
            names[module].add(name)
    plain = sorted(s for s in statements if s.startswith("import "))
    return plain + [f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names)]


if __name__ == "__main__":
    for shell in SHELLS:
        path(shell).write_text(document(shell))
