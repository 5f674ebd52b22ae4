"""``compile_once``: programs that are the same are compiled once, however often they are traced."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpyro

PROGRAMS = 16  # that are kept
_compiled: OrderedDict[str, jax.stages.Compiled] = OrderedDict()


def compile_once(f: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Callable[..., Any]:
    """``jax.jit(f)`` for arguments of these shapes, taken from an earlier call that came to the same program.

    The buffers of arguments ``donate`` become those of the result, and are gone after a call.

    Every call of ``fit`` traces its model anew, as the model may read data that have changed since; what was traced,
    with those data in it, is the key.
    """
    with numpyro.validation_enabled(False):  # traced values cannot be looked at: the checks would only be traced too
        lowered = jax.jit(f, donate_argnums=donate).lower(*args)
    config: Any = jax.config  # its options have no types
    place = config.jax_default_device, jax.default_backend()
    program = hashlib.sha256(
        f"{place}{lowered.args_info}".encode()
    )  # shapes too, as unused arguments are not in the text
    program.update(lowered.as_text().encode())  # constants are written out in full
    key = program.hexdigest()
    if key not in _compiled:
        _compiled[key] = lowered.compile()
        while len(_compiled) > PROGRAMS:
            _compiled.popitem(last=False)
    _compiled.move_to_end(key)
    return _compiled[key]


def check_not_jitted(model: Any) -> None:
    """Raises TypeError for a jitted model, whose sites no handler sees."""
    if isinstance(model, jax.stages.Wrapped):
        raise TypeError("the model is a jitted function, whose sites NumPyro does not see; give the function itself.")
