"""Training steps without Python: the whole step is captured once, compiled, and replayed."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ppl_flows.inference.warn_user import warn_user
from ppl_flows.pyro.adam import BETAS
from ppl_flows.pyro.compile.capture import CompileError, as_compile_error
from ppl_flows.pyro.compile.python_state import changed, python_state
from ppl_flows.pyro.compile.step import Step, capture_step, compile_step
from ppl_flows.pyro.eager_step import EagerSteps
from ppl_flows.pyro.params import stored_state

COMPILE = (None, False, "auto", "jit", "inductor", "strict")
JIT_STEPS, INDUCTOR_STEPS = 200, 20_000  # from so many on a fit takes less time with than without
LOG = logging.getLogger("ppl_flows")
CHECK_STEPS = 500  # between two comparisons with an eager step
MOVE = 0.01  # of the parameters, for comparisons from nearby
DIFFERENT = (
    "a step in Python gives another result than its replay: the model or guide reads something that changes from step "
    "to step and is no tensor of theirs, such as a counter, a loader of batches, or random numbers that are not torch's"
)


class Replay:
    """The loop's steps by a compiled function of tensors, which starts where the eager steps are.

    Everything that changes is in its tensors; Pyro's store has the parameters after each ``run``.

    Args:
        eager: has taken the first step.
        backend: ``"jit"`` or ``"inductor"``.
        step: the captured step.

    Raises:
        CompileError: the backend fails, or its steps are not the eager ones.
    """

    def __init__(self, eager: EagerSteps, step: Step, backend: str) -> None:
        self._eager, self._parameters, self._sizes = eager, [*eager.names], step.sizes
        moments = [eager.optimizer.state.get(p, {}) for p in self._parameters]
        x = _flat(self._parameters)
        m, v = (
            _flat([s.get(key, torch.zeros_like(p)) for s, p in zip(moments, self._parameters, strict=True)])
            for key in ("exp_avg", "exp_avg_sq")
        )
        taken = max((float(s["step"]) for s in moments if s), default=0.0)
        counts = torch.tensor([taken, eager.skipped, eager.running], dtype=torch.float64)
        state = [a.clone() for a in stored_state().values()]
        self._now = [x, m, v, _flat([*eager.means.values()]), counts, *state]
        row = torch.tensor([step.example_weight, 1e-3, 1.0], dtype=torch.float64)
        self._batch = eager.batches.tensors if eager.batches else []
        with as_compile_error(f"backend {backend!r}"):
            self._step = compile_step(step, [*self._now, row, *self._batch], backend)
        self._verify(row)
        self._python_state = state_of(eager)
        self._since = 0
        self._good = self._now, torch.get_rng_state()

    def run(self, plan: np.ndarray, first: int = 0) -> Iterator[float]:
        """As ``EagerSteps.run``, but it ends with the plan.

        Raises:
            CompileError: a step is no longer the eager one. Parameters and random numbers are then those of the last
                step at which it was, ``error.lost`` steps ago.
        """
        for i in range(0, len(plan), CHECK_STEPS):
            rows = torch.tensor(plan[i : i + CHECK_STEPS]).unbind()
            losses = []
            if self._since >= CHECK_STEPS:
                self.confirm(plan[i])
            batches = self._eager.batches
            for step, piece in enumerate([[row] for row in rows] if batches else [rows], first + i):
                if batches:
                    batches.load(step)  # whose errors are no reason to go on without compiling
                with self._or_back(), torch.no_grad(), as_compile_error("a compiled step"):
                    for row in piece:
                        loss, *self._now = self._step(*self._now, row, *self._batch)
                        losses.append(loss)
            self.sync()
            self._since += len(losses)
            yield from torch.stack(losses).tolist()

    def confirm(self, row: np.ndarray) -> None:
        """Compares a step from here with the eager one, so that those so far will stand.

        Raises:
            CompileError: as ``run``.
        """
        if not self._since:
            return
        with self._or_back():
            self._check(torch.tensor(row))
        self._since, self._good = 0, (self._now, torch.get_rng_state())

    def look_again(self) -> None:
        """Code that is not the model's has run, and may have changed what this reads.

        Raises:
            CompileError: it has. The eager steps go on from here.
        """
        if place := changed(self._python_state, state_of(self._eager)):
            self.hand_over()
            raise CompileError(f"the callback changed {place!r}, which the model or guide can read")

    @contextmanager
    def _or_back(self) -> Iterator[None]:
        """At a CompileError the eager steps go on from the last step that is known to be theirs."""
        try:
            yield
        except CompileError as error:
            error.lost = self._since
            self._now, random = self._good
            torch.set_rng_state(random)
            self.hand_over()
            raise

    @property
    def skipped(self) -> int:
        return int(self._now[4][1])

    @property
    def running(self) -> int:
        return int(self._now[4][2])

    def sync(self) -> None:
        """Pyro's store has the parameters, and the eager steps their means."""
        x, _, _, mean, _, *state = self._now
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, self._views(x))
            torch._foreach_copy_([self._eager.means[p] for p in self._parameters], self._views(mean))
            for old, new in zip(stored_state().values(), state, strict=True):
                old.copy_(new)

    def hand_over(self) -> None:
        """The eager steps go on from here."""
        self.sync()
        _, m, v, _, counts, *_ = self._now
        self._eager.skipped, self._eager.running = self.skipped, self.running
        for p, *moments in zip(self._parameters, self._views(m), self._views(v), strict=True):
            mean, square = (a.clone() for a in moments)
            self._eager.optimizer.state[p] = {"step": counts[0].float(), "exp_avg": mean, "exp_avg_sq": square}

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        parts = flat.split(self._sizes)
        return [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]

    def _verify(self, row: torch.Tensor) -> None:
        """Compares steps from other parameters, with two seeds, before anything is trained."""
        with torch.random.fork_rng():
            for seed in (1, 2):
                torch.manual_seed(seed)
                self._check(row, MOVE)

    def _check(self, row: torch.Tensor, move: float = 0.0) -> None:
        """Compares the step with the eager one, from here or, with ``move``, from nearby.

        A gradient that alone differs is compared again, nearby: that of a spline jumps at its knots, where rounding
        decides on which side a point is.

        Raises:
            CompileError: they differ.
        """
        now, before = self._now, torch.get_rng_state()
        try:
            for distance in (move, MOVE, MOVE):
                self._now = [now[0] + distance * torch.randn_like(now[0]), *now[1:]]
                if self._gradients_agree(row):
                    return
        finally:
            self._now = now
            torch.set_rng_state(before)
            self.sync()
        raise CompileError(DIFFERENT)

    def _gradients_agree(self, row: torch.Tensor) -> bool:
        """Whether the step has the eager one's gradient.

        Raises:
            CompileError: losses, states, or the random numbers taken differ.
        """
        self.hand_over()  # the eager bound on a gradient's norm is by Adam's moments
        before = torch.get_rng_state()
        with torch.no_grad(), as_compile_error("a compiled step"):
            loss, _, m, _, _, counts, *state = self._step(*self._now, row, *self._batch)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        expected, finite = self._eager.gradient(float(row[0]))
        gradient = _flat([torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters])
        self._eager.optimizer.zero_grad()
        if finite != bool(counts[2] == 0):
            raise CompileError("a step is finite and its replay is not, or the other way round")
        if not finite:
            return True
        same_numbers = torch.equal(torch.get_rng_state(), after)
        same_state = all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(state, stored_state().values(), strict=True)
        )
        if not (abs(float(loss) - expected) <= 1e-4 * (1 + abs(expected)) and same_state and same_numbers):
            raise CompileError(DIFFERENT)
        error = torch.linalg.vector_norm(m - torch.lerp(self._now[1], gradient, 1 - BETAS[0])) / (1 - BETAS[0])
        # rounding of float32, also where large terms of the gradient cancel
        return bool(error <= 1e-3 * torch.linalg.vector_norm(gradient) + 1e-5 * (1 + abs(expected)))


