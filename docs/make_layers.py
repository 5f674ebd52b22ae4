"""Writes docs/layers.md: every layer and recipe, with what its own program says about its cost (``make docs``)."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro

ROWS = 10_000  # so many that what is done once a call does not count
# event sizes of which the programs are read, and two between which the growth of the work is taken
VECTORS, IMAGES = (4, 64, 256), (64, 1_024, 16_384)
CUBIC = {"lu", "svd", "eigh", "qr", "cholesky", "geqrf", "householder_product"}

HEADER = """# Layers

Generated from the code by `make docs`; do not edit. *Work* is that of a forward pass per row, as it grows with the
event size at default settings. *Forward* and *inverse* are read from the programs that JAX makes of them: closed form;
sequential, a loop over coordinates or patches; numerical, an iteration to the dtype's precision. *Context* is whether
the layer takes one. Every layer here passes the laws of `tests/test_laws.py` in NumPy, torch and JAX.
"""


def programs(jaxpr: Any) -> Iterator[tuple[Any, int]]:
    """All equations of a program, with how often each runs (a loop to convergence counts once)."""
    for equation in jaxpr.eqns:
        yield equation, 1
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from ((e, n * times) for e, n in programs(inner))


def trace(bijection: pf.Bijection, rows: int, forward: bool = True) -> Any:
    run, event = (bijection.forward, bijection.event_shape) if forward else (bijection.inverse, bijection.output_shape)
    shape = lambda a: ShapeDtypeStruct(a.shape, jnp.float32)  # noqa: E731
    params = jax.tree.map(shape, bijection.init(np.random.default_rng(0)))
    return jax.make_jaxpr(run)(params, ShapeDtypeStruct((rows, *event), jnp.float32)).jaxpr


def work(bijection: pf.Bijection) -> float:
    """Multiplications and other elementary operations of a forward pass."""
    total = 0.0
    for equation, times in programs(trace(bijection, ROWS)):
        out = sum(math.prod(v.aval.shape) for v in equation.outvars)
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            out *= math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        elif name in CUBIC:
            out *= equation.invars[0].aval.shape[-1]
        total += times * out
    return total


def growth(make: Any, small: int, large: int) -> str:
    power = round(math.log(work(make(large)) / work(make(small)), large / small))
    return {0: "O(1)", 1: "O(dim)"}.get(power, f"O(dim^{power})")


def once(bijection: pf.Bijection) -> pf.Bijection:
    """Without repetitions, whose loops are over layers."""
    match bijection:
        case pf.Repeat():
            return once(bijection.part)
        case pf.Inverse():
            return pf.Inverse(once(bijection.part))
        case pf.Chain():
            return pf.Chain(map(once, bijection.parts))
        case pf.MultiScale():
            return pf.MultiScale(map(once, bijection.scales))
    return bijection


def kind(bijection: pf.Bijection, forward: bool) -> str:
    names = {equation.primitive.name for equation, _ in programs(trace(once(bijection), 2, forward))}
    return (
        ", ".join(word for word, primitive in (("sequential", "scan"), ("numerical", "while")) if primitive in names)
        or "closed form"
    )


def paper(thing: Any) -> str:
    """Authors, year and arXiv number of the references in a docstring."""
    text = " ".join((inspect.getdoc(thing) or "").partition("Reference:")[2].split())
    found = []
    for reference in text.split("; "):
        who = re.search(r"(van den |De )?[A-Z][\w-]+( et al\.| & [A-Z][\w-]+)? \(\d{4}\)", reference)
        number = re.search(r"arXiv:(\d{4}\.\d{4,5})", reference)
        if who:
            found.append(f"[{who[0]}](https://arxiv.org/abs/{number[1]})" if number else who[0])
    return "; ".join(found)


def row(name: str, thing: Any, make: Any, context: bool, sizes: tuple[int, int, int] = VECTORS) -> str:
    tiny, small, large = sizes
    bijection = make(tiny)
    hosts = (shell.FlowTransform(bijection).bijection is bijection for shell in (in_pyro, in_numpyro))
    ways = (kind(bijection, forward) for forward in (True, False))
    ticks = ("✓" if is_so else "" for is_so in (context, *hosts))
    return " | ".join([f"`{name}`", paper(thing), growth(make, small, large), *ways, *ticks])


def image(size: int) -> tuple[int, int, int]:
    """The shape of an image of four channels."""
    return (side := math.isqrt(size // 4)), side, 4


def table(title: str, rows: list[str]) -> str:
    columns = ("", "paper", "work", "forward", "inverse", "context", "Pyro", "NumPyro")
    head = f"\n## {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    return head + "".join(f"| {r} |\n" for r in rows)


def takes(thing: Any, name: str) -> bool:
    return name in inspect.signature(thing).parameters


def takes_shape(thing: Any) -> bool:
    layer = isinstance(thing, type) and issubclass(thing, pf.Bijection)
    recipe = inspect.isfunction(thing) and inspect.signature(thing).return_annotation == "Bijection"
    return (layer or recipe) and takes(thing, "shape")


def document() -> str:
    public = {name: getattr(pf, name) for name in pf.__all__}
    classes = {n: c for n, c in public.items() if isinstance(c, type) and not inspect.isabstract(c)}
    transformers = [
        row(n, c, lambda dim, c=c: pf.Elementwise(dim, c()), True)
        for n, c in classes.items()
        if issubclass(c, pf.Transformer)
    ]
    layers = {n: c for n, c in classes.items() if issubclass(c, pf.Bijection) and takes(c, "dim")}
    alone = [row(n, c, c, takes(c, "context_dim")) for n, c in layers.items() if not takes(c, "part")]
    recipes = {n: f for n, f in public.items() if inspect.isfunction(f) and takes(f, "dim")}
    images = [
        row(n, t, lambda size, t=t: t(image(size)), takes(t, "context_dim"), IMAGES)
        for n, t in public.items()
        if takes_shape(t)
    ]
    return (
        HEADER
        + table("Transformers, here element-wise; usable in every wiring", transformers)
        + table("Wirings and other layers", alone)
        + table("Images; layers of vectors act on their channels in `PerPixel`", images)
        + table("Recipes", [row(n, f, partial(f), takes(f, "context_dim")) for n, f in recipes.items()])
    )


if __name__ == "__main__":
    Path(__file__).with_name("layers.md").write_text(document())
