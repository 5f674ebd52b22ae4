"""The loop that a ``fit`` or ``fit_density`` of NumPyro runs, without the rest of the fit."""

from collections.abc import Callable
from contextlib import suppress

import jax

from ppl_flows.numpyro import compiled_steps


class _LoopFoundError(Exception):
    """Ends the fit before its first step."""


def loop_of(run_fit: Callable[[], object]) -> Callable[[int, int], None]:
    """``(first, last)``: takes these steps of the fit in one dispatch, from where the last call ended."""
    original = compiled_steps.compile_once
    carry = block = None

    def compiled(f, *args, **options):
        nonlocal carry, block
        carry, block = args[0], original(f, *args, **options)
        raise _LoopFoundError

    compiled_steps.compile_once = compiled
    try:
        with suppress(_LoopFoundError):
            run_fit()
    finally:
        compiled_steps.compile_once = original

    def steps(first: int, last: int) -> None:
        nonlocal carry
        carry = jax.block_until_ready(block(carry, first, last))[0]

    return steps
