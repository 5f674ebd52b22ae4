"""Checks the posteriors: both languages give one density, and it integrates to the log evidence that is stated.

For every target: the log joint and the log Jacobian of the host's ``biject_to`` of both languages at the same points,
one by one and as Pyro's vectorised particles; the stated moments from the published draws; and log Z by importance
sampling from a Student-t in unconstrained coordinates. float64 throughout.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import torch
from numpyro import handlers
from numpyro.distributions import biject_to as numpyro_biject_to
from numpyro.infer.util import log_density
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp
from torch.distributions import biject_to as pyro_biject_to

from ppl_flows.numerics.pareto_smoothing import pareto_khat

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)

import targets_numpyro
import targets_pyro
from data import Arrays, Target

POINTS = 5
TOLERANCE = 1e-6  # relative; the languages sum and factorise in another order
DRAWS = 100_000  # of importance sampling
FREEDOM = 5.0  # degrees of the Student-t: tails heavier than a posterior's, at little cost in 61 dimensions
KHAT = 0.7  # below it importance sampling is reliable


class Density(NamedTuple):
    """Log density at points, ``(points,)`` each, in nats: of the sites, and of the bijections onto their supports."""

    log_joint: np.ndarray
    log_jacobian: np.ndarray


# NumPyro


def latents(target: Target) -> dict[str, dict]:
    trace = handlers.trace(handlers.seed(target.model, 0)).get_trace()
    return {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}


def random_points(target: Target) -> Arrays:
    """Constrained values of standard normal points."""
    rng = np.random.default_rng(0)
    points = {}
    for name, site in latents(target).items():
        transform = numpyro_biject_to(site["fn"].support)
        shape = transform.inverse_shape(site["value"].shape)
        points[name] = np.asarray(transform(rng.standard_normal((POINTS, *shape))))
    return points


def in_numpyro(target: Target, points: Arrays) -> Density:
    supports = {name: site["fn"].support for name, site in latents(target).items()}

    def at(point: dict) -> tuple:
        log_jacobian = 0.0
        for name, value in point.items():
            transform = numpyro_biject_to(supports[name])
            log_jacobian += transform.log_abs_det_jacobian(transform._inverse(value), value).sum()
        return log_density(target.model, (), {}, point)[0], log_jacobian

    return Density(*map(np.asarray, jax.jit(jax.vmap(at))(points)))


# Pyro


def in_pyro(target: Target, points: Arrays) -> Density:
    """The points one by one."""
    rows = []
    for i in range(len(next(iter(points.values())))):
        point = {name: torch.tensor(values[i]) for name, values in points.items()}
        trace = poutine.trace(poutine.condition(target.model, data=point)).get_trace()
        log_jacobian = 0.0
        for name, value in point.items():
            transform = pyro_biject_to(trace.nodes[name]["fn"].support)
            log_jacobian += transform.log_abs_det_jacobian(transform.inv(value), value).sum()
        rows.append((trace.log_prob_sum(), log_jacobian))
    return Density(*np.array(rows).T)


def in_pyro_vectorized(target: Target, points: Arrays) -> np.ndarray:
    """The log joint of all points in one run, under a plate of particles to the left of the model's own."""
    single = poutine.trace(target.model).get_trace()
    nesting = max(len(site["cond_indep_stack"]) for site in single.nodes.values() if site["type"] == "sample")
    particles = len(next(iter(points.values())))

    def lifted(name: str, values: np.ndarray) -> torch.Tensor:
        own = values.ndim - 1 - single.nodes[name]["fn"].event_dim
        return torch.tensor(values).reshape(particles, *[1] * (nesting - own), *values.shape[1:])

    values = {name: lifted(name, v).requires_grad_() for name, v in points.items()}
    with pyro.plate("particles", particles, dim=-1 - nesting):
        trace = prune_subsample_sites(poutine.trace(poutine.condition(target.model, data=values)).get_trace())
    trace.compute_log_prob()
    sites = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample"]
    log_joint = sum(site.reshape(particles, -1).sum(1) for site in sites)
    gradients = torch.autograd.grad(log_joint.sum(), list(values.values()), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None), f"{target.name}: gradient"
    return log_joint.detach().numpy()


# log Z


