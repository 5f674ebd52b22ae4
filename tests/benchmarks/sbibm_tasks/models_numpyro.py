"""The tasks in NumPyro; ``models_pyro`` is its twin. Each is a model of its data, whose latent is "parameters"."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.distributions import constraints

from sbibm_tasks import priors as p


class Crescent(dist.Distribution):
    """A half ring around ``centre``, open to the left: density of the radius over the radius and the half turn."""

    arg_constraints: ClassVar[dict[str, Any]] = {"centre": constraints.real_vector}
    support = constraints.real_vector
    reparametrized_params: ClassVar[list[str]] = ["centre"]

    def __init__(self, centre: Any, *, validate_args: bool | None = None) -> None:
        self.centre = centre
        super().__init__(jnp.shape(centre)[:-1], (2,), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        of_angle, of_radius = random.split(key)
        shape = sample_shape + self.batch_shape
        angle = random.uniform(of_angle, shape, minval=-jnp.pi / 2, maxval=jnp.pi / 2)
        radius = p.RADIUS + p.RADIUS_SD * random.normal(of_radius, shape)
        return self.centre + jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], -1)

    def log_prob(self, value: Any) -> Any:
        u, v = value[..., 0] - self.centre[..., 0], value[..., 1] - self.centre[..., 1]
        radius = jnp.sqrt(u**2 + v**2)
        density = dist.Normal(p.RADIUS, p.RADIUS_SD).log_prob(radius) - jnp.log(jnp.pi * radius)
        return jnp.where(u < 0, -jnp.inf, density)


class SpikeSums(dist.Distribution):
    """Sums of the rows of a design where a neuron fires, which is all that its hundred spikes tell of the weights.

    The density is that of the spikes, which differs by a factor that no weight is in.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"weights": constraints.real_vector, "design": constraints.real_matrix}
    support = constraints.real_vector

    def __init__(self, weights: Any, design: Any, *, validate_args: bool | None = None) -> None:
        self.weights, self.design = weights, design
        super().__init__(jnp.shape(weights)[:-1], jnp.shape(weights)[-1:], validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        logits = self.weights @ self.design.T
        spikes = dist.Bernoulli(logits=logits).sample(key, sample_shape)
        return spikes.astype(logits.dtype) @ self.design

    def log_prob(self, value: Any) -> Any:
        logits = self.weights @ self.design.T
        return (self.weights * value).sum(-1) - jax.nn.softplus(logits).sum(-1)


def uniform(bound: float, dim: int) -> Any:
    return numpyro.sample("parameters", dist.Uniform(-bound, bound).expand([dim]).to_event(1))


def observe(distribution: Any, y: Any) -> None:
    numpyro.sample("data", distribution, obs=y)


def two_moons(y: Any) -> None:
    theta = uniform(1.0, 2)
    a, b = theta[..., 0], theta[..., 1]
    observe(Crescent(jnp.stack([p.OFFSET - jnp.abs(a + b) / 2**0.5, (b - a) / 2**0.5], -1)), y)


def gaussian_mixture(y: Any) -> None:
    theta = uniform(10.0, 2)
    parts = dist.Normal(theta[..., None, :], jnp.array(p.MIXTURE_SCALES)[:, None]).to_event(1)
    observe(dist.MixtureSameFamily(dist.Categorical(jnp.full(2, 0.5)), parts), y)


def gaussian_linear(y: Any) -> None:
    theta = numpyro.sample("parameters", dist.Normal(0.0, p.SCALE).expand([10]).to_event(1))
    observe(dist.Normal(theta, p.SCALE).to_event(1), y)


def gaussian_linear_uniform(y: Any) -> None:
    observe(dist.Normal(uniform(1.0, 10), p.SCALE).to_event(1), y)


def bernoulli_glm(y: Any, *, design: Any) -> None:
    precision = jnp.asarray(p.glm_precision(), dtype=jnp.result_type(float))
    theta = numpyro.sample("parameters", dist.MultivariateNormal(jnp.zeros(10), precision_matrix=precision))
    observe(SpikeSums(theta, design), y)


def slcp(y: Any) -> None:
    theta = uniform(3.0, 5)
    s1, s2, rho = theta[..., 2] ** 2, theta[..., 3] ** 2, jnp.tanh(theta[..., 4])
    a, b, c = s1**2 + 1e-6, rho * s1 * s2, s2**2 + 1e-6  # the covariance
    low = jnp.stack([jnp.sqrt(a), jnp.zeros_like(a), b / jnp.sqrt(a), jnp.sqrt(c - b**2 / a)], -1)
    with numpyro.plate("rows", 4):
        observe(dist.MultivariateNormal(theta[..., :2], scale_tril=low.reshape(*low.shape[:-1], 2, 2)), y)


def solve(field: Any, start: tuple[float, float], times: Any, theta: Any) -> Any:
    """Logarithms of two populations at such times, ``(*batch, times, 2)``."""

    def one(theta: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, z, theta: field(z, theta)),
            diffrax.Tsit5(),
            t0=0.0,
            t1=float(times[-1]),
            dt0=None,
            y0=jnp.log(jnp.array(start)),
            args=theta,
            saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
            stepsize_controller=diffrax.PIDController(rtol=p.TOLERANCE, atol=p.TOLERANCE),
            max_steps=100_000,
        ).ys

    for _ in range(theta.ndim - 1):
        one = jax.vmap(one)
    return one(theta)


def sir(y: Any) -> None:
    prior = dist.LogNormal(jnp.array(p.SIR_LOC), jnp.array(p.SIR_SCALE)).to_event(1)
    theta = numpyro.sample("parameters", prior)

    def field(z: Any, theta: Any) -> Any:
        susceptible, infected = jnp.exp(jnp.minimum(z, p.MOST)) / p.POPULATION
        return jnp.stack([-theta[0] * infected, theta[0] * susceptible - theta[1]])

    infected = jnp.exp(solve(field, (p.POPULATION - 1.0, 1.0), p.SIR_TIMES, theta)[..., 1])
    observe(dist.Binomial(p.TESTS, jnp.clip(infected / p.POPULATION, 0.0, 1.0)).to_event(1), y)


def lotka_volterra(y: Any) -> None:
    prior = dist.LogNormal(jnp.array(p.LOTKA_LOC), p.LOTKA_SCALE).to_event(1)
    theta = numpyro.sample("parameters", prior)

    def field(z: Any, theta: Any) -> Any:
        prey, predators = jnp.exp(jnp.minimum(z, p.MOST))
        return jnp.stack([theta[0] - theta[1] * predators, theta[3] * prey - theta[2]])

    z = jnp.moveaxis(solve(field, p.LOTKA_START, p.LOTKA_TIMES, theta), -1, -2)
    loc = jnp.clip(z.reshape(*z.shape[:-2], 20), *p.LOTKA_LIMITS)
    observe(dist.LogNormal(loc, p.LOTKA_NOISE).to_event(1), y)


def model(task: str, design: Any) -> Any:
    """Of a task, by its name."""
    found = globals()[task]
    return partial(found, design=jnp.asarray(design)) if task == "bernoulli_glm" else found
