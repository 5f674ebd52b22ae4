"""The hierarchical models in Pyro, as users write them; ``targets_numpyro.py`` is the twin.

Pyro has no Gaussian random walk, and its sites of a loop are slow by the hundred: chains are plates of increments. The
data take torch's default precision when a model first runs: set float64 before.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from data import Target, targets
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to


class Flat(dist.ImproperUniform):
    """``ImproperUniform`` with draws, at which guides and ``fit`` may look: the host's has none."""

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - immutable, and the host's own
        transform = biject_to(self.support)
        shape = transform.inverse_shape(self.shape(sample_shape))
        return transform(torch.randn(shape))


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def funnel10() -> None:
    x0 = pyro.sample("x0", dist.Normal(0.0, 3.0))
    with pyro.plate("dims", 9):
        pyro.sample("x", dist.Normal(0.0, torch.exp(x0 / 2)))


def funnel101() -> None:
    log_sigma = pyro.sample("log_sigma", dist.Normal(0.0, 1.0))
    with pyro.plate("dims", 100):
        pyro.sample("x", dist.Normal(0.0, torch.exp(log_sigma)))


def radon(group: Tensor, x: Tensor, y: Tensor) -> None:
    mu_a = pyro.sample("mu_a", dist.Normal(0.0, 10.0))
    sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(5.0))
    mu_b = pyro.sample("mu_b", dist.Normal(0.0, 10.0))
    sigma_b = pyro.sample("sigma_b", dist.HalfCauchy(5.0))
    with pyro.plate("groups", 85):
        a = pyro.sample("a", dist.Normal(mu_a, sigma_a))
        b = pyro.sample("b", dist.Normal(mu_b, sigma_b))
    sigma_y = pyro.sample("sigma_y", dist.HalfCauchy(5.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a[..., group] + b[..., group] * x, sigma_y), obs=y)


def radon_factors(group: Tensor, x: Tensor, y: Tensor) -> None:
    """The same posterior; the priors of a and b are factors."""
    mu_a = pyro.sample("mu_a", dist.Normal(0.0, 10.0))
    sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(5.0))
    mu_b = pyro.sample("mu_b", dist.Normal(0.0, 10.0))
    sigma_b = pyro.sample("sigma_b", dist.HalfCauchy(5.0))
    with pyro.plate("groups", 85):
        a = pyro.sample("a", Flat(constraints.real, (), ()))
        b = pyro.sample("b", Flat(constraints.real, (), ()))
        pyro.factor("prior_of_a", dist.Normal(mu_a, sigma_a).log_prob(a))
        pyro.factor("prior_of_b", dist.Normal(mu_b, sigma_b).log_prob(b))
    sigma_y = pyro.sample("sigma_y", dist.HalfCauchy(5.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a[..., group] + b[..., group] * x, sigma_y), obs=y)


def volatility(returns: Tensor) -> None:
    """The model of NumPyro's own example, with the increments of its random walk as sites."""
    step_size = pyro.sample("step_size", dist.Exponential(50.0))
    nu = pyro.sample("nu", dist.Exponential(0.1))
    with pyro.plate("steps", len(returns)):
        increments = pyro.sample("increments", dist.Normal(0.0, step_size))
        s = pyro.deterministic("s", increments.cumsum(-1), event_dim=0)
        pyro.sample("returns", dist.StudentT(nu, 0.0, torch.exp(s)), obs=returns)


def item_response(correct: Tensor) -> None:
    persons, items = pyro.plate("persons", len(correct), dim=-2), pyro.plate("items", correct.shape[1], dim=-1)
    mu_a = pyro.sample("mu_a", dist.Normal(0.0, 1.0))
    sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(2.0))
    mu_b = pyro.sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_b = pyro.sample("sigma_b", dist.HalfCauchy(2.0))
    with items:
        a = pyro.sample("a", dist.LogNormal(mu_a, sigma_a))
        b = pyro.sample("b", dist.Normal(mu_b, sigma_b))
    with persons:
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with persons, items:
        pyro.sample("correct", dist.Bernoulli(logits=a * (theta - b)), obs=correct)