def importance_sampling(target: Target) -> tuple[float, float, float]:
    """Log Z, its standard error and k-hat, from a Student-t: with the moments of draws, or else those of Laplace."""
    sites = latents(target)
    bijections = {name: numpyro_biject_to(site["fn"].support) for name, site in sites.items()}
    shapes = {name: bijections[name].inverse_shape(site["value"].shape) for name, site in sites.items()}
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    dim = int(ends[-1])

    def log_p(vector: jax.Array) -> jax.Array:
        parts = dict(zip(shapes, jnp.split(vector, ends[:-1]), strict=True))
        point, log_jacobian = {}, 0.0
        for name, bijection in bijections.items():
            x = parts[name].reshape(shapes[name])
            point[name] = bijection(x)
            log_jacobian += bijection.log_abs_det_jacobian(x, point[name]).sum()
        return log_density(target.model, (), {}, point)[0] + log_jacobian

    def unconstrained(draws: Arrays) -> np.ndarray:
        rows = [np.asarray(bijections[n]._inverse(draws[n])).reshape(len(draws[n]), -1) for n in shapes]
        return np.concatenate(rows, axis=1)

    if target.draws:
        draws = unconstrained(target.draws())
        centre, scale = draws.mean(0), np.linalg.cholesky(np.cov(draws.T))
    else:
        value_and_slope = jax.jit(jax.value_and_grad(lambda vector: -log_p(vector)))
        found = minimize(lambda v: [*map(np.asarray, value_and_slope(v))], np.zeros(dim), jac=True, method="BFGS")
        centre = found.x
        scale = np.linalg.cholesky(np.linalg.inv(jax.hessian(lambda vector: -log_p(vector))(centre)))

    rng = np.random.default_rng(0)
    z = rng.standard_normal((DRAWS, dim)) * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (DRAWS, 1)))
    constant = gammaln((FREEDOM + dim) / 2) - gammaln(FREEDOM / 2) - dim / 2 * np.log(FREEDOM * np.pi)
    log_q = constant - (FREEDOM + dim) / 2 * np.log1p((z**2).sum(1) / FREEDOM) - np.log(np.diag(scale)).sum()
    values = np.asarray(jax.jit(lambda rows: jax.lax.map(log_p, rows, batch_size=1_000))(centre + z @ scale.T))
    log_weights = np.nan_to_num(values, nan=-np.inf) - log_q
    log_z = logsumexp(log_weights) - np.log(DRAWS)
    relative = np.exp(log_weights - log_z)
    return float(log_z), float(relative.std() / DRAWS**0.5), pareto_khat(log_weights)


def check(name: str) -> str:
    """A row of the table; raises where the target does not hold what it states."""
    ours, theirs = targets_numpyro.TARGETS[name], targets_pyro.TARGETS[name]
    points = random_points(ours)
    a, b = in_numpyro(ours, points), in_pyro(theirs, points)
    np.testing.assert_allclose(b.log_joint, a.log_joint, rtol=TOLERANCE, err_msg=f"{name}: log joint")
    np.testing.assert_allclose(b.log_jacobian, a.log_jacobian, rtol=TOLERANCE, err_msg=f"{name}: log Jacobian")
    together = in_pyro_vectorized(theirs, points)
    np.testing.assert_allclose(together, b.log_joint, rtol=TOLERANCE, err_msg=f"{name}: vectorised particles")
    difference = np.max(np.abs((a.log_joint - b.log_joint) / a.log_joint))

    moments = ""
    if ours.draws:
        draws = ours.draws()
        first = {site: values[:1_000] for site, values in draws.items()}
        log_joint = in_numpyro(ours, first).log_joint
        assert np.isfinite(log_joint).all(), f"{name}: log joint at the published draws"
        vectorized = in_pyro_vectorized(theirs, first)
        np.testing.assert_allclose(vectorized, log_joint, rtol=TOLERANCE, err_msg=f"{name}: at the published draws")
        quantities = ours.quantities(draws)
        n = len(next(iter(draws.values())))
        for quantity, (mean, sd) in ours.reference().items():
            z = np.max(np.abs(quantities[quantity].mean(0) - mean) / sd) * n**0.5
            moments = f"{max(z, float(moments or 0)):.1f}"
        assert float(moments) < 5, f"{name}: the draws' means are {moments} standard errors from the stated ones"

    log_z, se, khat = importance_sampling(ours)
    total = np.hypot(se, ours.log_z_se)
    if khat < KHAT:
        assert abs(log_z - ours.log_z) < 4 * total, f"{name}: log Z is {log_z:.4f} ± {se:.4f}, stated {ours.log_z}"
    verdict = f"{(log_z - ours.log_z) / total:+.1f}" if khat < KHAT else "–"
    cells = [name, f"{difference:.0e}", moments or "–", ours.log_z, f"{log_z:.4f} ± {se:.4f}", f"{khat:.2f}", verdict]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(targets_numpyro.TARGETS))
    chosen = parser.parse_args().targets.split(",")
    assert targets_numpyro.TARGETS.keys() == targets_pyro.TARGETS.keys()
    print(
        "| target | Pyro / NumPyro - 1 | draws' means (s.e.) | log Z stated | log Z here | k-hat | difference (s.e.) |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in chosen:
        print(check(name), flush=True)


if __name__ == "__main__":
    main()
