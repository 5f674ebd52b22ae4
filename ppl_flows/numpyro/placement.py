"""On which devices a program runs: those of the arrays that it closes over, or of a mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclass(frozen=True)
class Place:
    """Of one program.

    Attributes:
        arrays: that it closes over and that say where it runs: arguments, as others are written into the program, on
            every device.
        numbers: of these among all that it closes over.
        mesh: on which it runs; None: on one device, that of the arrays.
    """

    arrays: list[jax.Array]
    numbers: list[int]
    mesh: Mesh | None

    def traced(self, traced: jax.stages.Traced, args: tuple[Any, ...], donate: tuple[int, ...]) -> jax.stages.Traced:
        """The same, with the arrays as its first argument, and each result on every device of the mesh."""
        jaxpr, structure = traced.jaxpr, jax.tree.structure(traced.out_info)

        def run(arrays: list[jax.Array], *args: Any) -> Any:
            constants = [*jaxpr.consts]
            for number, array in zip(self.numbers, arrays, strict=True):
                constants[number] = array
            whole = jax.extend.core.ClosedJaxpr(jaxpr.jaxpr, constants)
            return jax.tree.unflatten(structure, jax.extend.core.jaxpr_as_fun(whole)(*jax.tree.leaves(args)))

        given = [1 + number for number in donate]
        everywhere = self.arrays[0].sharding if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(run, donate_argnums=given, out_shardings=everywhere).trace(self.arrays, *self._copies(args))

    def runs(self, compiled: Callable[..., Any], *, keep: bool) -> Callable[..., Any]:
        """The program as a function of the other arguments, whose results stay on all devices if they are to."""

        def run(*args: Any) -> Any:
            made = compiled(self.arrays, *self._copies(args))
            return made if keep else local(made)

        return run

    @property
    def devices(self) -> str:
        """What tells it from a program for other devices."""
        mesh = None if self.mesh is None else (self.mesh, self.mesh.device_ids.tolist())
        return f"{mesh}{[array.sharding for array in self.arrays]}"

    def _copies(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        placed: tuple[Any, ...] = (
            jax.device_put(args, self.arrays[0].sharding) if self.mesh is None else copies(args, self.mesh)
        )
        return placed


def place_of(constants: Sequence[Any], mesh: Mesh | None) -> Place | None:
    """Of a program that closes over these; None: wherever its arguments are.

    Args:
        mesh: that it is to run on; None: where the constants are, if anywhere but on the default device.

    Raises:
        ValueError: they are on several devices without a mesh, or on another one.
    """
    numbers = [number for number, constant in enumerate(constants) if _has_place(constant, mesh)]
    arrays = [constants[number] for number in numbers]
    for array in arrays:
        own = getattr(array.sharding, "mesh", None)
        if len(array.sharding.device_set) > 1 and own is None:
            raise ValueError(
                f"an array of shape {array.shape} is on several devices by {array.sharding}; put it there by a "
                "jax.sharding.NamedSharding."
            )
        mesh = mesh or own
        if own is not None and [*own.devices.flat] != [*(mesh or own).devices.flat]:
            raise ValueError(
                f"an array of shape {array.shape} is on {own}, and another one, or the fit, on {mesh}; put all on the "
                "devices of one mesh, in one order."
            )
    return None if mesh is None and not arrays else Place(arrays, numbers, mesh)


def _has_place(constant: Any, mesh: Mesh | None) -> bool:
    """Whether a program is to run where this array is."""
    if not isinstance(constant, jax.Array) or isinstance(constant, jax.core.Tracer):
        return False
    devices = constant.sharding.device_set
    if len(devices) > 1:
        return not (constant.is_fully_replicated and constant.is_fully_addressable)
    return mesh is None and bool(constant.committed) and devices != {_default_device()}


def _default_device() -> jax.Device:
    config: Any = jax.config  # its options have no types
    device = config.jax_default_device
    return device if isinstance(device, jax.Device) else jax.local_devices(backend=device)[0]


def beside(array: jax.Array, others: Any) -> jax.Array:
    """An array where these are, in a tree, if not on the default device."""
    devices = {device for leaf in jax.tree.leaves(others) if isinstance(leaf, jax.Array) for device in leaf.devices()}
    return jax.device_put(array, devices.pop()) if len(devices) == 1 and devices != {_default_device()} else array


def copies(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every process has, on every device of the mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    def one(array: Any) -> jax.Array:
        if isinstance(array, jax.Array) and array.sharding == everywhere:
            return array
        if not isinstance(array, jax.Array):
            array = np.asarray(array, jax.dtypes.canonicalize_dtype(np.asarray(array).dtype))
        parts = [jax.device_put(array, device) for device in mesh.local_devices]
        return jax.make_array_from_single_device_arrays(array.shape, everywhere, parts)

    return jax.tree.map(one, tree)


def local(tree: Any) -> Any:
    """What every device has, as arrays of this process alone."""

    def one(array: Any) -> Any:
        if not isinstance(array, jax.Array) or len(array.sharding.device_set) == 1:
            return array
        own = array.addressable_data(0)
        if jnp.issubdtype(own.dtype, jax.dtypes.prng_key):
            data: Any = np.asarray(jax.random.key_data(own))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(own))
        return jax.device_put(np.asarray(own))  # by NumPy, as it would be bound to its device

    return jax.tree.map(one, tree)


def processes_of(mesh: Mesh) -> list[int]:
    """Whose devices these are."""
    return sorted({device.process_index for device in mesh.devices.flat})


def largest(mesh: Mesh, number: int) -> int:
    """The largest of the numbers below 2^31 that the processes of a mesh give."""
    if len(processes_of(mesh)) == 1:
        return number
    line = Mesh(mesh.devices.ravel(), ("all",))
    each = NamedSharding(line, PartitionSpec("all"))
    said = jax.make_array_from_callback((line.size,), each, lambda _: np.array([number], np.int32))
    return int(local(_largest(said, NamedSharding(line, PartitionSpec()))))


@partial(jax.jit, static_argnums=1)
def _largest(said: jax.Array, everywhere: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(said.max(), everywhere)


def check_same_program(mesh: Mesh, digest: str) -> None:
    """Raises RuntimeError unless the processes of a mesh have come to the same program, as their numbers would mix."""
    number = int(digest[:7], 16)
    if largest(mesh, number) != -largest(mesh, -number):
        raise RuntimeError(
            "the processes of the mesh have not come to the same program: NumPyro goes through sets of names, whose "
            "order is another one in every process; start all with PYTHONHASHSEED=0 in their environment, and give "
            "their fits the same arguments."
        )
