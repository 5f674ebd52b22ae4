"""Runs of a Pyro model at draws of its latents, and from its prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Predictive
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import prune_subsample_sites

from ppl_flows.inference.model_runs import Dims, ModelData, ModelRuns, named_arguments, plate_names
from ppl_flows.pyro.flow_handlers import EvaluationMode
from ppl_flows.pyro.run_size import PeakBytes, draws_per_run

Tensors = dict[str, torch.Tensor]
Sites = dict[str, Any]


class WithoutData(UnconditionMessenger):
    """Observed sites are drawn; not those that are functions of others, which the host's would give other shapes."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_data(msg):
            super()._pyro_sample(msg)


def run_at(
    model: Callable[..., Any], draws: Tensors, nesting: int | None, *, predictive: bool, log_likelihood: bool
) -> ModelRuns:
    """Many draws in one run, within nesting many plates of the model; one by one without nesting."""
    first, memory = _first_run(model, draws)
    data = {name: site for name, site in first.items() if is_data(site) and name not in draws}  # these are conditioned

    def scores(sites: Sites) -> Tensors:
        return {name: _masked(sites[name]["fn"].log_prob(sites[name]["value"]), sites[name]["mask"]) for name in data}

    return ModelRuns(
        at_draws(WithoutData()(model), draws, nesting, first, values_of(data), memory, random=True)
        if predictive
        else {},
        at_draws(model, draws, nesting, first, scores, memory) if log_likelihood else {},
        {name: site["value"].cpu().numpy() for name, site in data.items()},
        {name: _dims(site) for name, site in first.items()},
    )


def with_deterministic_sites(model: Callable[..., Any], draws: Tensors, nesting: int | None) -> Tensors:
    """The draws, and the model's deterministic sites, computed from them; ``nesting`` as of ``run_at``.

    Without these where the model draws what is not among the draws, as they would be made of the prior.
    """
    first, memory = _first_run(model, draws)
    found = [name for name, site in first.items() if site["infer"].get("_deterministic")]
    if not found or any(not site["is_observed"] for name, site in first.items() if name not in draws):
        return draws
    return {**draws, **at_draws(model, draws, nesting, first, values_of(found), memory)}


def at_draws(
    model: Callable[..., Any],
    draws: Tensors,
    nesting: int | None,
    first: Sites,
    read: Callable[[Sites], Tensors],
    memory: int,
    *,
    random: bool = False,
) -> Tensors:
    """What ``read`` finds in the sites of a run of the model at each of the draws, ``{name: (n, *shape)}``.

    Many draws are one run, within nesting many plates; they are run one by one without nesting, or where the one run
    gives values of other shapes or, unless these are random, other values. ``first`` are the sites at the first draw,
    whose run took so many bytes of memory.
    """
    with PeakBytes() as more:
        at_first = read(first)
    shapes = {name: value.shape for name, value in at_first.items()}
    if not shapes:
        return {}
    n = len(next(iter(draws.values())))

    def one(i: int) -> Tensors:
        return read(_run(model, _row(draws, i)))

    joined = None if nesting is None else _in_few_runs(model, draws, nesting, first, read, shapes, memory + more.peak)
    if joined is not None:
        ends = [] if random else [(0, at_first), (n - 1, one(n - 1))]
        if all(torch.allclose(joined[name][i], v, equal_nan=True) for i, row in ends for name, v in row.items()):
            return joined
    rows = [one(i) for i in range(n)]
    return {name: torch.stack([row[name] for row in rows]) for name in shapes}


