"""The posteriors in Pyro; ``targets_numpyro.py`` is the twin.

The data take torch's default precision at import: set float64 before.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from data import JITTER, Target, targets
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to


class Flat(dist.ImproperUniform):
    """``ImproperUniform`` with draws, at which guides and ``fit`` may look: the host's has none."""

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - immutable, and the host's own
        transform = biject_to(self.support)
        shape = transform.inverse_shape(self.shape(sample_shape))
        return transform(torch.randn(shape))


def flat(support: constraints.Constraint, *event_shape: int) -> Flat:
    return Flat(support, (), event_shape)


def funnel10() -> None:
    x0 = pyro.sample("x0", dist.Normal(0.0, 3.0))
    with pyro.plate("dims", 9):
        pyro.sample("x", dist.Normal(0.0, torch.exp(x0 / 2)))


def brownian(y: Tensor, observed: Tensor) -> None:
    si = pyro.sample("si", dist.LogNormal(0.0, 2.0))
    so = pyro.sample("so", dist.LogNormal(0.0, 2.0))
    walk = torch.ones(30, 30).tril() * si[..., None, None]  # x_t is the sum of t steps
    x = pyro.sample("x", dist.MultivariateNormal(torch.zeros(30), scale_tril=walk))
    pyro.sample("y", dist.Normal(x[..., observed], so[..., None]).to_event(1), obs=y)


def seeds(R: Tensor, N: Tensor, X1: Tensor, X2: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(0.01, 0.01))
    a0 = pyro.sample("a0", dist.Normal(0.0, 10.0))
    a1 = pyro.sample("a1", dist.Normal(0.0, 10.0))
    a2 = pyro.sample("a2", dist.Normal(0.0, 10.0))
    a12 = pyro.sample("a12", dist.Normal(0.0, 10.0))
    with pyro.plate("plates", 21):
        b = pyro.sample("b", dist.Normal(0.0, tau**-0.5))
        logits = a0 + a1 * X1 + a2 * X2 + a12 * X1 * X2 + b
        pyro.sample("r", dist.Binomial(N, logits=logits), obs=R)


def logistic_regression(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=w @ X.T).to_event(1), obs=y)


def eight_schools_centered(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def gp_pois_regr(x: Tensor, k: Tensor) -> None:
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    ft = pyro.sample("ft", dist.Normal(0.0, 1.0).expand([11]).to_event(1))
    rho, alpha = rho[..., None, None], alpha[..., None, None]
    K = alpha**2 * torch.exp(-((x[:, None] - x) ** 2) / (2 * rho**2)) + JITTER * torch.eye(11)
    L, failed = torch.linalg.cholesky_ex(K)  # one particle's K must not end the run: nan, as in JAX
    L = torch.where(failed[..., None, None] == 0, L, np.nan)
    f = (L @ ft[..., None])[..., 0]
    pyro.sample("k", dist.Poisson(torch.exp(f)).to_event(1), obs=k)


def hmm_example(y: Tensor) -> None:
    theta1 = pyro.sample("theta1", dist.Dirichlet(torch.ones(2)))
    theta2 = pyro.sample("theta2", dist.Dirichlet(torch.ones(2)))
    mu = pyro.sample("mu", flat(constraints.positive_ordered_vector, 2))
    pyro.factor("prior_of_mu", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).log_prob(mu).sum(-1))
    log_theta = torch.log(torch.stack([theta1, theta2], dim=-2))
    emission = dist.Normal(mu[..., None, :], 1.0).log_prob(y[:, None])

    log_gamma = emission[..., 0, :]
    for emitted in emission.unbind(-2)[1:]:
        log_gamma = torch.logsumexp(log_gamma[..., :, None] + log_theta, dim=-2) + emitted
    pyro.factor("y", torch.logsumexp(log_gamma, dim=-1))


def kidiq(X: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", flat(constraints.real, 4))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    pyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def flat_regression(X: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", flat(constraints.real, X.shape[1]))
    sigma = pyro.sample("sigma", flat(constraints.positive))
    pyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def sblrc(X: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([5]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    pyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def ar5(lags: Tensor, y: Tensor) -> None:
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([5]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    pyro.sample("y", dist.Normal(alpha[..., None] + beta @ lags.T, sigma[..., None]).to_event(1), obs=y)


def garch11(y: Tensor, sigma1: Tensor) -> None:
    mu = pyro.sample("mu", flat(constraints.real))
    alpha0 = pyro.sample("alpha0", flat(constraints.positive))
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    share = pyro.sample("share", dist.Uniform(0.0, 1.0))  # beta1 is flat on (0, 1 - alpha1)
    pyro.factor("beta1_of_share", torch.log1p(-alpha1))
    beta1 = share * (1 - alpha1)
    squared = (y - mu[..., None]) ** 2

    variances = [(sigma1**2).expand(mu.shape)]
    for driven in (alpha0[..., None] + alpha1[..., None] * squared).unbind(-1)[:-1]:
        variances.append(driven + beta1 * variances[-1])
    sigma = torch.sqrt(torch.stack(variances, dim=-1))
    pyro.sample("y", dist.Normal(mu[..., None], sigma).to_event(1), obs=y)


def low_dim_gauss_mix(y: Tensor) -> None:
    mu = pyro.sample("mu", flat(constraints.ordered_vector, 2))
    pyro.factor("prior_of_mu", dist.Normal(0.0, 2.0).log_prob(mu).sum(-1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    log_weights = torch.log(torch.stack([theta, 1 - theta], dim=-1))
    parts = dist.Normal(mu[..., None, :], sigma[..., None, :]).log_prob(y[:, None])
    pyro.factor("y", torch.logsumexp(log_weights[..., None, :] + parts, dim=-1).sum(-1))


def tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.get_default_dtype() if values.dtype.kind == "f" else None)


TARGETS: dict[str, Target] = targets(
    {
        "funnel10": funnel10,
        "brownian": brownian,
        "seeds": seeds,
        "ionosphere": logistic_regression,
        "sonar": logistic_regression,
        "german_credit_T": logistic_regression,
        "eight_schools_centered": eight_schools_centered,
        "eight_schools_noncentered": eight_schools_noncentered,
        "gp_pois_regr": gp_pois_regr,
        "hmm_example": hmm_example,
        "kidiq": kidiq,
        "logearn_interaction": flat_regression,
        "nes": flat_regression,
        "sblrc": sblrc,
        "arK": ar5,
        "garch11": garch11,
        "low_dim_gauss_mix": low_dim_gauss_mix,
    },
    tensor,
)
