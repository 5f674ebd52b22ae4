"""``fit``: stochastic variational inference with good defaults."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, RenyiELBO, TraceTailAdaptive_ELBO
from pyro.infer.autoguide import AutoGuide

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
from ppl_flows.pyro.checkpoint import open_checkpoint, with_modules
from ppl_flows.pyro.compile.replay import check_compile
from ppl_flows.pyro.elbo import choose_elbo
from ppl_flows.pyro.fit_errors import data_errors, vectorized_errors
from ppl_flows.pyro.fitted_guide import fitted_guide
from ppl_flows.pyro.flow_handlers import PathGradients
from ppl_flows.pyro.guide import AutoFlow
from ppl_flows.pyro.landscape import landscape_of
from ppl_flows.pyro.lazy_guide import set_up
from ppl_flows.pyro.mixture_fit import PyroMixture
from ppl_flows.pyro.rank_steps import check_one_process
from ppl_flows.pyro.ranks import current_ranks, over_ranks
from ppl_flows.pyro.save_fit import save_result
from ppl_flows.pyro.training import train

SINGLE_DRAWS = 1_000  # of the final ELBO, where they go one by one


@one_at_a_time
@over_ranks
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
    vectorize_particles: bool = True,
    compile: bool | str | None = None,
    callback: Callable[[int, float, dict[str, torch.Tensor]], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    check_modes: bool = True,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> FitResult:
    """Trains a guide, and the parameters in the model, by SVI; then measures the fit from fresh draws.

    Adam with a short warm-up and a cosine schedule on the negative ELBO, the parameters averaged over the last
    twentieth of the steps. The measure is of flows in evaluation mode, their running averages as the last steps left
    them. Training goes on from the parameters in Pyro's store, where there are any. Pyro's own ``SVI`` works on the
    same model and guide.

    In the processes of a group of ``torch.distributed``, as torchrun starts them, each takes its share of the
    particles, or of the rows of a sub-sampled plate; the numbers are those of one process, to rounding. ``callback``
    is called in all of them, and the first alone shows its progress.

    Discrete latents that the guide does not draw, and that the model marks ``infer={"enumerate": "parallel"}``, are
    summed over, in training as in the measure.

    Args:
        model, guide: any Pyro model, and ``AutoFlow`` or any other guide.
        *args, **kwargs: of the model and the guide.
        steps, num_particles: optimiser steps, and draws per step. None: what the guide's ``quality`` says, as in
            ``AutoFlow``; 2,000 steps of 64 for other guides.
        lr: largest learning rate. None: 0.01.
        clip: bound on the norm of the whole gradient, in nats of the whole data per parameter unit; where
            that is large, scale model and guide by one over the number of rows. None: 10. A gradient of more than
            three times the root mean square of the last hundred norms is shortened to that, too.
        loss: an ELBO object of Pyro's to train by, such as ``TraceGraph_ELBO()``. It has its own particles, there is no
            early end and no annealing, and ``estimator=None`` is ``"reparam"``. The measure of the trained guide is
            the same for every loss. None: ``Trace_ELBO``, or ``TraceEnum_ELBO`` where sites are enumerated.
        optimizer: an object of ``pyro.optim``, or a function of the parameters that gives a torch optimiser, such as
            ``functools.partial(torch.optim.AdamW, lr=1e-2)``: with its own rates, schedule and clipping, in place of
            ``lr`` and ``clip``. Its parameters are averaged likewise. Schedulers are yours to step, in ``callback``.
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
        draws: number of fresh draws that the fit is measured by. None: 10,000, or 1,000 where they go one by one.
        vectorize_particles: all draws, of ``loss`` only those of the measure, in one run of the model; False for models
            that cannot run under one more plate.
        compile: False: Pyro takes every step. ``"jit"``: the step, with model and guide, is captured once as a graph of
            tensors, and TorchScript replays it, four to ten times as fast, after some tenths of a second or, for deep
            flows, a second. ``"inductor"``: a C++ compiler makes one function of it, up to seven times as fast again,
            after a quarter of a minute or, for deep flows, minutes. ``"auto"``: whichever pays for so many steps: none
            below 200, the compiler, where there is one, above 20,000. What cannot be captured goes on in Python after
            one warning that names the reason: a score function, a branch or shape that depends on values, an inverse
            found by iteration, Python state that a run of the model changes, parameters that are not on a CPU.
            ``"strict"``: as auto for long fits, but raises. None: as auto, and False with ``loss`` or ``optimizer``;
            the reason is a line of level INFO in the log ``ppl_flows``, and a warning only where steps are taken again.
            The same seed gives the same draws, and to rounding the same fit. A replay does not run the model's Python
            code: prints stand still, and data, arguments included, must not change, but in ``callback``, after which
            Pyro takes the steps. Replays are compared with Pyro's steps before the first, then every 500 and at the
            end; steps since the last that agreed are taken again by Pyro where they do not.
        callback: called as ``callback(step, loss, params)`` after every ``max(1, steps // 20)`` steps: with the number
            of steps taken, the median loss of these, and their mean parameters, which the result would have and Pyro's
            store has meanwhile.
        check_modes: look for modes that the guide does not reach, by 48 optimisations of at most 100 gradients, from
            prior draws, points beyond the guide's draws, and the hosts' initial points; the verdict says what was
            found. For an ``AutoFlow`` whose model's log density is a function of its latents alone; other guides are
            not checked.
        seed: of all draws; torch's global generator is left as it was.
        progress: show, in a terminal or notebook, what is done, and a bar of the steps with the time that is left.
        checkpoint: path of a file that keeps the training: written every so many seconds, at its end, and at Ctrl-C.
            The same call in a new process, after this one was killed, goes on from there, and ends, on the same
            machine, with the very numbers of a fit that nothing stopped; after a finished training it gives the result
            without a step. Arguments and options are compared with those of the file, arrays by their values; data that
            a model reads elsewhere is not seen. ``callback`` is not called again for what was done. The
            file is yours to delete.
        checkpoint_every: in seconds; 0: after every second or step.

    Returns:
        A ``FitResult``: its verdict, ELBO and log evidence in nats, its draws.

    Raises:
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.
        CompileError: a RuntimeError; ``compile="strict"``, and the step cannot be compiled; ``.reason`` says why.
        ValueError: the guide is of another model, there is nothing to train, observed values are not finite, the model
            does not run for all particles at once, or mixes them, an option is out of its range, or options contradict
            each other, such as ``compile`` and ``loss``; the checkpoint is of another fit, in what the error names.
        RuntimeError: another process of the group failed, is gone, or makes another call: a ``RankError``.
        TypeError: an argument that neither ``fit`` nor the model has; an option of another kind, such as a key for a
            seed.
        FileFormatError: a ValueError; the checkpoint is a file of another kind, or damaged.

    Example:
        >>> import pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow, fit
        >>> pyro.clear_param_store()
        >>> model = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> result = fit(model, AutoFlow(model, pf.TriangularAffine, start="init"), steps=2, draws=100, progress=False)
        >>> result.sample(3)["z"].shape
        torch.Size([3])
    """
    check_not_swapped(model, AutoGuide)
    check_functions(model, guide, kwargs)
    checked_seed("fit", seed)
    check_loss(loss, ELBO, (RenyiELBO, TraceTailAdaptive_ELBO), num_particles, estimator, anneal)
    check_callback("fit", callback)
    lr, clip = step_sizes("fit", optimizer, lr, clip, default_lr=1e-2)
    with stage("looking for a start", progress=progress), data_errors(lambda _: model(*args, **kwargs)):
        set_up(guide, args, kwargs, seed)  # as steps and particles follow from the start
    look = first_look(guide, steps) if loss is None and tolerance is not None and anneal == 1 else None
    steps, num_particles = fit_budget(guide, steps, num_particles)
    check_fit(steps, num_particles, estimator, anneal, tolerance, draws)
    check_compile(compile, loss=loss, optimizer=optimizer)
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
            "vectorize_particles": vectorize_particles,
            "compile": compile,
            "seed": seed,
        },
        arguments=(args, kwargs),
        model=model,
        guide=guide,
        loss=loss,
    )
    given, model, guide = guide, partial(model, *args, **kwargs), partial(guide, *args, **kwargs)
    vectorize_particles = vectorize_particles and num_particles > 1

    def weighted_model(weight: Any) -> Any:
        with poutine.scale(scale=weight):
            return model()

    def scored_guide(_: Any = None) -> Any:
        with PathGradients(estimator="reparam" if loss is not None and estimator is None else estimator):
            return guide()

    own_guide = given if isinstance(given, AutoFlow) else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with own_guide.in_fit() if own_guide else nullcontext():
            choice = choose_elbo(weighted_model, scored_guide, num_particles, vectorize=vectorize_particles)
        elbo = choice.elbo
        make_fitted = partial(
            fitted_guide,
            model,
            guide,
            choice=choice,
            vectorized=vectorize_particles,
            num_particles=num_particles,
            seed=seed,
        )
        loop = partial(
            train,
            model=weighted_model if loss is None else model,
            guide=scored_guide,
            clip=clip,
            anneal=anneal,
            progress=progress,
            compile=compile,
            watch=callback,
        )
        with vectorized_errors(elbo, weighted_model, scored_guide):
            if own_guide and own_guide.num_modes > 1:
                check_mixture_options(own_guide, loss=loss, optimizer=optimizer, checkpoint=checkpoint)
                check_one_process(current_ranks())
                mixture = PyroMixture(own_guide, loop, make_fitted, elbo, num_particles, steps, lr, tolerance)
                trained = train_mixture(mixture, seed)
                mixture.settle(trained)
            else:
                trained = loop(
                    elbo if loss is None else copy.copy(loss),  # a copy, as some keep the first model that they see
                    weighted=loss is None,
                    steps=steps,
                    lr=lr,
                    optimizer=optimizer,
                    tolerance=tolerance if loss is None else None,
                    look=look,
                    checkpoint=saved and with_modules(saved, model.func, given),
                )
    fitted = make_fitted(trained.params)
    if draws is None:
        draws = EVALUATION_DRAWS if fitted.together else SINGLE_DRAWS
    measuring = stage(f"measuring by {draws:,} draws", progress=progress)
    with measuring, vectorized_errors(elbo, weighted_model, scored_guide):
        return measure_fit(
            trained,
            fitted,
            near=own_guide.near(*args, **kwargs) if own_guide else (),
            landscape=landscape_of(own_guide, args, kwargs) if own_guide and check_modes else None,
            num_draws=draws,
            seed=seed,
            write=partial(
                save_result, guide=given, num_particles=num_particles, seed=seed, vectorized=vectorize_particles
            ),
        )
