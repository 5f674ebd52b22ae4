"""The bijections that every law runs on, found by themselves, and what the laws need to look at them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from foreign_flows import FourierFeatures, Givens, Markov, TanhStep

import ppl_flows as pf
from ppl_flows.core.params import map_params
from ppl_flows.core.support import REAL, is_real

DIM, CONTEXT = 4, 3
SHAPE = (2, 4, 2)  # of an image
NET = {"conditioner": pf.MLP((6, 5))}
CONV = pf.ConvNet(3)
SEQUENCE = (3, 2)  # length and size of its vectors
ATTENTION = pf.CausalAttention(4, heads=2, blocks=1)


def public(base: type) -> list[type]:
    found = (getattr(pf, name) for name in pf.__all__)
    return [c for c in found if isinstance(c, type) and issubclass(c, base) and not inspect.isabstract(c)]


def takes(callable_: Any, name: str) -> bool:
    return name in inspect.signature(callable_).parameters


def layers() -> list[pf.Bijection]:
    """Every class that stands on its own, with a context too where it takes one."""
    alone = [
        c for c in public(pf.Bijection) if takes(c, "dim") and not takes(c, "transformer") and not takes(c, "part")
    ]
    conditional = [c(DIM, context_dim=CONTEXT) for c in alone if takes(c, "context_dim")]
    return [c(DIM) for c in alone] + conditional


def image_layers() -> list[pf.Bijection]:
    """Every class of images and of sequences, with a context too where it takes one, and what is made of them."""
    h, w, c = SHAPE
    return [
        *(made(SHAPE) for made in public(pf.Bijection) if takes(made, "shape")),
        pf.Invertible1x1Conv(SHAPE, dense=True),
        pf.Coupling(SHAPE, conditioner=CONV, context_dim=CONTEXT),
        pf.Coupling(SHAPE, conditioner=pf.MLP((5,)), flip=True, mask="alternating", context_dim=CONTEXT),
        pf.Coupling(SHAPE, pf.RationalQuadratic(), mask="checkerboard", flip=True, conditioner=CONV),
        pf.MaskedAutoregressive(SEQUENCE, conditioner=ATTENTION, context_dim=CONTEXT),
        pf.MaskedAutoregressive(SEQUENCE, pf.RationalQuadratic(), flip=True, conditioner=ATTENTION),
        pf.PerPixel(
            pf.Chain([pf.Coupling(c, context_dim=CONTEXT, **NET), pf.ActNorm(c)]),
            height=h,
            width=w,
        ),
        pf.MultiScale(
            [
                pf.Chain([pf.Coupling((h // 2, w // 2, 4 * c), conditioner=CONV), pf.Inverse(pf.Squeeze(SHAPE))]),
                pf.Coupling((h // 2, w // 2, 2 * c), conditioner=CONV, context_dim=CONTEXT),
            ]
        ),
    ]


def arguments(name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the class of that name is made from: positional arguments, and those by name."""
    part = pf.Reverse(DIM)
    needed = {
        "AtContext": ((pf.Coupling(DIM, context_dim=CONTEXT, **NET),), {}),
        "Batched": ((part,), {"batch": (1,)}),
        "Chain": (([part],), {}),
        "Frozen": ((part,), {}),
        "Inverse": ((part,), {}),
        "MultiScale": (([pf.Squeeze(SHAPE)],), {}),
        "Partial": ((part,), {"dim": DIM + 1, "index": (0, 4, 1, 2)}),
        "PerPixel": ((part,), {"height": 2, "width": 3}),
        "Repeat": ((part,), {"times": 2}),
    }
    return needed.get(name, ((SHAPE,) if takes(getattr(pf, name), "shape") else (DIM,), {}))


def wired(wiring: type, transformer: type, context_dim: int = 0) -> pf.Bijection:
    return wiring(DIM, transformer(), context_dim=context_dim, **NET)


def wirings() -> list[pf.Bijection]:
    """Every transformer on its own, some in every wiring, Affine also with and without a context."""
    wide = [pf.Additive, pf.Affine, pf.MixtureLogisticCDF, pf.RationalQuadratic]
    return [
        *(wired(pf.Elementwise, t) for t in public(pf.Transformer)),
        *(wired(pf.Coupling, t, CONTEXT) for t in wide),
        *(wired(pf.MaskedAutoregressive, t) for t in wide),
        wired(pf.Elementwise, pf.Affine, CONTEXT),
        wired(pf.Coupling, pf.Affine),
        wired(pf.MaskedAutoregressive, pf.Affine, CONTEXT),
    ]


