"""Runs a little of an installed ``ppl_flows``, as an extra promises it: ``make release-check``.

    python tests/smoke.py none|pyro|numpyro|arviz|ode|all

Started away from the checkout, so that what is imported is what was installed.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

import ppl_flows as pf


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def core() -> None:
    """A flow in NumPy, there and back, and through a file."""
    flow = pf.nsf(2)
    params = flow.init(np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(5, 2))
    y, log_det = flow.forward(params, x)
    back, inverse_log_det = flow.inverse(params, y)
    np.testing.assert_allclose(back, x, atol=1e-8)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "flow.safetensors")
        pf.save(path, flow, params)
        again, loaded = pf.load(path)
    assert again == flow
    np.testing.assert_array_equal(again.forward(loaded, x)[0], y)


def fit_in(language: str) -> object:
    """A fit of a short model, which is near enough to be judged."""
    if language == "pyro":
        import pyro as host
        from torch import tensor as array

        from ppl_flows.pyro import AutoFlow, fit
    else:
        import numpyro as host
        from jax.numpy import array

        from ppl_flows.numpyro import AutoFlow, fit
    from importlib import import_module

    dist = import_module(f"{host.__name__}.distributions")

    def model(y):
        mu = host.sample("mu", dist.Normal(0.0, 5.0))
        with host.plate("row", len(y)):
            host.sample("y", dist.Normal(mu, 1.0), obs=y)

    result = fit(
        model, AutoFlow(model), array([1.0, 2.0, 3.0]), steps=200, num_particles=16, draws=1_000, progress=False
    )
    assert result.grade == "good", result.verdict
    assert abs(float(result.sample(1_000)["mu"].mean()) - 1.97) < 0.1, "the exact mean is 6 / 3.04"
    return result


def plots() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from ppl_flows.plots import plot_warped_grid

    flow = pf.real_nvp(2)
    params = flow.init(np.random.default_rng(0))
    axes = plot_warped_grid(flow, params, panels=2)
    assert len(axes) == 2, "one for the base, one for the target"


def ode() -> None:
    """A continuous flow in both frameworks."""
    import jax
    import torch

    flow = pf.ffjord(2)
    in_torch = flow.to_torch().sample((3,))
    in_jax = flow.to_jax().sample(jax.random.key(0), (3,))
    for draws in (in_torch.detach(), in_jax):
        assert draws.shape == (3, 2)
        assert np.isfinite(np.asarray(draws)).all()
    assert torch.isfinite(flow.to_torch().log_prob(in_torch)).all()


def main(extra: str) -> None:
    core()
    languages = {"pyro": ("pyro",), "numpyro": ("numpyro",), "all": ("pyro", "numpyro")}.get(extra, ())
    results = [fit_in(language) for language in languages]
    if extra in ("none", "arviz", "numpyro"):
        assert not installed("torch"), "this extra needs no torch"
    if extra in ("none", "arviz", "pyro"):
        assert not installed("jax"), "this extra needs no JAX"
    if extra in ("arviz", "all"):
        plots()
    if extra == "all":
        for result in results:
            assert result.to_arviz()["posterior"]["mu"].dims == ("chain", "draw")
    if extra == "ode":
        ode()
    print(f"smoke test of [{extra}] passed: ppl_flows {pf.__version__} at {Path(pf.__file__).parent}")


if __name__ == "__main__":
    main(sys.argv[1])
