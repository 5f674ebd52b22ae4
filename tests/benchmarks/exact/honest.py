"""How often ``result.exact`` is silently wrong with a guide that was spoiled on purpose; NumPyro.

    python tests/benchmarks/exact/honest.py --guides 5 --runs 10

A guide is trained on a posterior a part of which is cut off, and then measured, and used, on the whole one: the neck
of a funnel; one of two modes, 8 standard deviations apart; heavy tails. Every run is *right*, where all means are
within .1 of the posterior's standard deviation and all standard deviations within 10 %; *warned*; or *silently wrong*.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

import ppl_flows as pf
from ppl_flows.numpyro import AutoFlow, fit

DRAWS = 500
WALL = 50.0  # how steeply a part is cut off
OUTCOMES = ("right", "warned", "silently wrong")


class Spoiled(NamedTuple):
    """A posterior and a part of it.

    Attributes:
        model: of the whole, or with ``cut=True`` of the part.
        means, sds: of the quantities, exact.
        quantities: of draws.
        start: of the guide.
    """

    model: Callable[..., None]
    means: np.ndarray
    sds: np.ndarray
    quantities: Callable[[dict[str, np.ndarray]], np.ndarray]
    start: object = "auto"


def wall(inside: jax.Array) -> None:
    """Next to no density where ``inside`` is negative."""
    numpyro.factor("wall", jnp.sum(jax.nn.log_sigmoid(WALL * inside)))


def funnel(*, cut: bool = False) -> None:
    log_scale = numpyro.sample("log_scale", dist.Normal(0.0, 1.5))
    numpyro.sample("x", dist.Normal(jnp.zeros(9), jnp.exp(log_scale)).to_event(1))
    if cut:
        wall(log_scale + 1.5)


def two_modes(*, cut: bool = False) -> None:
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (5,)))
    ends = jnp.stack([-4.0 * jnp.ones(5), 4.0 * jnp.ones(5)]) / 5**0.5
    of_each = dist.Normal(ends, 1.0).log_prob(x).sum(-1) + jnp.log(jnp.array([0.7, 0.3]))
    numpyro.factor("modes", of_each[0] if cut else jax.nn.logsumexp(of_each))


def tails(*, cut: bool = False) -> None:
    x = numpyro.sample("x", dist.StudentT(5.0, 0.0, 1.0).expand([5]).to_event(1))
    if cut:
        wall(2.0 - jnp.abs(x))


CASES = {
    "neck of a funnel": Spoiled(
        funnel, np.array([0.0]), np.array([1.5]), lambda draws: draws["log_scale"][:, None], start="full_rank"
    ),
    "one of two modes": Spoiled(
        two_modes,
        np.array([-4.0 * 0.4]),
        np.array([(1 + 16 * (1 - 0.4**2)) ** 0.5]),
        lambda draws: draws["x"].sum(-1, keepdims=True) / 5**0.5,
    ),
    "heavy tails": Spoiled(tails, np.zeros(5), np.full(5, stats.t(5).std()), lambda draws: draws["x"]),
}


def outcome(case: Spoiled, seed: int, result: object) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = result.exact(DRAWS, seed=seed)
    if draws.alarms:
        return "warned"
    found = case.quantities({name: np.asarray(value) for name, value in draws.samples.items()})
    off = np.abs(found.mean(0) - case.means) / case.sds
    ratio = found.std(0) / case.sds
    return "right" if off.max() < 0.1 and ratio.min() > 0.9 and ratio.max() < 1.1 else "silently wrong"


def spoiled_fit(case: Spoiled, seed: int) -> object:
    """The result of the whole posterior for a guide of the part."""

    def guide(start: object) -> AutoFlow:
        return AutoFlow(case.model, lambda d: pf.guide_flow(d, flow_layers=8), start=start, informed=False, seed=seed)

    part = guide(case.start)
    trained = fit(case.model, part, steps=1_000, num_particles=32, draws=200, seed=seed, progress=False, cut=True)
    whole = guide(part.near_posterior)
    return fit(case.model, whole, init_params=trained.params, steps=1, lr=1e-12, draws=4_000, seed=seed, progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="with commas between")
    parser.add_argument("--guides", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10, help="of each guide")
    given = parser.parse_args()
    print("| what the guide lacks | grades of the fits | right | warned | silently wrong |\n|---|---|---|---|---|")
    for name in given.cases.split(","):
        case, grades, found = CASES[name], Counter(), Counter()
        for seed in range(given.guides):
            result = spoiled_fit(case, seed)
            grades[result.grade] += 1
            found.update(outcome(case, 100 * seed + run, result) for run in range(given.runs))
        cells = (", ".join(f"{g}: {n}" for g, n in grades.items()), *(found[k] for k in OUTCOMES))
        print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