def other_wirings() -> list[pf.Bijection]:
    """The remaining pairs, for the two laws in which a wiring and a transformer could disagree."""
    pairs = (
        wired(wiring, t, context)
        for t in public(pf.Transformer)
        for wiring, context in ((pf.Coupling, CONTEXT), (pf.MaskedAutoregressive, 0))
    )
    return [b for b in pairs if b not in ALL]


def compositions() -> list[pf.Bijection]:
    made = pf.MaskedAutoregressive(DIM, pf.RationalQuadratic(), **NET)
    return [
        pf.Inverse(made),
        pf.Chain([pf.Coupling(DIM, **NET), pf.Reverse(DIM), pf.Inverse(pf.MaskedAutoregressive(DIM, **NET))]),
        pf.Chain([pf.Permute(DIM, seed=1), pf.Coupling(DIM, context_dim=CONTEXT, **NET)]),
        pf.Repeat(pf.Chain([pf.MaskedAutoregressive(DIM, context_dim=CONTEXT, **NET), pf.BatchNorm(DIM)]), times=2),
        pf.Coupling(DIM, pf.Affine(max_log_scale=1.0), mask="alternating", **NET),
        pf.Elementwise(DIM, pf.Affine(max_log_scale=None)),
        pf.Coupling(DIM, mask="random", flip=True, **NET),
        pf.Coupling(DIM, mask=(True, False, False, False), **NET),
        pf.MaskedAutoregressive(DIM, flip=True, **NET),
        pf.MaskedAutoregressive(DIM, flip=True, context_dim=CONTEXT, conditioner=pf.MLP(())),
        pf.MaskedAutoregressive(DIM, conditioner=pf.MLP(())),
        pf.MaskedAutoregressive(DIM, conditioner=pf.MLP(()), context_dim=CONTEXT),
        pf.MaskedAutoregressive(DIM, conditioner=pf.MLP((2,))),  # fewer units than degrees
        pf.MaskedAutoregressive(1, pf.RationalQuadratic(), context_dim=CONTEXT, **NET),
        pf.Coupling(DIM, conditioner=pf.MLP((6, 6), residual=True), context_dim=CONTEXT),
        pf.MaskedAutoregressive(
            DIM, pf.RationalQuadratic(), flip=True, conditioner=pf.MLP((5, 5), residual=True), context_dim=CONTEXT
        ),
        pf.MaskedAutoregressive(DIM, conditioner=ATTENTION, context_dim=CONTEXT),
        pf.Partial(pf.Coupling(2, pf.RationalQuadratic(), context_dim=CONTEXT, **NET), dim=DIM, index=(3, 1)),
        pf.Chain([pf.Coupling(DIM, **NET), pf.Elementwise(DIM, pf.Tanh())]),
        pf.Chain([pf.Inverse(pf.Elementwise(DIM, pf.Sigmoid())), pf.Coupling(DIM, **NET), partly_bounded()]),
        pf.Coupling(DIM, pf.Softplus(), mask="alternating", **NET),
        pf.Repeat(pf.Chain([pf.Shuffle(DIM), pf.Frozen(pf.Coupling(DIM, context_dim=CONTEXT, **NET))]), times=2),
        pf.Chain({"first": pf.Coupling(DIM, **NET), "second": pf.Reverse(DIM)}),
        pf.AtContext(pf.Chain([pf.MaskedAutoregressive(DIM, context_dim=CONTEXT, **NET), pf.ActNorm(DIM)])),
    ]


def foreign() -> list[pf.Bijection]:
    """What a package of somebody else adds: a layer, and a transformer and conditioners in the wirings."""
    return [
        Givens(DIM),
        pf.Coupling(DIM, TanhStep(), conditioner=FourierFeatures(5), context_dim=CONTEXT),
        pf.Coupling(SHAPE, conditioner=FourierFeatures(3), context_dim=CONTEXT),
        pf.Elementwise(DIM, TanhStep(), conditioner=FourierFeatures(5), context_dim=CONTEXT),
        pf.MaskedAutoregressive(DIM, TanhStep(), conditioner=Markov(5), context_dim=CONTEXT),
        pf.MaskedAutoregressive(SEQUENCE, pf.RationalQuadratic(), flip=True, conditioner=Markov(5)),
        pf.Repeat(pf.Chain([Givens(DIM), pf.real_nvp(DIM, hidden=(5,), flow_layers=2)]), times=2),
    ]


