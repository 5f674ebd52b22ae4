"""What ``fit_amortized`` of both shells shares: its effort, its rounds, and checks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.combinators.chain import Chain
from ppl_flows.combinators.partial import Partial
from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.checks import whole_number
from ppl_flows.core.types import Params
from ppl_flows.encoders import SetEncoder
from ppl_flows.encoders.given_set import GivenSet, fewer_rows
from ppl_flows.inference.density_hooks import DensityHooks
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.normal_scores import NormalToLogistic
from ppl_flows.inference.observations import Observations
from ppl_flows.inference.posterior_start import posterior_start
from ppl_flows.inference.validation import check_recipe, check_training, step_sizes
from ppl_flows.recipes import nsf

OWNER = "fit_amortized"  # in errors
PILOT = 4_096  # simulations that a training on the fly starts from
ENCODED_ROWS = 1_024  # per call of an encoder, outside training
OUTSIDE = 1e-4  # share of the posterior's draws that a truncated prior leaves out
QUANTILE_DRAWS = 20_000
TRIES = 1_000  # times as many draws of the prior as are kept, at most

Rows = tuple[np.ndarray, dict[str, np.ndarray]]


class Plan(NamedTuple):
    """Of a training: its simulations and rounds, steps, rows per step, rate, and recipe of the flow."""

    simulations: int
    rounds: int
    patience: int | None
    steps: int
    batch_size: int
    lr: float | None
    flow: Callable[..., Bijection]
    seed: int

    @classmethod
    def of(
        cls,
        simulations: int | None,
        *,
        rounds: int,
        patience: int | None,
        steps: int | None,
        batch_size: int | None,
        lr: float | None,
        optimizer: Any,
        flow: Callable[..., Bijection] | None,
        checkpoint: Any,
        seed: int,
        **training: Any,
    ) -> Plan:
        """As given to ``fit_amortized``; what is None as suits so many simulations.

        Args:
            **training: other options of ``check_training``.

        Raises:
            TypeError, ValueError, FileNotFoundError: as ``fit_amortized``.
        """
        check_amortized(simulations, rounds, patience)  # all of it before the simulations, which take long
        effort = effort_for(simulations)
        steps, size = effort.steps if steps is None else steps, effort.batch_size if batch_size is None else batch_size
        flow = effort.flow if flow is None else flow
        check_training(OWNER, steps=steps, batch_size=size, checkpoint=checkpoint, seed=seed, **training)
        check_recipe(OWNER, flow)
        step_sizes(OWNER, optimizer, lr, None, default_lr=2e-3)
        if rounds > 1 and checkpoint is not None:
            raise ValueError("fit_amortized: a checkpoint is of one training, and rounds have several; use rounds=1.")
        return cls(
            max(PILOT, size) if simulations is None else simulations,
            rounds,
            patience,
            steps,
            size,
            (effort.lr if lr is None else lr) if optimizer is None else None,
            flow,
            seed,
        )

    def flow_of(self, dim: int, context_dim: int) -> Bijection:
        """Raises TypeError unless the recipe gives a Bijection."""
        bijection = self.flow(dim, context_dim=context_dim)
        check_bijection(OWNER, bijection)
        return bijection

    def flow_given(
        self, dim: int, encoder: Any, observations: Observations, data: dict[str, np.ndarray]
    ) -> Bijection | None:
        """The flow, given data as vectors or sets; None where an encoder of the user makes the context."""
        features, others = observations.sizes
        if not isinstance(encoder, SetEncoder):
            return self.flow_of(dim, others) if encoder is None else None
        part, rows = self.flow_of(dim, encoder.size), observations.rows(data) or 1
        return GivenSet(part, encoder=encoder, rows=rows, features=features, others=others)

    def hooks(self, bijection: Bijection, *, regression: bool, fresh: Any) -> DensityHooks:
        """Of the training of a conditional flow; ``regression``: on its contexts, which are vectors of data."""
        start = partial(posterior_start, bijection, regression=regression, seed=self.seed)
        vary = None
        if isinstance(bijection, GivenSet) and bijection.encoder.any_size:
            vary = partial(fewer_rows, rows=bijection.rows, features=bijection.features)
        return DensityHooks(start, self.patience, vary, fresh)

    def to_validate_by(self, bijection: Bijection, contexts: Any) -> Any:
        """Contexts of simulations: of sets of any size where training shows such."""
        if not (isinstance(bijection, GivenSet) and bijection.encoder.any_size):
            return contexts
        u = np.random.default_rng(self.seed).random(len(contexts))
        return fewer_rows(contexts, u, bijection.rows, bijection.features)

    def with_scores(self, fitted: DensityFit, scores: Bijection | None) -> tuple[Bijection, Params]:
        """A density of normal scores as one of unconstrained latents."""
        if scores is None:
            return fitted.bijection, fitted.params
        return Chain({"density": fitted.bijection, "scores": scores}), {"density": fitted.params, "scores": {}}


class Effort(NamedTuple):
    """What suits a number of simulations, unless it is given."""

    steps: int
    batch_size: int
    lr: float
    flow: Callable[..., Bijection]


def effort_for(simulations: int | None) -> Effort:
    """None: fresh ones in every step."""
    if simulations is None:
        return Effort(5_000, 256, 2e-3, partial(nsf, hidden=(64, 64)))
    if simulations > 50_000:
        return Effort(10_000, 256, 2e-3, partial(nsf, hidden=(64, 64)))
    if simulations > 5_000:
        return Effort(5_000, 100, 1e-3, partial(nsf, hidden=(64, 64), flow_layers=5))
    return Effort(2_000, 50, 1e-3, partial(nsf, hidden=(64, 64), flow_layers=4))


def in_rounds(
    draw: Callable[[int, int], Rows],
    train: Callable[[Rows], tuple[DensityFit, Observations]],
    region: Callable[[DensityFit, Observations], Callable[[np.ndarray], np.ndarray]],
    plan: Plan,
    scores: Bijection | None,
) -> tuple[DensityFit, Observations, float]:
    """The density after all rounds, what its contexts are made by, and what its losses lack to be those of
    unconstrained latents, in nats.

    Args:
        draw: so many simulations of the prior, by a seed.
        train: on simulations.
        region: from a trained density to where the next round's simulations are.
    """
    n = plan.simulations // plan.rounds
    rows, regions = draw(plan.simulations - (plan.rounds - 1) * n, plan.seed), []
    for i in range(1, plan.rounds):
        regions.append(region(*train(rows)))
        new = draw_inside(draw, lambda z: np.all([inside(z) for inside in regions], axis=0), n, plan.seed + i)
        rows = join(rows, new)
    fitted, observations = train(rows)
    shift = 0.0 if scores is None else float(scores.forward({}, rows[0].astype(float))[1].mean())
    return fitted, observations, shift


def region_above(score: Callable[[Any], np.ndarray], of_draws: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Where a log density is above its value at all but a small share of its own draws."""
    least = np.quantile(of_draws, OUTSIDE)
    return lambda z: score(z) >= least


