"""``fit_amortized``: one conditional flow that is the posterior for every data set, trained by simulation."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.types import Params
from ppl_flows.encoders import SetEncoder
from ppl_flows.inference.amortized import QUANTILE_DRAWS, Plan, Rows, in_rounds, region_above
from ppl_flows.inference.density_results import AmortizedFit, DensityFit
from ppl_flows.inference.observations import Observations, set_axes
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.simulation_checks import warn_elsewhere
from ppl_flows.inference.stored_simulations import StoredSimulations
from ppl_flows.pyro.amortized_files import save_amortized
from ppl_flows.pyro.compile.replay import check_compile
from ppl_flows.pyro.context import Context, checked_encoder, to_tensors
from ppl_flows.pyro.correct import correct
from ppl_flows.pyro.density_training import train_density
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.model_runs import model_data
from ppl_flows.pyro.ranks import over_ranks
from ppl_flows.pyro.simulator import Simulator, observed


@one_at_a_time
@over_ranks
def fit_amortized(
    model: Callable[..., Any],
    *args: Any,
    flow: Callable[..., Bijection] | None = None,
    encoder: torch.nn.Module | SetEncoder | None = None,
    simulations: int | Mapping[str, Any] | None = 20_000,
    rounds: int = 1,
    validation: float = 0.1,
    patience: int | None = 4,
    vectorize: bool = True,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: Any = None,
    compile: bool | str | None = None,
    callback: Callable[[int, float, Params], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> AmortizedFit:
    """Fits ``q(latents | data)`` for all data at once: neural posterior estimation.

    Draws latents and data together from the model and maximises the mean of ``log q(latents | data)``, which is the
    expected KL from the posterior up to a constant. No likelihood is evaluated, so that any model will do that can be
    simulated; the posterior of new data is one pass of the flow. It starts at the normal around a linear regression of
    the latents on the data.

    Args:
        model: a Pyro model with continuous latents; its sites with ``obs`` are the data.
        *args, **kwargs: of the model: any data of the right shapes, whose values are not used, except with rounds.
        flow: recipe of the conditional flow: ``(dim, context_dim=...) -> Bijection``. None: ``pf.nsf`` of a size that
            goes with the simulations.
        encoder: a ``pf.SetEncoder``, where the data are the rows of a plate, i.i.d. given the latents; or a network of
            your own from the data, ``{site: (n, *site shape)}`` for n data sets, each site centred and scaled as a
            whole, to ``(n, context_dim)``. A copy of that trains, and is ``.density.encoder`` of the result.
            None: all numbers of the data in one vector, each centred and scaled.
        simulations: number of draws from the model, made once. None: every step draws its own, so that nothing is seen
            twice and nothing can be overfitted; for models that simulate fast.
            Or simulations that were made before, ``{site: (n, *site shape)}``, of all latents, on their own supports,
            and all data; arrays on disk are read as those of ``fit_density`` are, and need not fit into memory.
        rounds: above 1, the fit is for the data in the arguments alone: a share of the simulations is drawn in each
            round, from the prior cut to where the posterior of the round before has all but 1e-4 of its mass at these
            data. ``sample`` warns for others.
        validation: share of the simulations that are held out: the parameters are those that score best on them. Not
            used on the fly.
        patience: training ends when so many blocks, twentieths of the steps, have brought no smaller validation loss.
            None: it takes all steps.
        vectorize: all of them in one run of the model, under one more plate; False for models that cannot.
        steps, batch_size: as in ``fit_density``. None: what goes with the simulations, 2,000 to 10,000 and 50 to 256.
        optimizer, compile, callback, seed, progress: as in ``fit_density``.
        checkpoint, checkpoint_every: likewise, with one round; the simulations are made anew, and must be the same.
        lr: likewise. None: what goes with the simulations, 0.0005 to 0.002.

    Returns:
        An ``AmortizedFit``: ``sample(n, *args)`` draws from the posterior of the data in the arguments.

    Raises:
        ValueError: the model observes nothing, has no latents, discrete ones, one whose support depends on others, a
            factor, or a site that is masked or scaled, or it simulates numbers that are not finite; fewer than 100
            simulations a round; an encoder whose result has another shape, or that has nothing to train; a
            ``SetEncoder`` without a plate of its own; rounds on the fly, with stored simulations or with a checkpoint;
            stored simulations of other sites or shapes, or with latents outside of their supports; a number out of its
            range; an optimiser and ``lr`` or ``compile``.
        TypeError: the encoder is neither; simulations that are neither a number nor a dict of arrays; an option of
            another kind.
        FileNotFoundError: there is no such directory for the checkpoint.
        CompileError: as in ``fit_density``.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_amortized
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> fit = fit_amortized(model, torch.tensor(0.0), flow=pf.Elementwise, simulations=100, steps=2, progress=False)
        >>> fit.sample(3, torch.tensor(1.0))["z"].shape
        torch.Size([3])

    Reference: Papamakarios & Murray (2016), Fast epsilon-free Inference of Simulation Models, arXiv:1605.06376;
        Greenberg et al. (2019), Automatic Posterior Transformation, arXiv:1905.07488; rounds: Deistler et al. (2022),
        Truncated Proposals for Scalable and Hassle-free Simulation-based Inference, arXiv:2210.04815.
    """
    stored = StoredSimulations.of(simulations, rounds)
    n: Any = stored.n if stored else simulations
    plan = Plan.of(
        n,
        rounds=rounds,
        patience=patience,
        steps=steps,
        batch_size=batch_size,
        validation=validation,
        lr=lr,
        optimizer=optimizer,
        flow=flow,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        seed=seed,
    )
    check_compile(compile, optimizer=optimizer)
    network = None if isinstance(encoder, SetEncoder) else checked_encoder(encoder)
    simulator = Simulator(model, args, kwargs, vectorize=vectorize)
    data, axes = simulator.data, None
    if isinstance(encoder, SetEncoder):
        axes = set_axes(simulator.plates(data), simulator.plates(simulator.latents), encoder.plate)
    target = observed(model, data, args, kwargs) if rounds > 1 else None

    def train_on(rows: Rows) -> tuple[DensityFit, Observations]:
        """The density of normal scores, and what its contexts are made by."""
        z, x = rows
        observations = Observations.from_rows(x, encoder=network is not None, axes=axes)
        dim = z.shape[-1]
        bijection = plan.flow_given(dim, encoder, observations, x)
        if bijection is None:
            first = Context(observations({name: value[:2] for name, value in x.items()}), network, simulator.like)
            bijection = plan.flow_of(dim, first.all_rows().shape[-1])

        def fresh(n: int, _: Any) -> tuple[Any, Any]:
            z, x = simulator.fresh(n)
            return z, observations(x)

        def given_to(x: dict[str, np.ndarray]) -> Any:
            return plan.to_validate_by(bijection, observations(x))

        fitted = train_density(
            bijection,
            stored.fetched(simulator, given_to) if stored else to_tensors(z, "data", simulator.like),
            base=None,
            context=None if stored else given_to(x),
            encoder=network,
            steps=plan.steps,
            batch_size=plan.batch_size,
            lr=plan.lr,
            clip=None,
            optimizer=optimizer,
            standardize=None,
            levels=None,
            validation=0.0 if simulations is None else validation,
            compile=compile,
            callback=callback,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            seed=seed,
            progress=progress,
            hooks=plan.hooks(bijection, regression=encoder is None, fresh=fresh if simulations is None else None),
        )
        return fitted, observations

    def given(fitted: DensityFit, observations: Observations, x: dict[str, np.ndarray]) -> tuple[Bijection, Any]:
        """The bijection for one data set, and its context."""
        own = observations.given(fitted.bijection, x)
        seen = to_tensors(observations(x), "data", simulator.like)
        with torch.no_grad():
            context = (seen if fitted.encoder is None else fitted.encoder(seen))[0]
        return own, context

    def region(fitted: DensityFit, observations: Observations) -> Callable[[np.ndarray], np.ndarray]:
        """Whether normal scores are where the posterior of the data in the arguments is."""
        bijection, context = given(fitted, observations, target or {})
        posterior = Flow(bijection, fitted.params, context=context)

        @torch.no_grad()
        def score(z: Any) -> np.ndarray:
            return posterior.log_prob(to_tensors(z, "data", simulator.like)).cpu().numpy()

        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            return region_above(score, score(posterior.sample((QUANTILE_DRAWS,))))

    fitted, observations, shift = in_rounds(
        stored.drawn_by(simulator) if stored else simulator.rows, train_on, region, plan, simulator.scores
    )
    bijection, params = plan.with_scores(fitted, simulator.scores)
    fitted = dataclasses.replace(
        fitted,
        bijection=bijection,
        params=params,
        flow=Flow(bijection, params),
        losses=fitted.losses + shift,
        validation_losses=None if fitted.validation_losses is None else fitted.validation_losses + shift,
    )

    def at(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bijection, torch.Tensor]:
        x = observed(model, data, args, kwargs)
        found = given(fitted, observations, x)
        warn_elsewhere(target, x)
        return found

    def draw(num_samples: int, seed: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
        own, context = at(args, kwargs)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            return simulator.place_free(Flow(own, params, context=context).sample((num_samples,)))

    write = partial(save_amortized, latents=simulator.latents, observations=observations)
    corrected = partial(correct, model=model, sizes=simulator.sizes, at=at, vectorize=vectorize)
    return AmortizedFit(fitted, draw, partial(model_data, model), write, corrected, observed=target)
