"""Writes the golden files of fits: ``python tests/golden/write_fits.py FOLDER``, once for every format of files.

``expected.json`` has of each file log densities of its flow at two points, and its losses' sum.
"""

import json
import sys
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pyro.distributions
import torch

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro

SHORT = {"steps": 20, "progress": False}
FITTED = {"draws": 200, "steps": 20}


def small(dim, context_dim=0):
    return pf.maf(dim, flow_layers=1, hidden=(4,), context_dim=context_dim)


def model(y):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    p = numpyro.sample("p", dist.Dirichlet(np.ones(3)))
    numpyro.sample("y", dist.Normal(p[0], scale), obs=y)


def pyro_model(y):
    scale = pyro.sample("scale", pyro.distributions.HalfNormal(torch.tensor(2.0)))
    p = pyro.sample("p", pyro.distributions.Dirichlet(torch.ones(3)))
    pyro.sample("y", pyro.distributions.Normal(p[..., 0], scale), obs=y)


def hierarchy(y):
    """Its second site is placed by its prior."""
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    theta = numpyro.sample("theta", dist.Normal(np.array([0.0, 1.0]), scale).to_event(1))
    numpyro.sample("y", dist.Normal(theta, 1.0).to_event(1), obs=y)


def pyro_hierarchy(y):
    scale = pyro.sample("scale", pyro.distributions.HalfNormal(torch.tensor(2.0)))
    theta = pyro.sample("theta", pyro.distributions.Normal(torch.tensor([0.0, 1.0]), scale).to_event(1))
    pyro.sample("y", pyro.distributions.Normal(theta, 1.0).to_event(1), obs=y)


HIERARCHY_Y = np.array([0.5, -1.0])


def log_densities_of_hierarchy(path) -> list[float]:
    """Of the latent vector at two points, by the guide that a file holds."""
    guide, result = ppl_flows.numpyro.AutoFlow.load(path, hierarchy, HIERARCHY_Y)
    return guide.get_posterior(result.params).log_prob(np.linspace(-1, 1, 6).reshape(2, 3)).tolist()


def main() -> None:
    folder, rows = Path(sys.argv[1]), np.random.default_rng(0).standard_normal((50, 2))
    guide = ppl_flows.numpyro.AutoFlow(model, small)
    ppl_flows.numpyro.fit(model, guide, 0.3, draws=100, **SHORT).save(folder / "fit_numpyro.safetensors")
    guide, y = ppl_flows.pyro.AutoFlow(pyro_model, small), torch.tensor(0.3)
    result = ppl_flows.pyro.fit(pyro_model, guide, y, draws=100, **SHORT)
    result.save(folder / "fit_pyro.safetensors")
    pf.save(folder / "prior.safetensors", result.as_prior(["p", "scale"], reweighted=False, flow=small, **FITTED))
    density = ppl_flows.numpyro.fit_density(small(2), rows, base=pf.StudentT(2), validation=0.2, **SHORT)
    density.save(folder / "density.safetensors")
    amortized = ppl_flows.numpyro.fit_amortized(model, 0.3, flow=small, simulations=200, **SHORT)
    amortized.save(folder / "amortized.safetensors")
    likelihood = ppl_flows.pyro.fit_likelihood(pyro_model, y, flow=small, simulations=200, **SHORT)
    likelihood.save(folder / "likelihood.safetensors")
    guide = ppl_flows.numpyro.AutoFlow(hierarchy, small, informed=True)
    ppl_flows.numpyro.fit(hierarchy, guide, HIERARCHY_Y, draws=100, **SHORT).save(folder / "informed.safetensors")
    (folder / "informed.json").write_text(json.dumps(log_densities_of_hierarchy(folder / "informed.safetensors")))
    expected = {path.stem: summary(pf.load(path)) for path in sorted(folder.glob("*.safetensors"))}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))


def summary(saved) -> list[float]:
    """Of a fit, a density, an amortised fit, a likelihood or a prior: two log determinants, and the losses' sum."""
    density = getattr(saved, "density", saved)
    flow, y = density.bijection, np.linspace(-1, 1, 2 * density.bijection.event_shape[0]).reshape(2, -1)
    context = np.ones((2, flow.context_dim)) if flow.context_dim else None
    return [*map(float, flow.inverse(density.params, y, context)[1]), float(np.sum(getattr(density, "losses", 0.0)))]


if __name__ == "__main__":
    main()
