"""Laws of docstrings: every public name says what it takes, gives and raises, in what unit, from where, by example."""

import builtins
import importlib
import inspect
import re
import textwrap
from functools import cache
from types import ModuleType

import pytest

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro

MODULES = ["ppl_flows", *(f"ppl_flows.{name}" for name in ("pyro", "numpyro", "torch", "jax", "plots"))]
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Warns", "Example", "Reference")
LINES = 5  # of an example, beside its imports

# layers, maps, bases and recipes that no paper is cited for
OF_NO_PAPER = {
    **dict.fromkeys(pf.combinators.__all__, "puts bijections together"),
    **dict.fromkeys(["Elementwise", "Permute", "Reshape", "Reverse", "Shuffle"], "older than flows"),
    **dict.fromkeys(["Sigmoid", "Softplus", "Tanh"], "textbook maps"),
    "DiagonalNormal": "textbook distribution",
    "guide_flow": "our own choice of layers",
}
# ``pf.load`` makes them, and these show it
SHOWN_ELSEWHERE = {
    "ppl_flows.SavedAmortized": "load_amortized",
    "ppl_flows.SavedDensity": "load_density",
    "ppl_flows.SavedLikelihood": "load_likelihood",
}
CONTRACTS = {
    pf.Bijection: ("init", "forward", "inverse", "observe"),
    pf.Transformer: ("forward", "inverse"),
    pf.Conditioner: ("bind",),
    pf.AutoregressiveConditioner: ("bind_autoregressive",),
    pf.Base: ("init", "log_prob", "sample"),
}


@cache
def public():
    """Every public class and function, once, under its full name."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            thing = getattr(module, name)
            if not isinstance(thing, ModuleType) and thing not in found.values():
                found[f"{module.__name__}.{name}"] = thing
    return found


@cache
def methods():
    """Every public method and property of our own classes, once, under the name of a public class that has it."""
    seen = {}
    for name, owner in public().items():
        for cls in owner.__mro__ if isinstance(owner, type) else ():
            if cls.__module__.startswith("ppl_flows."):
                for key, defined in vars(cls).items():
                    value = getattr(defined, "__func__", defined)
                    if not key.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                        seen.setdefault(value, (f"{name}.{key}", owner))
    return {name: (owner, method) for method, (name, owner) in seen.items()}


def doc_of(owner, key):
    return inspect.getdoc(getattr(owner, key)) or ""


@cache
def sections(text):
    """The text of each section; that before the first is called ""."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", text, flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(section):
    """What each name of a section is said to be: ``rtol, atol: tolerances`` is an entry of two names."""
    found = {}
    for entry in re.split(r"\n(?!\s)", textwrap.dedent(section.strip("\n"))):
        names, _, text = entry.partition(": ")
        found |= dict.fromkeys((n.strip() for n in names.split(",")), text)
    return found


def parameters(thing):
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    given = inspect.signature(thing).parameters.values()
    return {stars.get(p.kind, "") + p.name for p in given if p.name != "self" and not p.name.startswith("_")}


def gives(function):
    return inspect.signature(function).return_annotation not in ("None", inspect.Signature.empty)


def raises(thing):
    """Whether its own program has a ``raise``, or calls a function that checks."""
    made = [getattr(thing, key, None) for key in ("__init__", "__post_init__")] if isinstance(thing, type) else [thing]
    written = (f for f in made if inspect.isfunction(f) and f.__module__.startswith("ppl_flows."))
    sources = (inspect.getsource(f) for f in written if f.__code__.co_filename[0] != "<")  # not made by dataclass
    return any(re.search(r"\braise |\b(check|checked|whole)_\w+\(", source) for source in sources)


def is_a(thing, *bases):
    return isinstance(thing, type) and issubclass(thing, bases)


def is_recipe(name):
    return name.removeprefix("ppl_flows.") in pf.recipes.__all__


def exceptions():
    found = {name for name in vars(builtins) if is_a(getattr(builtins, name), BaseException)}
    return found | {"FileFormatError", "FitError", "CompileError"}


def demand(check, things):
    """That ``check(name, thing)`` finds no fault in any of them."""
    faults = [f"{name}: {fault}" for name, thing in things.items() if (fault := check(name, thing))]
    assert not faults, "\n".join(faults)


def test_the_first_line_says_what_it_is():
    def check(_, thing):
        first = (thing.__doc__ or "").partition("\n\n")[0].strip()
        made_by_dataclass = first.startswith(f"{thing.__name__}(")
        return (made_by_dataclass or not first.endswith((".", ":"))) and "no sentence of its own"

    demand(check, public())


def test_arguments_are_those_of_the_signature():
    def check(_, thing):
        found = sections(inspect.getdoc(thing))
        said = entries(found["Args"]) if "Args" in found else {}
        attributes = entries(found["Attributes"]) if "Attributes" in found else {}
        odd, missing = said.keys() - parameters(thing), parameters(thing) - said.keys() - attributes.keys()
        empty = {name for name, text in (said | attributes).items() if not text}
        return (odd or missing or empty) and f"unknown {sorted(odd)}, missing {sorted(missing)}, empty {sorted(empty)}"

    demand(check, public())


