"""Several devices: what of a fit is divided over a mesh, and what its processes agree on."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpyro.infer import ELBO
from numpyro.primitives import Messenger

from ppl_flows.numpyro.compile_once import Program
from ppl_flows.numpyro.placement import largest, processes_of

ROWS = "rows"
GATHERED = 4_096  # rows that are on every device at once, on their way to the host
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Split:
    """Which axes of a mesh divide what.

    Attributes:
        particles, rows: names of axes.
    """

    mesh: Mesh
    particles: tuple[str, ...]
    rows: tuple[str, ...]

    @classmethod
    def of_fit(cls, mesh: Any, args: Any) -> Split | None:
        """The axis called ``"rows"``, and those that divide an argument already, divide rows; all others the particles.

        Args:
            mesh: None: that of the arguments which are divided, if any.
            args: of the model, in a tree.

        Raises:
            TypeError: it is no mesh.
            ValueError: it has no device of this process; an argument is divided over another mesh.
        """
        mesh, divided = _one_mesh(mesh, args)
        if mesh is None:
            return None
        rows = {ROWS, *(axis for array in divided for axis in _axes(array.sharding))}
        names: tuple[str, ...] = mesh.axis_names
        return cls(mesh, tuple(n for n in names if n not in rows), tuple(n for n in names if n in rows))

    @classmethod
    def of_density(cls, mesh: Any, data: Any) -> Split | None:
        """All axes divide rows.

        Raises:
            TypeError, ValueError: as ``of_fit``.
        """
        mesh, _ = _one_mesh(mesh, data)
        return None if mesh is None else cls(mesh, (), mesh.axis_names)

    def check(self, num_particles: int) -> None:
        """Raises ValueError for a single particle, which no axis can divide."""
        if num_particles == 1 and self._count(self.particles) > 1:
            raise ValueError(
                f"mesh: num_particles=1 cannot be divided over the axes {self.particles}; pass more particles, or name "
                f"the axis {ROWS!r}, over which the rows of sub-sampled plates are divided."
            )

    def over_particles(self, tree: Any) -> Any:
        """Arrays with the particles in front, divided."""
        return self._over(self.particles, tree)

    def over_rows(self, tree: Any) -> Any:
        """Arrays with rows in front, divided."""
        return self._over(self.rows, tree)

    def everywhere(self, tree: Any) -> Any:
        """Arrays that each device computes as a whole."""
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, sharding), tree)

    def elbo(self, elbo: ELBO) -> ELBO:
        """The same, whose particles are divided."""
        new: Any = copy(elbo)
        if hasattr(new, "inner"):
            new.inner = self.elbo(new.inner)
        whole = new.vectorize_particles_fn
        new.vectorize_particles_fn = lambda f, keys: whole(f, self.over_particles(keys))
        return new

    def place(self, tree: Any) -> Any:
        """Arrays that every process has, their rows divided, so that no device has all; those divided already as they
        are.

        Rows are repeated behind the last, where their number is no multiple of the devices.
        """
        sharding, n = NamedSharding(self.mesh, PartitionSpec(self.rows)), self._count(self.rows)

        def one(array: Any) -> jax.Array:
            if is_divided(array):
                return array
            rows = np.asarray(array)
            shape = (-(-len(rows) // n) * n, *rows.shape[1:])

            def part(index: Any) -> np.ndarray:
                return rows[np.arange(*index[0].indices(shape[0])) % len(rows)]

            return jax.make_array_from_callback(shape, sharding, part)

        return jax.tree.map(one, tree)

    def _over(self, axes: tuple[str, ...], tree: Any) -> Any:
        if not axes:
            return tree
        sharding = NamedSharding(self.mesh, PartitionSpec(axes))
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, sharding), tree)

    def _count(self, axes: tuple[str, ...]) -> int:
        return int(np.prod([self.mesh.shape[name] for name in axes]))


class OverRows(Messenger):
    """Around a model or a guide: what a sub-sampled plate has drawn is divided, and so what is made of its rows.

    The draw itself is not, as it goes one by one through the indices of all rows.
    """

    def __init__(self, fn: Callable[..., Any], split: Split) -> None:
        super().__init__(fn)
        self._split = split

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate" and msg["args"][1] is not None:
            msg["value"] = self._split.over_rows(self._split.everywhere(msg["value"]))


def is_divided(array: Any) -> bool:
    """Whether an array is on several devices."""
    return isinstance(array, jax.Array) and len(array.sharding.device_set) > 1


def spans_processes(array: Any) -> bool:
    """Whether parts of an array are in other processes alone."""
    return isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated)


def is_first(split: Split | None) -> bool:
    """Whether this process is the one that shows progress and writes checkpoints."""
    return split is None or jax.process_index() == processes_of(split.mesh)[0]


def agreed(split: Split | None, number: int) -> int:
    """The largest of these numbers of all processes of the mesh, as clocks, signals and files are their own."""
    return number if split is None else largest(split.mesh, number)


def jitted(f: Callable[..., Any], split: Split | None) -> Callable[..., Any]:
    """``jax.jit(f)``, or a program for the mesh."""
    return jax.jit(f) if split is None else Program(f, mesh=split.mesh)


def on_host(array: Any) -> np.ndarray:
    """An array in NumPy, in every process, though it be divided over devices of several."""
    if not spans_processes(array):
        return np.asarray(array)
    take, n = Program(lambda rows: array[rows]), len(array)
    size = min(n, GATHERED)
    parts = [np.asarray(take(np.arange(first, first + size) % n)) for first in range(0, n, size)]
    return np.concatenate(parts)[:n]


def with_ambient_mesh(f: Callable[P, R]) -> Callable[P, R]:
    """f, whose ``mesh`` is that of ``jax.set_mesh`` where it is given none."""

    @wraps(f)
    def given(*args: P.args, **kwargs: P.kwargs) -> R:
        get_mesh = getattr(jax.sharding, "get_mesh", None)  # of later versions than the oldest
        ambient = None if get_mesh is None else get_mesh()
        if ambient is None or ambient.empty:
            return f(*args, **kwargs)
        if kwargs.get("mesh") is None:
            kwargs["mesh"] = ambient
        with jax.set_mesh(Mesh(np.empty((), object), ())):  # what is not divided is computed once, not by every device
            return f(*args, **kwargs)

    return given


def automatic(tree: Any) -> Any:
    """Arrays on meshes whose sharding is explicit, where models are not written for it, as on ordinary ones."""

    def one(leaf: Any) -> Any:
        mesh = getattr(getattr(leaf, "sharding", None), "mesh", None)
        if not isinstance(leaf, jax.Array) or mesh is None:
            return leaf
        return jax.device_put(leaf, NamedSharding(_automatic(mesh), leaf.sharding.spec))  # type: ignore[attr-defined]

    return jax.tree.map(one, tree)


def _one_mesh(mesh: Any, args: Any) -> tuple[Mesh | None, list[jax.Array]]:
    """The mesh of a fit, and arrays that are divided over it already."""
    divided = [leaf for leaf in jax.tree.leaves(args) if is_divided(leaf) and not leaf.is_fully_replicated]
    meshes = [_automatic(getattr(array.sharding, "mesh", array.sharding)) for array in divided]
    mesh = _automatic(mesh) if mesh is not None else meshes[0] if meshes else None
    for array, own in zip(divided, meshes, strict=True):
        if own != mesh:
            raise ValueError(
                f"an array of shape {array.shape} is divided over {own}, and the fit over {mesh}; use one mesh for "
                "both."
            )
    return mesh, divided


def _automatic(mesh: Any) -> Mesh:
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, such as jax.make_mesh((jax.device_count(),), ('particles',)), got "
            f"{mesh!r}."
        )
    if jax.process_index() not in processes_of(mesh):
        raise ValueError("mesh has no device of this process; fit only in processes whose devices it has.")
    return Mesh(mesh.devices, mesh.axis_names)


def _axes(sharding: Any) -> set[str]:
    """Over which an array is divided."""
    spec = sharding.spec if isinstance(sharding, NamedSharding) else ()
    return {name for part in spec if part is not None for name in (part if isinstance(part, tuple) else (part,))}
