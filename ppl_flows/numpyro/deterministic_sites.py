"""The model's deterministic sites, of draws of its latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from numpyro import handlers


def deterministic_sites_of(
    draw: dict[str, jax.Array], *, params: dict[str, Any], model: Callable[..., Any]
) -> dict[str, jax.Array]:
    """The model's deterministic sites at a draw of its latents; none where it draws others, as from the prior."""
    run = handlers.seed(handlers.substitute(model, {**params, **draw}), 0)
    trace = handlers.trace(run).get_trace()
    drawn = {n for n, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}
    if not drawn <= draw.keys():
        return {}
    return {name: site["value"] for name, site in trace.items() if site["type"] == "deterministic"}
