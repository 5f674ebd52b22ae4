"""Checkpoints of trainings in Pyro: tensors as NumPy keeps them, and what says which fit it is."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro.optim import PyroOptim

from ppl_flows.inference import checkpoint as shared
from ppl_flows.inference.checkpoint import Checkpoint, name_of
from ppl_flows.pyro.eager_step import EagerSteps
from ppl_flows.pyro.params import stored_state
from ppl_flows.pyro.ranks import current_ranks, generator_states, set_generator_states
from ppl_flows.pyro.transform import FlowTransform


def open_checkpoint(
    path: str | os.PathLike[str] | None,
    every: float,
    *,
    options: Mapping[str, Any],
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    **names: Any,
) -> Checkpoint | None:
    """The checkpoint of a fit with these options, arguments of its model, and other objects by name.

    Raises:
        As ``Checkpoint``.
        RankError: another process of the group makes another call, or sees another file.
    """
    ranks = current_ranks()
    if path is None and ranks is None:
        return None
    environment = {m.__name__: str(m.__version__) for m in (torch, pyro, np)}
    environment["default dtype"] = str(torch.get_default_dtype())
    fit = {
        "language": "pyro",
        "options": {name: describe(value) for name, value in options.items()},
        "arguments": shared.describe_arguments(*arguments, _array_of),
        **{name: describe(value) for name, value in names.items()},
        "environment": environment,
    }
    checkpoint = None if path is None else Checkpoint(path, every, fit, _array_of, _array_from)
    if ranks:
        step = checkpoint.saved["step"] if checkpoint and checkpoint.saved else 0
        ranks.check_call({**fit, "step in the checkpoint, a file that all processes see": step})
    return checkpoint


def _array_of(value: Any) -> tuple[np.ndarray, str] | None:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return None if array.dtype.kind in "OUSV" else (array, f"numpy.{array.dtype}")
    if not isinstance(value, torch.Tensor):
        return None
    tensor = value.detach().cpu()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy(), str(tensor.dtype)


def _array_from(array: np.ndarray, dtype: str) -> Any:
    if dtype.startswith("numpy."):
        return array
    tensor = torch.tensor(array)
    return tensor.view(torch.bfloat16) if dtype == "torch.bfloat16" else tensor


describe = partial(shared.describe, array_of=_array_of)


def with_modules(checkpoint: Checkpoint, *modules: Any) -> Checkpoint:
    """The checkpoint, of modules that are set up: it compares their flows, and keeps their buffers.

    Raises:
        ValueError: the flows are others.
    """
    found = [module for module in modules if isinstance(module, torch.nn.Module)]
    flows = [part for module in found for part in module.modules() if isinstance(part, FlowTransform)]
    checkpoint.compare({"flows": [repr(flow.bijection) for flow in flows]})
    return checkpoint.keep({"buffers": Buffers(found)})


class Buffers:
    """What modules have that is no parameter, such as running averages, once they are set up."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self._modules = modules

    def saved(self) -> list[dict[str, torch.Tensor]]:
        """Of each module, by name."""
        return [dict(module.named_buffers()) for module in self._modules]

    def restore(self, saved: list[dict[str, torch.Tensor]], _: Any) -> None:
        """As they were then."""
        for module, values in zip(self._modules, saved, strict=True):
            for name, buffer in module.named_buffers():
                buffer.copy_(values[name])


@dataclass
class SoFar:
    """How far a training is.

    Attributes:
        losses: of all its steps, nan for those to come.
        step: number of steps taken.
        finished: whether no more will be.
        gave_up: whether they cannot be compiled.
    """

    losses: np.ndarray
    step: int = 0
    finished: bool = False
    gave_up: bool = False

    def add(self, loss: float) -> None:
        """The next step had this loss."""
        self.losses[self.step] = loss
        self.step += 1

    def give_up(self, lost: int) -> None:
        """So many steps will be taken again, and not be compiled."""
        self.step -= lost
        self.gave_up = True


