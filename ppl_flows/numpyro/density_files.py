"""``DensityFit.save``, and ``load_density``."""

from __future__ import annotations

import jax
import numpyro

import ppl_flows
from ppl_flows.core.params import map_params
from ppl_flows.files import load, save_fit
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.results import Path
from ppl_flows.inference.saved_fits import SavedDensity
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.base_distribution import BaseDistribution
from ppl_flows.numpyro.distribution import Flow


def draw_rows(flow: Flow, num_samples: int, seed: int) -> jax.Array:
    """Draws of a fitted flow, ``(num_samples, *batch, *event)``."""
    return flow.sample(jax.random.key(seed), (num_samples,))


def save_density(fit: DensityFit, path: Path) -> None:
    """Writes a density to a file."""
    save_fit(path, saved_density(fit))


def saved_density(fit: DensityFit) -> SavedDensity:
    """What a file has of a density."""
    return SavedDensity(
        bijection=fit.bijection,
        params=fit.params,
        base=fit.base,
        base_params=fit.base_params,
        losses=fit.losses,
        validation_losses=fit.validation_losses,
        skipped=int(fit.skipped),
        interrupted=bool(fit.interrupted),
        language="NumPyro",
        versions={"ppl_flows": ppl_flows.__version__, "numpyro": numpyro.__version__, "jax": jax.__version__},
    )


def load_density(path: Path) -> DensityFit:
    """The density that ``fit.save(path)`` has written, in either language.

    Args:
        path: the file, written by either language.

    Returns:
        A ``DensityFit``.

    Raises:
        ValueError: a file of something else.
        FileFormatError: a ValueError; the file is damaged, or newer.
        OSError: what the system refuses.

    Example:
        >>> import tempfile, numpy as np, ppl_flows as pf
        >>> from ppl_flows.numpyro import fit_density, load_density
        >>> path = tempfile.mkdtemp() + "/density.safetensors"
        >>> data = np.random.default_rng(0).normal(size=(100, 2))
        >>> fit_density(pf.TriangularAffine(2), data, steps=2, progress=False).save(path)
        >>> load_density(path).bijection.event_shape
        (2,)
    """
    saved = load(path)
    if not isinstance(saved, SavedDensity):
        raise ValueError(f"{str(path)!r} holds no density; pf.load gives what it holds.")
    return density_of(saved)


def density_of(saved: SavedDensity) -> DensityFit:
    """The density that was saved."""
    params = map_params(lambda _, a: to_array(a), saved.params)
    base_params = None if saved.base_params is None else map_params(lambda _, a: to_array(a), saved.base_params)
    base = None if saved.base is None else BaseDistribution(saved.base, base_params)
    return DensityFit(
        losses=saved.losses,
        skipped=saved.skipped,
        bijection=saved.bijection,
        params=params,
        flow=Flow(saved.bijection, params, base=base),
        base=saved.base,
        base_params=base_params,
        validation_losses=saved.validation_losses,
        interrupted=saved.interrupted,
        _draw=draw_rows,
        _write=save_density,
    )