def partly_bounded() -> pf.Bijection:
    """Onto ``(0, 1) x R x (0, inf)^2``."""
    positive = pf.MaskedAutoregressive(2, pf.Softplus(), **NET)
    return pf.Chain(
        [
            pf.Partial(pf.Elementwise(1, pf.Sigmoid()), dim=DIM, index=(0,)),
            pf.Partial(positive, dim=DIM, index=(3, 2)),
        ]
    )


def recipes() -> list[pf.Bijection]:
    made = [getattr(pf, name) for name in pf.__all__]
    found = [f for f in made if inspect.isfunction(f) and takes(f, "dim")]
    return [f(dim) for f in found for dim in (1, DIM)] + [f(DIM, context_dim=CONTEXT) for f in found]


ALL = [*layers(), *wirings(), *compositions(), *image_layers(), *foreign()]
OTHERS = other_wirings()


def name_of(bijection: Any) -> str:
    return repr(bijection).replace(" ", "")[:100]


def perturbed(bijection: pf.Bijection, scale: float = 0.2) -> Any:
    """Parameters away from the start: at the identity a wrong log_det passes."""
    rng = np.random.default_rng(7)
    params = bijection.init(np.random.default_rng(3))
    orders = ("state.order", "state.back")  # of Shuffle: another permutation is no small change
    return map_params(lambda n, a: a if n.endswith(orders) else a + scale * rng.standard_normal(a.shape), params)


def precision(bijection: pf.Bijection) -> float:
    """How far results may be from exact: 0, or for a continuous flow what its solver leaves of its tolerance."""
    return 100 * max(bijection.rtol, bijection.atol) if isinstance(bijection, pf.NeuralODE) else 0.0


def points(bijection: pf.Bijection, rows: int = 5) -> np.ndarray:
    """Points on the base side."""
    return inside(bijection.domain, 1.5 * np.random.default_rng(5).standard_normal((rows, *bijection.event_shape)))


def targets(bijection: pf.Bijection, rows: int = 5) -> np.ndarray:
    """Points on the target side."""
    return inside(bijection.codomain, 1.5 * np.random.default_rng(5).standard_normal((rows, *bijection.output_shape)))


def inside(support: Any, v: np.ndarray) -> np.ndarray:
    """Real vectors moved into the support."""
    shape, v = v.shape, v.reshape(len(v), -1).copy()
    for i, (low, high) in enumerate(interval or REAL for interval in support or ()):
        if np.isfinite(high):
            v[:, i] = low + (high - low) / (1 + np.exp(-v[:, i]))
        elif np.isfinite(low):
            v[:, i] = low + np.exp(v[:, i])
    return v.reshape(shape)


def onto_the_reals(bijection: pf.Bijection) -> bool:
    """Whether it maps real vectors onto real vectors; on a circle or an interval far points have no place."""
    return is_real(bijection.domain) and is_real(bijection.codomain)


def clipped(support: Any, v: np.ndarray) -> np.ndarray:
    """Real vectors, those outside the support replaced by its ends."""
    ends = np.array([interval or REAL for interval in support or (REAL,)])
    return np.clip(v.reshape(len(v), -1), ends[:, 0], ends[:, 1]).reshape(v.shape)


def context(bijection: pf.Bijection, rows: int = 5) -> np.ndarray | None:
    size = bijection.context_dim
    return np.random.default_rng(6).standard_normal((rows, size)) if size else None


@dataclass(frozen=True)
class Library:
    """One array library: how to get arrays in and out."""

    name: str

    def array(self, a: Any, dtype: str = "float64") -> Any:
        if a is None:
            return None
        a = np.asarray(a, dtype=dtype)
        return {"numpy": np.asarray, "torch": torch.tensor, "jax": jnp.asarray}[self.name](a)

    def params(self, params: Any, dtype: str = "float64") -> Any:
        return map_params(lambda _, a: self.array(a, dtype), params)

    def run(self, f: Any, *args: Any) -> Any:
        """f's result as NumPy arrays; under ``jax.jit`` in JAX."""
        out = jax.jit(f)(*args) if self.name == "jax" else f(*args)
        return tuple(np.asarray(o.detach() if self.name == "torch" else o) for o in out)


NUMPY, TORCH, JAX = LIBRARIES = [Library("numpy"), Library("torch"), Library("jax")]