def test_what_comes_out_is_said():
    functions = {name: f for name, f in public().items() if inspect.isfunction(f)}
    demand(lambda _, f: gives(f) and "Returns" not in sections(inspect.getdoc(f)) and "no Returns", functions)


def test_what_is_raised_is_said():
    def check(_, thing):
        found = sections(inspect.getdoc(thing))
        if "Raises" not in found:
            return raises(thing) and "no Raises"
        return entries(found["Raises"]).keys() - exceptions()

    demand(check, public())


def test_an_example_is_short_and_runs():
    def check(name, thing):
        example = sections(inspect.getdoc(thing)).get("Example", "")
        lines = [line for line in map(str.strip, example.splitlines()) if line.startswith((">>>", "..."))]
        code = [line for line in lines if not re.match(r">>> (import|from) ", line)]
        if not code:
            return name not in SHOWN_ELSEWHERE and "none"
        return ("# doctest" in example and "skips") or (len(code) > LINES and f"{len(code)} lines")

    demand(check, public())


def test_logarithms_have_a_unit():
    logs = re.compile(r"\blog[ _](density|det|prob|evidence|slope|likelihood)|\belbo\b|\bkl\b|losses", re.IGNORECASE)

    def check(name, text):
        return logs.search(name.rpartition(".")[2]) and "nats" not in text and "no unit"

    texts = {name: doc_of(owner, name.rpartition(".")[2]) for name, (owner, _) in methods().items()}
    for name, thing in public().items():
        found = sections(inspect.getdoc(thing))
        texts |= {f"{name}.{key}": text for key, text in entries(found.get("Attributes", "")).items()}
        returned = found.get("Returns", "")
        if logs.search(returned):
            assert re.search("nats|bits", returned), f"{name}: {returned}"
    demand(check, texts)


def test_papers_are_cited():
    def check(name, thing):
        if not (is_a(thing, *CONTRACTS) or is_recipe(name)):
            return False
        reference = " ".join(sections(inspect.getdoc(thing)).get("Reference", "").split())
        if inspect.isabstract(thing) or (name.removeprefix("ppl_flows.") in OF_NO_PAPER and not reference):
            return False
        where = r"arXiv:\d{4}\.\d{4,5}|\d+\(\d+\)|Astrophys\. \d+"
        cited = [re.search(r"[A-Z].* \((19|20)\d\d\)", part) for part in reference.split("; ")]
        return not (re.search(where, reference) and cited[0]) and "no author, year and number"

    demand(check, public())
    assert OF_NO_PAPER.keys() <= set(pf.__all__)


def test_the_twins_have_the_same_sections():
    def check(name, thing):
        twin = getattr(in_numpyro, name)
        return sections(inspect.getdoc(thing)).keys() ^ sections(inspect.getdoc(twin)).keys()

    demand(check, {name: getattr(in_pyro, name) for name in in_pyro.__all__ if name != "transforms"})


def test_methods_are_explained_where_they_are_defined_or_above():
    demand(lambda n, m: not doc_of(m[0], n.rpartition(".")[2]) and "no docstring", methods())


def test_methods_explain_their_arguments():
    def check(name, method):
        owner, function = method
        text = doc_of(owner, name.rpartition(".")[2])
        if isinstance(function, property) or not function.__doc__:
            return False
        if re.search(r"arguments( and errors)? as of", text):
            return False
        of_a_model = {"*args", "**kwargs"} if "arguments" in text else set()
        given = parameters(function) - {"cls"} - of_a_model
        missing = {p for p in given if not re.search(rf"(?<!\w){re.escape(p)}\b", text)}
        odd = entries(sections(text).get("Args", "")).keys() - parameters(function) - {""}
        return (missing or odd) and f"missing {sorted(missing)}, unknown {sorted(odd)}"

    demand(check, methods())


@pytest.mark.parametrize("base", CONTRACTS)
def test_a_contract_is_explained_once_and_shown_on_every_class(base):
    for key in CONTRACTS[base]:
        text = doc_of(base, key)
        assert entries(sections(text)["Args"]).keys() == parameters(getattr(base, key)), key
        assert "Returns" in sections(text), key
        assert all(doc_of(thing, key) == text for thing in public().values() if is_a(thing, base)), key


@pytest.mark.parametrize("shell", ["pyro", "numpyro"])
def test_transform_classes_show_the_docstring_of_their_bijection(shell):
    transforms = importlib.import_module(f"ppl_flows.{shell}.transforms")
    assert all(getattr(transforms, name).__doc__ is getattr(pf, name).__doc__ for name in transforms.__all__)
    own = parameters(transforms.FlowTransform) - {"bijection"}
    assert all(f"``{name}``" in transforms.__doc__ for name in own)