def _in_few_runs(
    model: Callable[..., Any],
    draws: Tensors,
    nesting: int,
    first: Sites,
    read: Callable[[Sites], Tensors],
    shapes: dict[str, torch.Size],
    memory: int,
) -> Tensors | None:
    """As ``at_draws``; None where the values have other shapes."""
    pads = {name: (1,) * (nesting - len(first[name]["fn"].batch_shape)) for name in draws}
    blocks, at_once = [], draws_per_run(memory)
    for start in range(0, len(next(iter(draws.values()))), at_once):
        rows = {name: value[start : start + at_once] for name, value in draws.items()}
        size = len(next(iter(rows.values())))
        with pyro.plate("draws", size, dim=-1 - nesting):
            found = read(_run(model, {name: v.reshape(size, *pads[name], *v.shape[1:]) for name, v in rows.items()}))
        # what does not depend on the latents has no axis for the draws
        if any(v.numel() not in (size * shapes[name].numel(), shapes[name].numel()) for name, v in found.items()):
            return None
        blocks.append({name: v.reshape(-1, *shapes[name]).expand(size, *shapes[name]) for name, v in found.items()})
    return {name: torch.cat([block[name] for block in blocks]) for name in shapes}


def check_apart(model: Callable[..., Any], runs: list[Sites], nesting: int, *, way_out: str) -> None:
    """Raises ValueError where one run for many draws gives a site another log density than runs for each of them do.

    A model that cannot be run for many draws at all passes: it fails where it is. So do one whose sites change from run
    to run, sites without a log density, and those that depend on numbers which are no sites.

    Args:
        runs: the sample sites of runs of the model, without arguments.
        nesting: of the model's plates.
        way_out: the argument by which it is run for one draw at a time.
    """
    drawn = [{name: site["value"].detach() for name, site in run.items() if not site["is_observed"]} for run in runs]
    shapes, *others = ({name: value.shape for name, value in run.items()} for run in drawn)
    if not shapes or any(other != shapes for other in others):
        return
    draws = {name: torch.stack([run[name] for run in drawn]) for name in shapes}
    with poutine.block(), EvaluationMode(), pyro.validation_enabled(False), torch.random.fork_rng(), torch.no_grad():
        first, memory = _first_run(model, draws)
        again, apart = _log_probs(first), [_log_probs(_run(model, _row(draws, i))) for i in range(len(runs))]
        sizes = {name: value.shape for name, value in again.items()}
        try:
            together = _in_few_runs(model, draws, nesting, first, _log_probs, sizes, memory)
        except (RuntimeError, ValueError, IndexError, KeyError):  # of unexpected shapes, or of other sites
            return
    for name, scores in (together or {}).items():
        if any(name not in run for run in apart) or not _close(apart[0][name], again[name]):
            continue
        for joint, run in zip(scores, apart, strict=True):
            if not _close(joint, run[name]):
                raise ValueError(
                    f"the model mixes draws that it is run for at once: at one draw, site {name!r} has log density "
                    f"{run[name].sum():.4g} in a run of its own, and {joint.sum():.4g} in one for several draws. An "
                    "operation before it goes over all axes, as z.sum() does where z.sum(-1) is meant, or counts "
                    f"axes from the left. Count them from the right, or pass {way_out}"
                )