def take_up(checkpoint: Checkpoint | None, eager: EagerSteps, steps: int, weight: float) -> SoFar:
    """Where a training of so many steps begins: at its checkpoint, if there is one in the file.

    Raises:
        FileFormatError: it cannot be.
        ValueError: its parameters or its optimiser are others.
    """
    so_far = SoFar(np.full(steps, np.nan))
    if checkpoint is None or checkpoint.saved is None:
        return so_far
    eager.gradient(weight)  # which makes the parameters
    checkpoint.compare(_describe_steps(eager))
    saved = checkpoint.saved
    with checkpoint.faults():
        so_far.step, so_far.finished, so_far.gave_up = saved["step"], saved["finished"], saved["gave_up"]
        so_far.losses[: so_far.step] = saved["losses"]
        _restore(eager, saved["steps"])
        checkpoint.restore_kept()
    return so_far


def write(checkpoint: Checkpoint, eager: EagerSteps, so_far: SoFar) -> None:
    """Writes all that the next step depends on.

    Raises:
        ValueError: there are parameters that the first step did not have.
        TypeError: the optimiser keeps something that no file can.
    """
    checkpoint.compare(_describe_steps(eager))
    checkpoint.write(
        {
            "step": so_far.step,
            "finished": so_far.finished,
            "gave_up": so_far.gave_up,
            "losses": so_far.losses[: so_far.step],
            "steps": _snapshot(eager),
        }
    )


def _describe_steps(eager: EagerSteps) -> dict[str, Any]:
    """The parameters, and the optimiser that was made for them, after the first gradient."""
    store = pyro.get_param_store()
    parameters = {name: f"{p.dtype} {tuple(p.shape)}" for p, name in eager.names.items()}
    state = {name: f"{store[name].dtype} {tuple(store[name].shape)}" for name in stored_state()}
    return {"parameters": parameters | state, "optimizer's state": _describe_optimizer(eager.optimizer)}


def _describe_optimizer(optimizer: Any) -> Any:
    if isinstance(optimizer, PyroOptim):
        arguments = optimizer.pt_optim_args, optimizer.pt_clip_args
        return {"class": name_of(optimizer.pt_optim_constructor), "arguments": describe(arguments)}
    return {"class": name_of(optimizer), "arguments": describe(optimizer.defaults)}


def _snapshot(eager: EagerSteps) -> dict[str, Any]:
    """All that the next step depends on."""
    names, optimizer = eager.names, eager.optimizer
    if isinstance(optimizer, PyroOptim):
        optimizer = copy.copy(optimizer)  # of this fit's parameters only: those of earlier ones are in no store
        optimizer.optim_objs = {p: o for p, o in optimizer.optim_objs.items() if p in names}
    return {
        "params": {name: p for p, name in names.items()},
        "means": {name: eager.means[p] for p, name in names.items()},
        "state": stored_state(),
        "optimizer": optimizer.get_state() if isinstance(optimizer, PyroOptim) else optimizer.state_dict(),
        "random": generator_states(),
        "counts": [eager.skipped, eager.running],
    }


def _restore(eager: EagerSteps, saved: Mapping[str, Any]) -> None:
    """The steps are where they were in this snapshot; they have their parameters."""
    with torch.no_grad():
        for p, name in eager.names.items():
            p.grad = None
            p.copy_(saved["params"][name])
            eager.means[p].copy_(saved["means"][name])
        for name, value in stored_state().items():
            value.copy_(saved["state"][name])
    if isinstance(eager.optimizer, PyroOptim):
        eager.optimizer.optim_objs = {}  # it makes them anew, in the states that it is given
        eager.optimizer.set_state(saved["optimizer"])
    else:
        eager.optimizer.load_state_dict(saved["optimizer"])
    eager.skipped, eager.running = saved["counts"]
    set_generator_states(saved["random"])
