"""The hierarchical models in NumPyro, as users write them; ``targets_pyro.py`` is the twin.

The data take JAX's default precision when a model first runs: enable float64 before.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from data import Target, targets
from jax import Array
from numpyro.contrib.control_flow import scan
from numpyro.distributions import biject_to, constraints


class Flat(dist.ImproperUniform):
    """``ImproperUniform`` with draws, at which guides and ``fit`` may look: the host's has none."""

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        transform = biject_to(self.support)
        shape = transform.inverse_shape(self.shape(sample_shape))
        return transform(jax.random.normal(key, shape))


def eight_schools(y: Array, sigma: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def funnel10() -> None:
    x0 = numpyro.sample("x0", dist.Normal(0.0, 3.0))
    with numpyro.plate("dims", 9):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(x0 / 2)))


def funnel101() -> None:
    log_sigma = numpyro.sample("log_sigma", dist.Normal(0.0, 1.0))
    with numpyro.plate("dims", 100):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(log_sigma)))


def radon(group: Array, x: Array, y: Array) -> None:
    mu_a = numpyro.sample("mu_a", dist.Normal(0.0, 10.0))
    sigma_a = numpyro.sample("sigma_a", dist.HalfCauchy(5.0))
    mu_b = numpyro.sample("mu_b", dist.Normal(0.0, 10.0))
    sigma_b = numpyro.sample("sigma_b", dist.HalfCauchy(5.0))
    with numpyro.plate("groups", 85):
        a = numpyro.sample("a", dist.Normal(mu_a, sigma_a))
        b = numpyro.sample("b", dist.Normal(mu_b, sigma_b))
    sigma_y = numpyro.sample("sigma_y", dist.HalfCauchy(5.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[..., group] + b[..., group] * x, sigma_y), obs=y)


def radon_factors(group: Array, x: Array, y: Array) -> None:
    """The same posterior; the priors of a and b are factors."""
    mu_a = numpyro.sample("mu_a", dist.Normal(0.0, 10.0))
    sigma_a = numpyro.sample("sigma_a", dist.HalfCauchy(5.0))
    mu_b = numpyro.sample("mu_b", dist.Normal(0.0, 10.0))
    sigma_b = numpyro.sample("sigma_b", dist.HalfCauchy(5.0))
    a = numpyro.sample("a", Flat(constraints.real, (), (85,)))
    b = numpyro.sample("b", Flat(constraints.real, (), (85,)))
    numpyro.factor("prior_of_a", dist.Normal(mu_a[..., None], sigma_a[..., None]).log_prob(a).sum(-1))
    numpyro.factor("prior_of_b", dist.Normal(mu_b[..., None], sigma_b[..., None]).log_prob(b).sum(-1))
    sigma_y = numpyro.sample("sigma_y", dist.HalfCauchy(5.0))
    numpyro.sample("y", dist.Normal(a[..., group] + b[..., group] * x, sigma_y[..., None]).to_event(1), obs=y)


def volatility(returns: Array) -> None:
    """The model of NumPyro's own example."""
    step_size = numpyro.sample("step_size", dist.Exponential(50.0))
    s = numpyro.sample("s", dist.GaussianRandomWalk(step_size, len(returns)))
    nu = numpyro.sample("nu", dist.Exponential(0.1))
    numpyro.sample("returns", dist.StudentT(nu[..., None], 0.0, jnp.exp(s)).to_event(1), obs=returns)


def item_response(correct: Array) -> None:
    persons, items = correct.shape
    mu_a = numpyro.sample("mu_a", dist.Normal(0.0, 1.0))
    sigma_a = numpyro.sample("sigma_a", dist.HalfCauchy(2.0))
    mu_b = numpyro.sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_b = numpyro.sample("sigma_b", dist.HalfCauchy(2.0))
    with numpyro.plate("items", items):
        a = numpyro.sample("a", dist.LogNormal(mu_a, sigma_a))
        b = numpyro.sample("b", dist.Normal(mu_b, sigma_b))
    with numpyro.plate("persons", persons):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
    logits = a[..., None, :] * (theta[..., :, None] - b[..., None, :])
    numpyro.sample("correct", dist.Bernoulli(logits=logits).to_event(2), obs=correct)