def horseshoe(X: Tensor, y: Tensor) -> None:
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    with pyro.plate("coefficients", X.shape[1]):
        lambda_ = pyro.sample("lambda", dist.HalfCauchy(1.0))
        beta = pyro.sample("beta", dist.Normal(0.0, lambda_ * tau))
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(5.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta @ X.T, sigma), obs=y)


def horseshoe_noncentred(X: Tensor, y: Tensor) -> None:
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    with pyro.plate("coefficients", X.shape[1]):
        lambda_ = pyro.sample("lambda", dist.HalfCauchy(1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        beta = pyro.deterministic("beta", z * lambda_ * tau, event_dim=0)
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(5.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta @ X.T, sigma), obs=y)


def capture_recapture(counts: Tensor, occasions: Tensor) -> None:
    """Model Mh with augmented data; who belongs to the population is summed out."""
    omega = pyro.sample("omega", dist.Uniform(0.0, 1.0))
    mean_p = pyro.sample("mean_p", dist.Uniform(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 5.0))
    with pyro.plate("animals", len(counts)):
        eps = pyro.sample("eps", dist.Normal(torch.logit(mean_p), sigma))
        captured = torch.log(omega) + dist.Binomial(occasions, logits=eps).log_prob(counts)
        absent = torch.where(counts > 0, -torch.inf, torch.log1p(-omega))
        pyro.factor("counts", torch.logaddexp(captured, absent))


def irt501(student: Tensor, question: Tensor, correct: Tensor) -> None:
    mean = pyro.sample("mean_student_ability", dist.Normal(0.75, 1.0))
    with pyro.plate("students", 400):
        ability = pyro.sample("centered_student_ability", dist.Normal(0.0, 1.0))
    with pyro.plate("questions", 100):
        difficulty = pyro.sample("question_difficulty", dist.Normal(0.0, 1.0))
    with pyro.plate("answers", len(correct)):
        logits = mean + ability[..., student] - difficulty[..., question]
        pyro.sample("correct", dist.Bernoulli(logits=logits), obs=correct)


def volatility2519(returns: Tensor) -> None:
    """The shocks are sites; the log volatility that they make is a convolution."""
    p = pyro.sample("p", dist.Beta(20.0, 1.5))
    persistence = pyro.deterministic("persistence_of_volatility", 2 * p - 1, event_dim=0)
    mean = pyro.sample("mean_log_volatility", dist.Cauchy(0.0, 5.0))
    scale = pyro.sample("white_noise_shock_scale", dist.HalfCauchy(2.0))
    with pyro.plate("days", len(returns)):
        shocks = pyro.sample("shocks", dist.Normal(0.0, scale))
        h = pyro.deterministic("log_volatility", mean + autoregression(shocks, persistence), event_dim=0)
        pyro.sample("returns", dist.Normal(0.0, torch.exp(h / 2)), obs=returns)


def autoregression(shocks: Tensor, persistence: Tensor) -> Tensor:
    """Stationary, of order one: ``h_t = persistence h_(t-1) + shock_t``; persistence broadcasts against the shocks."""
    days = shocks.shape[-1]
    first = shocks[..., :1] / torch.sqrt(1 - persistence**2)
    shocks = torch.cat([first.expand_as(shocks[..., :1]), shocks[..., 1:]], dim=-1)
    decay = persistence ** torch.arange(days)
    h = torch.fft.irfft(torch.fft.rfft(shocks, 2 * days) * torch.fft.rfft(decay, 2 * days), 2 * days)
    return h[..., :days]


def tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.get_default_dtype() if values.dtype.kind == "f" else None)


TARGETS: dict[str, Target] = targets(
    {
        "eight_schools": eight_schools,
        "funnel10": funnel10,
        "funnel101": funnel101,
        "radon": radon,
        "radon_factors": radon_factors,
        "volatility": volatility,
        "item_response": item_response,
        "horseshoe": horseshoe,
        "horseshoe_noncentred": horseshoe_noncentred,
        "capture_recapture": capture_recapture,
        "irt501": irt501,
        "volatility2519": volatility2519,
    },
    tensor,
)
