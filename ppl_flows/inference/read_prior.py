"""Location and scale of a host's distribution, on the scale where its values are unconstrained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array
from ppl_flows.inference.site_priors import Independent, Joint, Prior, Walk

HOSTS = ("numpyro.distributions", "pyro.distributions", "torch.distributions")
WRAPPERS = ("MaskedDistribution", "ExpandedDistribution", "Independent")

REAL = ("Normal", "StudentT", "Cauchy", "Laplace", "Logistic", "Gumbel", "SoftLaplace")
Parameters = Callable[[Any, Any], tuple[Array, Array]]
# of the logarithm: exactly, or that of a normal that is near
POSITIVE: dict[str, Parameters] = {
    "LogNormal": lambda fn, xp: (fn.loc, fn.scale),
    "HalfNormal": lambda fn, xp: (xp.log(fn.scale), 1.0),
    "HalfCauchy": lambda fn, xp: (xp.log(fn.scale), 1.0),
    "Exponential": lambda fn, xp: (-xp.log(fn.rate), 1.0),
    "Gamma": lambda fn, xp: (xp.log(fn.concentration / fn.rate), _log_scale(fn.concentration, xp)),
    "InverseGamma": lambda fn, xp: (xp.log(fn.rate / fn.concentration), _log_scale(fn.concentration, xp)),
    "Weibull": lambda fn, xp: (xp.log(fn.scale), 1 / fn.concentration),
}


def read_prior(fn: Any, kind: str | None, shape: tuple[int, ...], like: Array) -> Prior | None:
    """Of a site's unconstrained values, of this shape; None where it has no location and scale that is known here.

    Args:
        fn: the site's distribution.
        kind: of its support: ``"real"``, or ``"log"`` where its values are exponentials of the unconstrained ones.
        like: an array of the host's.
    """
    xp: Any = namespace(like)
    while type(fn).__name__ in WRAPPERS:
        fn = fn.base_dist
    name = type(fn).__name__
    if not type(fn).__module__.startswith(HOSTS):
        return None

    def full(a: Any, *more: int) -> Array:
        a = a if hasattr(a, "shape") else a + 0 * like.reshape((-1,))[0]  # a number, as NumPyro leaves it
        return xp.broadcast_to(a, (*shape, *more))

    if kind == "real" and name == "GaussianRandomWalk":
        scale = full(xp.asarray(fn.scale)[..., None])  # NumPyro's alone
        return Walk(0 * scale, 0 * scale + 1, scale)
    if kind == "real" and name == "MultivariateNormal":
        return Joint(full(fn.loc), full(fn.scale_tril, shape[-1]))
    if kind == "real" and name in REAL:
        return Independent(full(fn.loc), full(fn.scale))
    if kind == "log" and name in POSITIVE:
        loc, scale = POSITIVE[name](fn, xp)
        return Independent(full(loc), full(0 * loc + scale))
    return None


def kind_of(image: np.ndarray, numbers: np.ndarray) -> str | None:
    """How a transform leads from real numbers to a support, as ``read_prior`` asks: its ``kind``, or None.

    Args:
        image: what it makes of these numbers.
    """
    if image.shape != numbers.shape:
        return None
    images = {"real": numbers, "log": np.exp(numbers)}
    return next((kind for kind, expected in images.items() if np.allclose(image, expected, rtol=1e-5)), None)


def _log_scale(concentration: Array, xp: Any) -> Array:
    """About the standard deviation of a gamma variable's logarithm."""
    return xp.sqrt(concentration + 0.5) / concentration
