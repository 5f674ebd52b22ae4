"""The tasks in Pyro; ``models_numpyro`` is its twin. Each is a model of its data, whose latent is "parameters"."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints
from torchdiffeq import odeint

from sbibm_tasks import priors as p


class Crescent(dist.TorchDistribution):
    """A half ring around ``centre``, open to the left: density of the radius over the radius and the half turn."""

    arg_constraints: ClassVar[dict[str, Any]] = {"centre": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, centre: torch.Tensor, validate_args: bool | None = None) -> None:
        self.centre = centre
        super().__init__(centre.shape[:-1], (2,), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Crescent:
        return Crescent(self.centre.expand(*batch_shape, 2), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        angle = torch.pi * (torch.rand(shape) - 0.5)
        radius = p.RADIUS + p.RADIUS_SD * torch.randn(shape)
        return self.centre + torch.stack([radius * angle.cos(), radius * angle.sin()], -1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        u, v = (value - self.centre).unbind(-1)
        radius = (u**2 + v**2).sqrt()
        density = dist.Normal(p.RADIUS, p.RADIUS_SD).log_prob(radius) - (torch.pi * radius).log()
        return torch.where(u < 0, -torch.inf, density)


class SpikeSums(dist.TorchDistribution):
    """Sums of the rows of a design where a neuron fires, which is all that its hundred spikes tell of the weights.

    The density is that of the spikes, which differs by a factor that no weight is in.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"weights": constraints.real_vector}
    support = constraints.real_vector

    def __init__(self, weights: torch.Tensor, design: torch.Tensor, validate_args: bool | None = None) -> None:
        self.weights, self.design = weights, design
        super().__init__(weights.shape[:-1], weights.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SpikeSums:
        return SpikeSums(self.weights.expand(*batch_shape, -1), self.design, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        spikes = dist.Bernoulli(logits=self.weights @ self.design.T).sample(sample_shape)
        return spikes @ self.design

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        logits = self.weights @ self.design.T
        return (self.weights * value).sum(-1) - torch.nn.functional.softplus(logits).sum(-1)


def uniform(bound: float, dim: int) -> torch.Tensor:
    return pyro.sample("parameters", dist.Uniform(-bound, bound).expand([dim]).to_event(1))


def observe(distribution: Any, y: Any) -> None:
    pyro.sample("data", distribution, obs=y)


def two_moons(y: Any) -> None:
    theta = uniform(1.0, 2)
    a, b = theta.unbind(-1)
    observe(Crescent(torch.stack([p.OFFSET - (a + b).abs() / 2**0.5, (b - a) / 2**0.5], -1)), y)


def gaussian_mixture(y: Any) -> None:
    theta = uniform(10.0, 2)
    parts = dist.Normal(theta[..., None, :], torch.tensor(p.MIXTURE_SCALES)[:, None]).to_event(1)
    which = dist.Categorical(torch.full((*theta.shape[:-1], 2), 0.5))  # torch wants as many as there are parts
    observe(dist.MixtureSameFamily(which, parts), y)


def gaussian_linear(y: Any) -> None:
    theta = pyro.sample("parameters", dist.Normal(0.0, p.SCALE).expand([10]).to_event(1))
    observe(dist.Normal(theta, p.SCALE).to_event(1), y)


def gaussian_linear_uniform(y: Any) -> None:
    observe(dist.Normal(uniform(1.0, 10), p.SCALE).to_event(1), y)


def bernoulli_glm(y: Any, *, design: torch.Tensor) -> None:
    precision = torch.as_tensor(p.glm_precision(), dtype=torch.get_default_dtype())
    theta = pyro.sample("parameters", dist.MultivariateNormal(torch.zeros(10), precision_matrix=precision))
    observe(SpikeSums(theta, design), y)


def slcp(y: Any) -> None:
    theta = uniform(3.0, 5)
    s1, s2, rho = theta[..., 2] ** 2, theta[..., 3] ** 2, theta[..., 4].tanh()
    a, b, c = s1**2 + 1e-6, rho * s1 * s2, s2**2 + 1e-6  # the covariance
    low = torch.stack([a.sqrt(), torch.zeros_like(a), b / a.sqrt(), (c - b**2 / a).sqrt()], -1)
    with pyro.plate("rows", 4):
        observe(dist.MultivariateNormal(theta[..., :2], scale_tril=low.reshape(*low.shape[:-1], 2, 2)), y)


def solve(field: Any, start: tuple[float, float], times: Any, theta: torch.Tensor, *, step: float) -> torch.Tensor:
    """Logarithms of two populations at such times, ``(*batch, times, 2)``.

    By steps of one size: adapted ones would be those of the fastest system for all of them.
    """
    first = torch.tensor(start).log().expand(*theta.shape[:-1], 2)
    ts = torch.as_tensor(times, dtype=theta.dtype)
    return odeint(lambda t, z: field(z, theta), first, ts, method="rk4", options={"step_size": step}).movedim(0, -2)


def sir(y: Any) -> None:
    prior = dist.LogNormal(torch.tensor(p.SIR_LOC), torch.tensor(p.SIR_SCALE)).to_event(1)
    theta = pyro.sample("parameters", prior)

    def field(z: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        susceptible, infected = (z.clamp(max=p.MOST).exp() / p.POPULATION).unbind(-1)
        return torch.stack([-theta[..., 0] * infected, theta[..., 0] * susceptible - theta[..., 1]], -1)

    infected = solve(field, (p.POPULATION - 1.0, 1.0), p.SIR_TIMES, theta, step=p.SIR_STEP)[..., 1].exp()
    observe(dist.Binomial(p.TESTS, (infected / p.POPULATION).clamp(0.0, 1.0)).to_event(1), y)


def lotka_volterra(y: Any) -> None:
    prior = dist.LogNormal(torch.tensor(p.LOTKA_LOC), p.LOTKA_SCALE).to_event(1)
    theta = pyro.sample("parameters", prior)

    def field(z: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        prey, predators = z.clamp(max=p.MOST).exp().unbind(-1)
        return torch.stack([theta[..., 0] - theta[..., 1] * predators, theta[..., 3] * prey - theta[..., 2]], -1)

    z = solve(field, p.LOTKA_START, p.LOTKA_TIMES, theta, step=p.LOTKA_STEP).transpose(-1, -2)
    loc = z.reshape(*z.shape[:-2], 20).clamp(*p.LOTKA_LIMITS)
    observe(dist.LogNormal(loc, p.LOTKA_NOISE).to_event(1), y)


def model(task: str, design: Any) -> Any:
    """Of a task, by its name."""
    found = globals()[task]
    return partial(found, design=torch.as_tensor(design)) if task == "bernoulli_glm" else found
