"""What ``AutoLocalFlow`` of both shells shares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.bijections import Elementwise
from ppl_flows.combinators.chain import Chain
from ppl_flows.conditioners import MLP
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import POSITIVE, check_choice, checked_seed, real_number
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.types import Params
from ppl_flows.inference.auto_flow import QUALITIES
from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.recipes import guide_flow
from ppl_flows.transformers import Affine


def check_local(features: Any, quality: str, start: str, init_scale: float, seed: int) -> None:
    """Raises ValueError, or TypeError for those of the wrong kind, for options that ``AutoLocalFlow`` does not have."""
    check_choice("AutoLocalFlow", "quality", quality, [*QUALITIES])
    checked_seed("AutoLocalFlow", seed)
    if not isinstance(start, str) or start not in ("auto", "init"):
        raise ValueError(f"AutoLocalFlow: start must be auto or init, got {start!r}.")
    if features is not None and np.ndim(features) != 2:
        raise ValueError(f"AutoLocalFlow: features must have shape (rows, size), got {np.shape(features)}.")
    real_number("AutoLocalFlow", "init_scale", init_scale, *POSITIVE)


def local_sites(plate: str, stacks: dict[str, list[tuple[str, int]]], rows: int, features: Any) -> list[str]:
    """The latent sites in the plate; stacks are the plates ``(name, dim)`` around each latent site.

    Raises:
        ValueError: there are none, or they are not directly in the plate, or features have another number of rows.
    """
    found = [name for name, stack in stacks.items() if plate in [frame for frame, _ in stack]]
    if not found:
        raise ValueError(f"AutoLocalFlow: no latent site is in a plate named {plate!r}; their plates are {stacks}.")
    for name in found:
        if stacks[name] != [(plate, -1)]:
            raise ValueError(
                f"AutoLocalFlow: latent {name!r} must be in plate {plate!r} only, with dim=-1, got {stacks[name]}; "
                "write what lies in plates inside it as one vector with to_event."
            )
    if features is not None and len(features) != rows:
        raise ValueError(f"AutoLocalFlow: plate {plate!r} has {rows} rows, but features {len(features)}.")
    return found


def local_bijection(recipe: Callable[..., Bijection] | None, quality: str, dim: int, context_dim: int) -> Bijection:
    """The conditional flow of the local latents and, on the target side, an affine map linear in the context.

    Raises:
        ValueError: the recipe's flow has another event size, or another context.
    """
    make = partial(guide_flow, flow_layers=QUALITIES[quality].flow_layers) if recipe is None else recipe
    flow = make(dim, context_dim=context_dim)
    if (flow.event_shape, flow.output_shape, flow.context_dim) != ((dim,), (dim,), context_dim):
        raise ValueError(
            f"AutoLocalFlow: a row has {dim} latent dimensions and a context of {context_dim}, but local_flow maps "
            f"shape {flow.event_shape} with a context of {flow.context_dim}."
        )
    affine = Elementwise(dim, Affine(max_log_scale=None), context_dim=context_dim, conditioner=MLP(()))
    return Chain({"flow": flow, "affine": affine})


def identity_flow(dim: int) -> Bijection:
    """A flow for a guide of which only the start is wanted."""
    return Elementwise(dim, Affine())


class LocalStart(NamedTuple):
    """Where an ``AutoLocalFlow`` starts: local latents given the globals z are normal around ``loc + z @ weight``."""

    loc: np.ndarray  # (rows, dim)
    log_scale: np.ndarray  # (rows, dim)
    weight: np.ndarray  # (global_dim, dim), the same for all rows
    globals_: str | Gaussian = "init"  # the ``start`` of their guide

    @classmethod
    def around(cls, loc: np.ndarray, scale: float, rows: int) -> LocalStart:
        """All rows alike, whatever the globals."""
        loc = np.tile(loc, (rows, 1))
        return cls(loc, np.full(loc.shape, np.log(scale)), np.zeros((0, loc.shape[1])))

    @classmethod
    def from_gaussian(cls, gaussian: Gaussian, places: dict[str, np.ndarray], local: list[str]) -> LocalStart:
        """From a Gaussian of all latents, by the places of every site's elements in its vector, those in rows named."""
        locals_ = np.concatenate([places[n].reshape(len(places[n]), -1) for n in local], axis=-1)
        globals_ = np.concatenate(
            [np.ravel(p) for n, p in places.items() if n not in local] or [np.zeros(0, dtype=int)]
        )
        mean, factor = gaussian.mean, gaussian.factor
        if factor.ndim == 1:
            weight, scale = np.zeros((len(globals_), locals_.shape[1])), factor[locals_]
            own = factor[globals_]
        else:
            own = np.asarray(np.linalg.qr(factor[globals_].T, mode="r")).T
            own = own * np.sign(np.diag(own))  # a Cholesky factor of the globals' covariance
            covariances = np.einsum("gn,rln->grl", factor[globals_], factor[locals_]).mean(1)
            weight = np.linalg.solve(own @ own.T, covariances)
            scale = np.linalg.norm(factor[locals_] - np.einsum("gl,gn->ln", weight, factor[globals_]), axis=-1)
        loc = mean[locals_] - mean[globals_] @ weight
        return cls(loc, np.log(scale), weight, Gaussian(mean[globals_], own))


def local_params(bijection: Bijection, start: LocalStart, seed: int, *, free: bool) -> Params:
    """``{"flow": of local_bijection, "rows": (rows, 2 * dim)}``, started there.

    The numbers of a free row are added to location and log scale, and known to the flow. Without free rows, which
    start at their mean, there is no ``"rows"``.
    """
    flow, numbers = dict(initial_params(bijection, seed)), np.stack([start.loc, start.log_scale], axis=-1)
    numbers = numbers.reshape(len(numbers), -1)
    weight = np.zeros_like(flow["affine"]["net"]["w0"])
    weight[: len(start.weight), ::2] = start.weight
    if free:
        weight[-numbers.shape[1] :] = np.eye(numbers.shape[1])
    flow["affine"] = {"net": {"w0": weight, "b0": numbers.mean(0)}}
    return {"flow": flow, "rows": numbers - numbers.mean(0)} if free else {"flow": flow}