def horseshoe(X: Array, y: Array) -> None:
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    with numpyro.plate("coefficients", X.shape[1]):
        lambda_ = numpyro.sample("lambda", dist.HalfCauchy(1.0))
        beta = numpyro.sample("beta", dist.Normal(0.0, lambda_ * tau))
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 5.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
    numpyro.sample("y", dist.Normal(alpha[..., None] + beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def horseshoe_noncentred(X: Array, y: Array) -> None:
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    with numpyro.plate("coefficients", X.shape[1]):
        lambda_ = numpyro.sample("lambda", dist.HalfCauchy(1.0))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    beta = numpyro.deterministic("beta", z * lambda_ * tau[..., None])
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 5.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
    numpyro.sample("y", dist.Normal(alpha[..., None] + beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def capture_recapture(counts: Array, occasions: Array) -> None:
    """Model Mh with augmented data; who belongs to the population is summed out."""
    omega = numpyro.sample("omega", dist.Uniform(0.0, 1.0))
    mean_p = numpyro.sample("mean_p", dist.Uniform(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.Uniform(0.0, 5.0))
    with numpyro.plate("animals", len(counts)):
        eps = numpyro.sample("eps", dist.Normal(jnp.log(mean_p) - jnp.log1p(-mean_p), sigma))
        captured = jnp.log(omega) + dist.Binomial(occasions, logits=eps).log_prob(counts)
        absent = jnp.where(counts > 0, -jnp.inf, jnp.log1p(-omega))
        numpyro.factor("counts", jnp.logaddexp(captured, absent))


def irt501(student: Array, question: Array, correct: Array) -> None:
    mean = numpyro.sample("mean_student_ability", dist.Normal(0.75, 1.0))
    with numpyro.plate("students", 400):
        ability = numpyro.sample("centered_student_ability", dist.Normal(0.0, 1.0))
    with numpyro.plate("questions", 100):
        difficulty = numpyro.sample("question_difficulty", dist.Normal(0.0, 1.0))
    logits = mean[..., None] + ability[..., student] - difficulty[..., question]
    numpyro.sample("correct", dist.Bernoulli(logits=logits).to_event(1), obs=correct)


def volatility2519(returns: Array) -> None:
    """The log volatility step by step, in a scan."""
    p = numpyro.sample("p", dist.Beta(20.0, 1.5))
    persistence = numpyro.deterministic("persistence_of_volatility", 2 * p - 1)
    mean = numpyro.sample("mean_log_volatility", dist.Cauchy(0.0, 5.0))
    scale = numpyro.sample("white_noise_shock_scale", dist.HalfCauchy(2.0))

    def step(h: Array, _: None) -> tuple[Array, Array]:
        h = numpyro.sample("h", dist.Normal(mean + persistence * (h - mean), scale))
        return h, h

    first = numpyro.sample("h_first", dist.Normal(mean, scale / jnp.sqrt(1 - persistence**2)))
    _, later = scan(step, first, None, length=len(returns) - 1)
    h = numpyro.deterministic("log_volatility", jnp.concatenate([first[None], later]))
    with numpyro.plate("days", len(returns)):
        numpyro.sample("returns", dist.Normal(0.0, jnp.exp(h / 2)), obs=returns)


def volatility2519_vector(returns: Array) -> None:
    """The same posterior; the log volatility is one site: steps of length one of an Ornstein-Uhlenbeck process."""
    p = numpyro.sample("p", dist.Beta(20.0, 1.5))
    persistence = numpyro.deterministic("persistence_of_volatility", 2 * p - 1)
    mean = numpyro.sample("mean_log_volatility", dist.Cauchy(0.0, 5.0))
    scale = numpyro.sample("white_noise_shock_scale", dist.HalfCauchy(2.0))
    start = dist.Normal(mean, scale / jnp.sqrt(1 - persistence**2))
    process = dist.EulerMaruyama(jnp.arange(len(returns)), lambda h, _: ((persistence - 1) * (h - mean), scale), start)
    h = numpyro.sample("log_volatility", process)
    numpyro.sample("returns", dist.Normal(0.0, jnp.exp(h / 2)).to_event(1), obs=returns)


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
        "volatility2519_vector": volatility2519_vector,
    },
    jnp.asarray,
)
