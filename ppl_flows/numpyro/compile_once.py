"""Programs: compiled as cheaply as their use allows, the same ones once, and none for single operations."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
import numpyro
from jax.sharding import Mesh
from numpyro.distributions import Distribution

from ppl_flows.numpyro.compiler_effort import compile_with, options_for
from ppl_flows.numpyro.placement import Place, check_same_program, place_of

PROGRAMS = 32  # that are kept
_compiled: OrderedDict[str, jax.stages.Compiled] = OrderedDict()


def compile_once(
    f: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (), calls: int = 1, mesh: Mesh | None = None
) -> Callable[..., Any]:
    """``jax.jit(f)`` for arguments of these shapes, taken from an earlier call that came to the same program.

    The buffers of arguments ``donate`` become those of the result, and are gone after a call.

    Every call of ``fit`` traces its model anew, as the model may read data that have changed since; what was traced,
    with those data in it, is the key.

    Args:
        calls: about how often the program, or the body of its loop, will run: XLA tries accordingly hard.
        mesh: where it runs. None: where the arrays are that f closes over, if these are divided over several devices or
            put on another one than the default. On several, arguments are copied to each, and results are this
            process's; with ``donate`` they stay on all of them.
    """
    traced, place = _traced(f, *args, donate=donate, mesh=mesh)
    compiled = _compiled_once(traced, place, calls)
    return place.runs(compiled, keep=bool(donate)) if place else compiled


def _traced(
    f: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (), mesh: Mesh | None = None
) -> tuple[jax.stages.Traced, Place | None]:
    with numpyro.validation_enabled(False):  # traced values cannot be looked at: the checks would only be traced too
        traced = jax.jit(f, donate_argnums=donate).trace(*args)
        place = place_of(traced.jaxpr.consts, mesh)
        return (traced, None) if place is None else (place.traced(traced, args, donate), place)


def _compiled_once(traced: jax.stages.Traced, place: Place | None, calls: int = 1) -> jax.stages.Compiled:
    lowered, options = traced.lower(), options_for(traced.jaxpr, calls)
    config: Any = jax.config  # its options have no types
    devices = config.jax_default_device, jax.default_backend(), place and place.devices
    # shapes too, as unused arguments are not in the text
    program = hashlib.sha256(f"{devices}{options}{lowered.args_info}".encode())
    text = lowered.as_text().encode()  # constants are written out in full
    if place and place.mesh:
        check_same_program(place.mesh, hashlib.sha256(text).hexdigest())
    program.update(text)
    key = program.hexdigest()
    if key not in _compiled:
        _compiled[key] = compile_with(lowered, options)
        while len(_compiled) > PROGRAMS:
            _compiled.popitem(last=False)
    _compiled.move_to_end(key)
    return _compiled[key]


class Program:
    """``f``, compiled at its first call with arguments of these shapes; arrays are JAX's or NumPy's.

    Args:
        calls, mesh: as of ``compile_once``.
    """

    def __init__(self, f: Callable[..., Any], calls: int = 1, mesh: Mesh | None = None) -> None:
        self._f, self._calls, self._mesh = f, calls, mesh
        self._programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        shapes = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if shapes not in self._programs:
            self._programs[shapes] = compile_once(self._f, *args, calls=self._calls, mesh=self._mesh)
        return self._programs[shapes](*args)


def computed(f: Callable[..., Any], *args: Any, constants: bool = False, mesh: Mesh | None = None) -> Any:
    """What ``f(*args)`` returns, its arrays computed by one program, not by one for each operation.

    They are computed by their operations, after all, where f looks at the value of one, or gives a distribution that
    does not say what arrays it has.

    Args:
        constants: whether what does not depend on ``args`` is computed at once, as f may keep it for later.
        mesh: as of ``compile_once``.

    Returns:
        A tree of arrays, NumPyro's distributions, and anything else.
    """
    known: dict[str, Any] = {}

    def arrays(*args: Any) -> list[jax.Array]:
        with jax.ensure_compile_time_eval() if constants else nullcontext():
            known["leaves"], known["structure"] = jax.tree.flatten(f(*args), is_leaf=_hides_arrays)
        return [leaf for leaf in known["leaves"] if isinstance(leaf, jax.core.Tracer)]

    try:
        traced, place = _traced(arrays, *args, mesh=mesh)
        if traced.out_info:
            compiled = _compiled_once(traced, place)
            values = iter((place.runs(compiled, keep=False) if place else compiled)(*args))
        else:
            values = iter([])
    except (_HiddenArraysError, jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        return f(*args)
    leaves = [next(values) if isinstance(leaf, jax.core.Tracer) else leaf for leaf in known["leaves"]]
    return jax.tree.unflatten(known["structure"], leaves)


class _HiddenArraysError(Exception):
    """A distribution has arrays that it does not say."""


def _hides_arrays(node: Any) -> bool:
    """Whether a distribution does not say what arrays it has, as one may that was made without ``pytree_data_fields``.

    Raises:
        _HiddenArraysError: one of them is yet to be computed.
    """
    if not isinstance(node, Distribution):
        return False
    leaves, structure = jax.tree.flatten(node)
    told, own = vars(jax.tree.unflatten(structure, leaves)), vars(node)
    hidden = [own[name] for name in own if name not in told and not hasattr(type(node), name)]
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(hidden)):
        raise _HiddenArraysError
    return bool(hidden)


def random_key(seed: int, stream: int = 0) -> jax.Array:
    """A key, made without a program; streams of one seed have nothing to do with each other, nor with the host's."""
    words = np.random.SeedSequence((seed, stream)).generate_state(2)
    data: Any = words  # whose type asks for JAX's own array, as a cast would compile
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def check_not_jitted(model: Any) -> None:
    """Raises TypeError for a jitted model, whose sites no handler sees."""
    if isinstance(model, jax.stages.Wrapped):
        raise TypeError("the model is a jitted function, whose sites NumPyro does not see; give the function itself.")