def interval_scores(on_interval: list[bool]) -> Bijection | None:
    """From normal scores to unconstrained latents: other than the identity where a latent lies in an interval."""
    index, dim = tuple(i for i, yes in enumerate(on_interval) if yes), len(on_interval)
    if not index:
        return None
    layer = NormalToLogistic(len(index))
    return layer if len(index) == dim else Partial(layer, dim=dim, index=index)


def draw_inside(
    draw: Callable[[int, int], Rows], inside: Callable[[np.ndarray], np.ndarray], n: int, seed: int
) -> Rows:
    """So many simulations whose latents are inside of a region, by rejection.

    Raises:
        ValueError: too few of the prior's draws are inside.
    """
    kept: list[Rows] = []
    found = tried = 0
    seeds = np.random.SeedSequence(seed)
    while found < n:
        z, x = draw(n, int(seeds.spawn(1)[0].generate_state(1)[0]))
        rows = np.flatnonzero(inside(z))
        kept.append((z[rows], {name: v[rows] for name, v in x.items()}))
        found, tried = found + len(rows), tried + n
        if tried >= TRIES * n and found < n:
            raise ValueError(
                f"fit_amortized: of {tried:,} draws of the prior {found} are where the posterior is; take fewer "
                "rounds, or fit(model, AutoFlow(model)) where the model has a likelihood."
            )
    joined = {name: np.concatenate([x[name] for _, x in kept])[:n] for name in kept[0][1]}
    return np.concatenate([z for z, _ in kept])[:n], joined


def join(first: Rows, second: Rows) -> Rows:
    """Both, one after the other."""
    return (
        np.concatenate([first[0], second[0]]),
        {name: np.concatenate([first[1][name], second[1][name]]) for name in first[1]},
    )


def check_amortized(simulations: int | None, rounds: int, patience: int | None) -> None:
    """Raises TypeError or ValueError for options that ``fit_amortized`` does not take."""
    whole_number("fit_amortized", "rounds", rounds)
    if patience is not None:
        whole_number("fit_amortized", "patience", patience)
    if simulations is None:
        if rounds > 1:
            raise ValueError("fit_amortized: rounds share a number of simulations; give simulations=.")
        return
    if not isinstance(simulations, int | np.integer) or isinstance(simulations, bool):
        raise TypeError(f"fit_amortized: simulations must be a whole number, None, or a dict, got {simulations!r}.")
    if simulations // rounds < 100:
        raise ValueError(
            f"fit_amortized: simulations must be at least 100"
            f"{'' if rounds == 1 else ' a round'}, got {simulations // rounds}."
        )


def check_encoded(shape: tuple[int, ...], trains: bool) -> None:
    """Raises ValueError unless an encoder that trains gave contexts of this shape for 2 rows."""
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"encoder: for 2 rows it must give shape (2, context_dim), but gave {tuple(shape)}.")
    if not trains:
        raise ValueError("encoder: it has no parameters to train; what a fixed function gives can be the data itself.")
