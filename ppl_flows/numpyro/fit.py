"""``fit``: stochastic variational inference with good defaults."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from numpyro import handlers
from numpyro.infer import ELBO, RenyiELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoGuide

from ppl_flows.core.checks import checked_seed
from ppl_flows.inference.auto_flow import first_look, fit_budget
from ppl_flows.inference.checkpoint import name_of
from ppl_flows.inference.guide_checks import check_not_swapped
from ppl_flows.inference.measure_fit import EVALUATION_DRAWS, measure_fit
from ppl_flows.inference.mixture_fit import check_mixture_options, train_mixture
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.progress import stage
from ppl_flows.inference.results import FitResult
from ppl_flows.inference.validation import check_callback, check_fit, check_functions, check_loss, step_sizes
from ppl_flows.numpyro.checkpoint import describe_flows, open_checkpoint
from ppl_flows.numpyro.compile_once import check_not_jitted, random_key
from ppl_flows.numpyro.elbo import choose_elbo
from ppl_flows.numpyro.fit_errors import data_errors
from ppl_flows.numpyro.fitted_guide import FittedGuide
from ppl_flows.numpyro.flow_handlers import PathGradients
from ppl_flows.numpyro.guide import AutoFlow
from ppl_flows.numpyro.landscape import landscape_of
from ppl_flows.numpyro.lazy_guide import set_up
from ppl_flows.numpyro.mesh import Split, automatic, is_first, with_ambient_mesh
from ppl_flows.numpyro.mixture_fit import NumPyroMixture
from ppl_flows.numpyro.save_fit import save_result
from ppl_flows.numpyro.training import train


@one_at_a_time
@with_ambient_mesh
def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    steps: int | None = None,
    num_particles: int | None = None,
    lr: float | None = None,
    clip: float | None = None,
    loss: ELBO | None = None,
    optimizer: Any = None,
    estimator: str | None = None,
    anneal: float = 1.0,
    tolerance: float | None = 5e-4,
    draws: int | None = None,
    init_params: dict[str, Any] | None = None,
    callback: Callable[[int, float, dict[str, Any]], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    check_modes: bool = True,
    mesh: Mesh | None = None,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> FitResult:
    """Trains a guide, and the parameters in the model, by SVI; then measures the fit from fresh draws.

    Adam with a short warm-up and a cosine schedule on the negative ELBO, many steps per dispatch, the parameters
    averaged over the last twentieth of the steps. The measure is of flows in evaluation mode, their running averages
    as the last steps left them. NumPyro's own ``SVI`` works on the same model and guide.

    Discrete latents that the guide does not draw, and that the model marks ``infer={"enumerate": "parallel"}``, are
    summed over, in training as in the measure; NumPyro needs funsor for it.

    Args:
        model, guide: any NumPyro model, and ``AutoFlow`` or any other guide.
        *args, **kwargs: of the model and the guide.
        steps, num_particles: optimiser steps, and draws per step. None: what the guide's ``quality`` says, as in
            ``AutoFlow``; 2,000 steps of 64 for other guides.
        lr: largest learning rate. None: 0.01.
        clip: bound on the norm of the whole gradient, in nats of the whole data per parameter unit; where
            that is large, scale model and guide by one over the number of rows. None: 10. A gradient of more than
            three times the root mean square of the last hundred norms is shortened to that, too.
        loss: an ELBO object of NumPyro's to train by, such as ``TraceGraph_ELBO()``. It has its own particles, there is
            no early end and no annealing, and ``estimator=None`` is ``"reparam"``. The measure of the trained guide is
            the same for every loss. None: ``Trace_ELBO``, or ``TraceEnum_ELBO`` where sites are enumerated.
        optimizer: an optax transformation, or an object of ``numpyro.optim``, with its own rates, schedule and
            clipping, in place of ``lr`` and ``clip``. Its parameters are averaged likewise.
        estimator: of the gradient. ``"path"``: flows of the guide score their draws with parameters, and a context,
            that pass no gradient, so that the noise dies out near the posterior; costs one inverse pass per step.
            ``"reparam"``: the ordinary reparameterised gradient, steadier far from the posterior. None: the first for
            flows that started near the posterior, the second for all others. A hand-written guide says so with
            ``infer={"near_posterior": True}`` at the site of a flow.
        anneal: weight of the model's log density in the first step; it grows to 1 over the first half of the steps.
            Values such as 0.1 keep a guide from falling into one of several modes early.
        tolerance: in nats; the fit ends early when, from one twentieth of the steps to the next, the ELBO moved by less
            and the spread of the log weights puts ``KL(guide || posterior)`` below it. Where an ``AutoFlow``
            started within a quarter of a nat, the rate comes to 0 after 1,000 steps already, or 500 of a hundredth of a
            nat: they are all where they leave less than .01 nats, and else it rises once more. None: all steps are
            taken.
        draws: number of fresh draws that the fit is measured by. None: 10,000.
        callback: called as ``callback(step, loss, params)`` after every ``max(1, steps // 20)`` steps: with the number
            of steps taken, the median loss of these, and their mean parameters, which the result would have.
        init_params: parameters to go on from, such as those of an earlier result; the others start as usual.
        check_modes: look for modes that the guide does not reach, by 48 optimisations of at most 100 gradients, from
            prior draws, points beyond the guide's draws, and the hosts' initial points; the verdict says what was
            found. For an ``AutoFlow`` whose model's log density is a function of its latents alone; other guides are
            not checked.
        mesh: a ``jax.sharding.Mesh``, over whose devices a step's particles are divided, and the draws of the measure
            and of the result. Over an axis called ``"rows"``, and those over which you have divided an argument, rows
            are: those arguments, and what plates with a ``subsample_size`` draw. Each device has all parameters. Losses
            are those of one device, to rounding. With several processes, every one has the same ``PYTHONHASHSEED`` and
            makes the same calls, those of the result as well; the first shows progress and writes checkpoints. None:
            the mesh of ``jax.set_mesh``, or of an argument; else one device.
        seed: of all draws.
        progress: show, in a terminal or notebook, what is done, and a bar of the steps with the time that is left.
        checkpoint: path of a file that keeps the training: written every so many seconds, at its end, and at Ctrl-C.
            The same call in a new process, after this one was killed, goes on from there, and ends, on the same
            machine, with the very numbers of a fit that nothing stopped; after a finished training it gives the result
            without a step. Arguments and options are compared with those of the file, arrays by their values; data that
            a model reads elsewhere is not seen, nor what an optax transformation has in it. ``callback`` is not called
            again for what was done. The file is yours to delete.
        checkpoint_every: in seconds; 0: after every second or step.

    Returns:
        A ``FitResult``: its verdict, ELBO and log evidence in nats, its draws.

    Raises:
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.
        ValueError: the guide is of another model, there is nothing to train, observed values are not finite, an
            option is out of its range, or options contradict each other; the checkpoint is of another fit, in what the
            error names.
        TypeError: an argument that neither ``fit`` nor the model has; an option of another kind, such as a key for a
            seed; a jitted model; no mesh.
        FileFormatError: a ValueError; the checkpoint is a file of another kind, or damaged.
        RuntimeError: the processes of the mesh have not come to the same program.

    Example:
        >>> import numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import AutoFlow, fit
        >>> model = lambda: numpyro.sample("z", dist.Normal(0.0, 1.0))
        >>> result = fit(model, AutoFlow(model, pf.TriangularAffine, start="init"), steps=2, draws=100, progress=False)
        >>> result.sample(3)["z"].shape
        (3,)
    """
    check_not_jitted(model)
    check_not_swapped(model, AutoGuide)
    check_functions(model, guide, kwargs)
    checked_seed("fit", seed)
    check_loss(loss, ELBO, (RenyiELBO,), num_particles, estimator, anneal)
    check_callback("fit", callback)
    lr, clip = step_sizes("fit", optimizer, lr, clip, default_lr=1e-2)
    args, kwargs = automatic((args, kwargs))
    split = Split.of_fit(mesh, (args, kwargs))
    progress = progress and is_first(split)
    bound_model, bound_guide = partial(model, *args, **kwargs), partial(guide, *args, **kwargs)
    train_key = random_key(seed)
    with stage("looking for a start", progress=progress), data_errors(bound_model):
        set_up(guide, args, kwargs, seed, init_params or {})  # as steps and particles follow from the start
    look = first_look(guide, steps) if loss is None and tolerance is not None and anneal == 1 else None
    steps, num_particles = fit_budget(guide, steps, num_particles)
    draws = EVALUATION_DRAWS if draws is None else draws
    check_fit(steps, num_particles, estimator, anneal, tolerance, draws)
    if split:
        split.check(num_particles if loss is None else loss.num_particles)
    saved = open_checkpoint(
        checkpoint,
        checkpoint_every,
        options={
            "steps": steps,
            "num_particles": num_particles,
            "optimizer": optimizer and name_of(optimizer),
            "lr": lr,
            "clip": clip,
            "estimator": estimator,
            "anneal": anneal,
            "tolerance": tolerance,
            "look": look,
            "seed": seed,
        },
        arguments=(args, kwargs),
        model=model,
        guide=guide,
        loss=loss,
        init_params=init_params,
    )

    def weighted_model(weight: jax.Array) -> Any:
        with handlers.scale(scale=weight):
            return bound_model()

    def plain_model(_: jax.Array) -> Any:
        return bound_model()

    def scored_guide(_: jax.Array) -> Any:
        with PathGradients(estimator="reparam" if loss is not None and estimator is None else estimator):
            return bound_guide()

    with guide.in_fit() if isinstance(guide, AutoFlow) else nullcontext():
        choice = choose_elbo(bound_model, bound_guide, num_particles, train_key, init_params or {})
    enumerates = isinstance(choice.elbo, TraceEnum_ELBO)
    if enumerates and anneal < 1:
        raise ValueError("anneal: NumPyro's sum over enumerated sites takes no weights; use anneal=1.0.")
    if saved:
        saved.compare({"flows": describe_flows(guide)})
    own_guide = guide if isinstance(guide, AutoFlow) else None
    make_fitted = partial(
        FittedGuide, model, guide, args, kwargs, choice=choice, num_particles=num_particles, seed=seed, split=split
    )
    loop = partial(
        train,
        model=weighted_model if loss is None and not enumerates else plain_model,
        guide=scored_guide,
        clip=clip,
        anneal=anneal,
        progress=progress,
        watch=callback,
        split=split,
    )
    if own_guide and own_guide.num_modes > 1:
        check_mixture_options(own_guide, loss=loss, optimizer=optimizer, checkpoint=checkpoint)
        trained = train_mixture(
            NumPyroMixture(own_guide, loop, make_fitted, choice, train_key, steps, lr, tolerance, init_params), seed
        )
    else:
        trained = loop(
            train_key,
            choice.elbo if loss is None else loss,
            steps=steps,
            lr=lr,
            optimizer=optimizer,
            tolerance=tolerance if loss is None else None,
            look=look,
            init_params=init_params,
            checkpoint=saved,
        )
    with stage(f"measuring by {draws:,} draws", progress=progress):
        return measure_fit(
            trained,
            make_fitted(trained.params),
            near=own_guide.near(trained.params, *args, **kwargs) if own_guide else (),
            landscape=landscape_of(guide, args, kwargs, trained.params) if own_guide and check_modes else None,
            num_draws=draws,
            seed=seed,
            write=partial(save_result, guide=guide, num_particles=num_particles, seed=seed),
        )