def check_compile(compile: bool | str | None, *, loss: Any = None, optimizer: Any = None) -> None:
    """Raises ValueError for what ``fit(compile=)`` does not take, alone or with a loss or optimiser of the host's."""
    if compile not in COMPILE or compile == 1 or (isinstance(compile, int) and compile is not False):
        raise ValueError(f"compile must be one of {', '.join(map(repr, COMPILE))}, got {compile!r}.")
    for name, value in (("loss", loss), ("optimizer", optimizer)):
        if compile and value is not None:
            raise ValueError(
                f"compile={compile!r} and {name}=: the compiled step is that of fit's own ELBO and optimiser; use "
                f"compile=False, or leave {name} out."
            )


def start_replay(
    eager: EagerSteps, compile: bool | str | None, steps: int, before: dict[str, Any] | None = None, *, annealed: bool
) -> EagerSteps | Replay:
    """What takes so many more steps: ``compile`` as in ``fit``, but not False.

    Args:
        before: of ``state_of``, a step ago.

    Raises:
        CompileError: the step cannot be captured, or compiled.
    """
    if compile in (None, "auto") and steps < JIT_STEPS:
        return eager
    backends = ["inductor"] if compile == "inductor" else ["jit"]
    if compile in (None, "auto", "strict") and steps > INDUCTOR_STEPS and has_compiler():
        backends = ["inductor", "jit"]
    now = state_of(eager)
    _check_unchanged(now if before is None else before, now)
    step = capture_step(eager, annealed=annealed)
    _check_unchanged(now, state_of(eager))
    for backend in backends[:-1]:
        try:
            return Replay(eager, step, backend)
        except CompileError as error:
            if compile == "strict":
                raise
            say(f"fit goes on with TorchScript: {error.reason}.", compile)
    return Replay(eager, step, backends[-1])


def _check_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    if place := changed(before, after):
        raise CompileError(
            f"each run of the model or guide may change {place!r}, and a replay runs no Python code of theirs"
        )


def say(message: str, compile: bool | str | None, *, matters: bool = False) -> None:
    """A warning where ``compile`` was asked for, or where it ``matters``; else a line in the log."""
    if compile is None and not matters:
        LOG.info(message)
    else:
        warn_user(message)


def state_of(eager: EagerSteps) -> dict[str, Any]:
    """Of the model and the guide; without what is trained."""
    batch = eager.batches.tensors if eager.batches else []
    return python_state(eager.model, eager.guide, ignored=[*eager.names, *stored_state().values(), *batch])


def has_compiler() -> bool:
    """Whether there is a C++ compiler for inductor."""
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "cl"))


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])
