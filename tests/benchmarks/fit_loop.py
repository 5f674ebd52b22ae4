"""The loop that a ``fit`` or ``fit_density`` of NumPyro runs, without the rest of the fit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ppl_flows.numpyro import training


def loop_of(run_fit: Callable[[], object]) -> Callable[[int, int], None]:
    """``(first, last)``: takes these steps of the fit in one dispatch, from where the last call ended."""
    programs, original = [], training.compile_once

    def kept(f, *args, **options):
        programs.append((original(f, *args, **options), jax.tree.map(jnp.copy, args[0])))
        return programs[-1][0]

    training.compile_once = kept
    try:
        run_fit()
    finally:
        training.compile_once = original
    block, carry = programs[0]

    def steps(first: int, last: int) -> None:
        nonlocal carry
        carry = jax.block_until_ready(block(carry, first, last))

    return steps
