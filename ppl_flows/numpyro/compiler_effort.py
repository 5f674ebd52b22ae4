"""How hard XLA should try: as hard as pays for what a program is expected to compute.

On a CPU, XLA takes about a millisecond per operation of a program at its level 0, two at its level 1, and three and a
half where it also fuses operations as it does by default; a run takes about 1.2, .25 and .2 nanoseconds per number that
these operations make.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import jax

Options = dict[str, str | bool]

QUICK: Options = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}
GOOD: Options = {"xla_backend_optimization_level": "1", "xla_cpu_use_fusion_emitters": False}
BEST: Options = {"xla_backend_optimization_level": "1"}  # level 3 takes up to a third longer to compile
FULL: Options = {}  # level 3: of splines a run takes 15 % less than at level 1, of affine maps as long
GOOD_FROM, BEST_FROM, FULL_FROM = 1e6, 2e7, 1e8  # numbers, in all calls, per operation
_unknown: set[str] = set()  # options that this XLA does not have


def options_for(jaxpr: Any, calls: int) -> Options:
    """Options for a program that is called so often; the same ones for the same program."""
    if jax.default_backend() != "cpu":
        return {}
    numbers, operations = _size(jaxpr)
    work = calls * numbers / max(operations, 1)
    if work > FULL_FROM:
        return FULL
    return BEST if work > BEST_FROM else GOOD if work > GOOD_FROM else QUICK


def compile_with(lowered: jax.stages.Lowered, options: Options) -> jax.stages.Compiled:
    """With those of the options that there are."""
    known = {name: value for name, value in options.items() if name not in _unknown}
    try:
        return lowered.compile(compiler_options=known)
    except jax.errors.JaxRuntimeError as error:
        unknown = {name for name in known if name in str(error)}
        if "No such compile option" not in str(error) or not unknown:
            raise
    _unknown.update(unknown)
    return compile_with(lowered, options)


def _size(jaxpr: Any) -> tuple[int, int]:
    """Numbers that a run makes, with one pass of each open loop, and operations in the text."""
    numbers = operations = 0
    for equation in jaxpr.eqns:
        inner = [*_inner(equation.params)]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for made, written in map(_size, inner):
            numbers, operations = numbers + times * made, operations + written
        if not inner:
            numbers += sum(prod(getattr(v.aval, "shape", ())) for v in equation.outvars)
            operations += 1
    return numbers, operations


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """Jaxprs among the parameters of an equation."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(one, "jaxpr", one)  # of a closed one
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
