"""The posteriors in NumPyro; ``targets_pyro.py`` is the twin.

The data take JAX's default precision at import: enable float64 before.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from data import JITTER, Target, targets
from jax import Array, lax
from jax.scipy.special import logsumexp
from numpyro.distributions import biject_to, constraints


class Flat(dist.ImproperUniform):
    """``ImproperUniform`` with draws, at which guides and ``fit`` may look: the host's has none."""

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        transform = biject_to(self.support)
        shape = transform.inverse_shape(self.shape(sample_shape))
        return transform(jax.random.normal(key, shape))


def flat(support: constraints.Constraint, *event_shape: int) -> Flat:
    return Flat(support, (), event_shape)


def funnel10() -> None:
    x0 = numpyro.sample("x0", dist.Normal(0.0, 3.0))
    with numpyro.plate("dims", 9):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(x0 / 2)))


def brownian(y: Array, observed: Array) -> None:
    si = numpyro.sample("si", dist.LogNormal(0.0, 2.0))
    so = numpyro.sample("so", dist.LogNormal(0.0, 2.0))
    x = numpyro.sample("x", dist.GaussianRandomWalk(si, 30))
    numpyro.sample("y", dist.Normal(x[..., observed], so[..., None]).to_event(1), obs=y)


def seeds(R: Array, N: Array, X1: Array, X2: Array) -> None:
    tau = numpyro.sample("tau", dist.Gamma(0.01, 0.01))
    a0 = numpyro.sample("a0", dist.Normal(0.0, 10.0))
    a1 = numpyro.sample("a1", dist.Normal(0.0, 10.0))
    a2 = numpyro.sample("a2", dist.Normal(0.0, 10.0))
    a12 = numpyro.sample("a12", dist.Normal(0.0, 10.0))
    with numpyro.plate("plates", 21):
        b = numpyro.sample("b", dist.Normal(0.0, tau**-0.5))
        logits = a0 + a1 * X1 + a2 * X2 + a12 * X1 * X2 + b
        numpyro.sample("r", dist.Binomial(N, logits=logits), obs=R)


def logistic_regression(X: Array, y: Array) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=w @ X.T).to_event(1), obs=y)


def eight_schools_centered(y: Array, sigma: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(y: Array, sigma: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def gp_pois_regr(x: Array, k: Array) -> None:
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    ft = numpyro.sample("ft", dist.Normal(0.0, 1.0).expand([11]).to_event(1))
    rho, alpha = rho[..., None, None], alpha[..., None, None]
    K = alpha**2 * jnp.exp(-((x[:, None] - x) ** 2) / (2 * rho**2)) + JITTER * jnp.eye(11)
    f = (jnp.linalg.cholesky(K) @ ft[..., None])[..., 0]
    numpyro.sample("k", dist.Poisson(jnp.exp(f)).to_event(1), obs=k)


def hmm_example(y: Array) -> None:
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", flat(constraints.positive_ordered_vector, 2))
    numpyro.factor("prior_of_mu", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum(-1))
    log_theta = jnp.log(jnp.stack([theta1, theta2], axis=-2))
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def forward(log_gamma: Array, emitted: Array) -> tuple[Array, None]:
        return logsumexp(log_gamma[..., :, None] + log_theta, axis=-2) + emitted, None

    log_gamma, _ = lax.scan(forward, emission[0], emission[1:])
    numpyro.factor("y", logsumexp(log_gamma, axis=-1))


def kidiq(X: Array, y: Array) -> None:
    beta = numpyro.sample("beta", flat(constraints.real, 4))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def flat_regression(X: Array, y: Array) -> None:
    beta = numpyro.sample("beta", flat(constraints.real, X.shape[1]))
    sigma = numpyro.sample("sigma", flat(constraints.positive))
    numpyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def sblrc(X: Array, y: Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([5]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    numpyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def ar5(lags: Array, y: Array) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([5]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(alpha[..., None] + beta @ lags.T, sigma[..., None]).to_event(1), obs=y)


def garch11(y: Array, sigma1: Array) -> None:
    mu = numpyro.sample("mu", flat(constraints.real))
    alpha0 = numpyro.sample("alpha0", flat(constraints.positive))
    alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    share = numpyro.sample("share", dist.Uniform(0.0, 1.0))  # beta1 is flat on (0, 1 - alpha1)
    numpyro.factor("beta1_of_share", jnp.log1p(-alpha1))
    beta1 = share * (1 - alpha1)
    squared = (y - mu[..., None]) ** 2

    def recursion(variance: Array, error: Array) -> tuple[Array, Array]:
        new = alpha0 + alpha1 * error + beta1 * variance
        return new, new

    start = jnp.broadcast_to(sigma1**2, jnp.shape(mu))
    _, variances = lax.scan(recursion, start, squared[:-1])
    sigma = jnp.sqrt(jnp.concatenate([start[None], variances]))
    numpyro.sample("y", dist.Normal(mu[..., None], sigma).to_event(1), obs=y)


def low_dim_gauss_mix(y: Array) -> None:
    mu = numpyro.sample("mu", flat(constraints.ordered_vector, 2))
    numpyro.factor("prior_of_mu", dist.Normal(0.0, 2.0).log_prob(mu).sum(-1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    log_weights = jnp.log(jnp.stack([theta, 1 - theta], axis=-1))
    parts = dist.Normal(mu[..., None, :], sigma[..., None, :]).log_prob(y[:, None])
    numpyro.factor("y", logsumexp(log_weights[..., None, :] + parts, axis=-1).sum(-1))


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
    jnp.asarray,
)