def _log_probs(sites: Sites) -> Tensors:
    """Of the sites that have them."""
    found: Tensors = {}
    for name, site in sites.items():
        if not site["infer"].get("_deterministic"):
            with suppress(NotImplementedError):
                found[name] = _masked(site["fn"].log_prob(site["value"]), site["mask"])
    return found


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Up to rounding, which near-singular matrices make large in single precision."""
    within = 1e-3 if one.dtype == torch.float64 else 3e-2
    return torch.allclose(one, other.to(one), rtol=within, atol=within, equal_nan=True)


def values_of(names: Iterable[str]) -> Callable[[Sites], Tensors]:
    """Of these sites."""
    return lambda sites: {name: sites[name]["value"] for name in names}


def model_data(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelData:
    """What a run of the model shows."""
    with torch.random.fork_rng(), torch.no_grad(), poutine.block():
        sites = _run(partial(model, *args, **kwargs), {})
    return ModelData(
        {name: site["value"].cpu().numpy() for name, site in sites.items() if is_data(site)},
        {name: _dims(site) for name, site in sites.items()},
        named_arguments(model, args, kwargs),
    )


def prior_draws(model: Callable[..., Any], num_samples: int, *, parallel: bool) -> tuple[Tensors, Tensors]:
    """Draws of the model itself: its latents and deterministic sites, and its observed sites.

    Raises:
        NotImplementedError: a prior cannot be drawn from.
    """
    free = WithoutData()(model)
    sites: Sites = prune_subsample_sites(poutine.trace(free).get_trace()).nodes
    drawn = {n: s for n, s in sites.items() if s["type"] == "sample" and not isinstance(s["fn"], dist.Unit)}
    values = Predictive(free, num_samples=num_samples, return_sites=[*drawn], parallel=parallel)()
    values = {name: values[name].reshape(num_samples, *site["value"].shape) for name, site in drawn.items()}
    data = {name for name, site in drawn.items() if is_data(site)}
    return {n: v for n, v in values.items() if n not in data}, {n: v for n, v in values.items() if n in data}


def is_data(site: dict[str, Any]) -> bool:
    """Whether a sample site is observed, or was, and no factor and no deterministic site."""
    observed = site["is_observed"] or site["infer"].get("was_observed")
    return bool(observed) and not (isinstance(site["fn"], dist.Unit) or _is_deterministic(site))


def _is_deterministic(site: dict[str, Any]) -> bool:
    """Likewise those that a reparametrisation has left: a masked Delta, without the mark."""
    fn = site["fn"]
    left = isinstance(fn, dist.MaskedDistribution) and fn._mask is False and isinstance(fn.base_dist, dist.Delta)
    return left or bool(site["infer"].get("_deterministic"))


def weighed(sites: Sites) -> dict[str, str]:
    """Of sample sites whose density is not that of what they draw: what changes it."""
    found = {}
    for name, site in sites.items():
        fn, mask = site["fn"], site["mask"]
        if isinstance(fn, dist.Unit) or (isinstance(fn, dist.Delta) and torch.any(fn.log_density != 0)):
            found[name] = "is a factor"  # a Delta with a density: of NeuTraReparam
        elif not _is_deterministic(site) and (_is_masked(fn) or not _all(mask)):
            found[name] = "is masked"
        elif torch.any(torch.as_tensor(site["scale"]) != 1):
            found[name] = "is scaled, as in a sub-sampled plate"
    return found


def _is_masked(fn: Any) -> bool:
    """Whether some of it is, inside of what the host has wrapped around."""
    own = isinstance(fn, dist.MaskedDistribution) and not _all(fn._mask)
    return own or (hasattr(fn, "base_dist") and _is_masked(fn.base_dist))


def _all(mask: bool | torch.Tensor | None) -> bool:
    return mask is None or bool(torch.as_tensor(mask).all())


def _first_run(model: Callable[..., Any], draws: Tensors) -> tuple[Sites, int]:
    """The sites at the first of the draws, and how many bytes the run took."""
    with PeakBytes() as memory:
        return _run(model, _row(draws, 0)), memory.peak


def _run(model: Callable[..., Any], rows: Tensors) -> Sites:
    return sample_sites(poutine.trace(poutine.condition(model, data=rows)).get_trace())


def sample_sites(trace: Any) -> Sites:
    """Those of a trace, by name."""
    nodes: Sites = prune_subsample_sites(trace).nodes
    return {name: site for name, site in nodes.items() if site["type"] == "sample"}


def _masked(log_prob: torch.Tensor, mask: bool | torch.Tensor | None) -> torch.Tensor:
    """0 for masked rows, as the host has it in its sums."""
    return log_prob if mask is None else torch.as_tensor(scale_and_mask(log_prob, mask=mask))


def _row(draws: Tensors, i: int) -> Tensors:
    return {name: value[i] for name, value in draws.items()}


def _dims(site: dict[str, Any]) -> Dims:
    plates = [(frame.name, frame.dim, frame.size) for frame in site["cond_indep_stack"] if frame.vectorized]
    unknown = site["infer"].get("_deterministic")
    return plate_names(tuple(site["value"].shape), plates, None if unknown else site["fn"].event_dim)
