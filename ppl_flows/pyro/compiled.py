"""Training steps without Python: the whole step is captured once, compiled, and replayed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_flows.pyro.capture import CaptureError, capture
from ppl_flows.pyro.eager import BETAS, Eager
from ppl_flows.pyro.graph_step import Step
from ppl_flows.pyro.params import stored_state

COMPILE = (False, "auto", "jit", "inductor", "strict")
JIT_STEPS, INDUCTOR_STEPS = 500, 20_000  # from so many on a fit takes less time with than without
CHECK_STEPS = 500  # between two comparisons with an eager step
MOVE = 0.01  # of the parameters, for the comparisons before use


class CompileError(RuntimeError):
    """A fit is not compiled, or no longer.

    Attributes:
        reason: why.
        lost: the number of last steps that count for nothing and are to be taken again.
    """

    def __init__(self, reason: str, lost: int = 0) -> None:
        super().__init__(
            f"the training step cannot be compiled: {reason}. Use compile=False, or 'auto', which then goes on in "
            "Python."
        )
        self.reason, self.lost = reason, lost


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

    def __init__(self, eager: Eager, step: Step, backend: str) -> None:
        self._eager, self._parameters, self._sizes = eager, [*eager.names], step.sizes
        moments = [eager.adam.state.get(p, {}) for p in self._parameters]
        x = _flat(self._parameters)
        m, v = (
            _flat([s.get(key, torch.zeros_like(p)) for s, p in zip(moments, self._parameters, strict=True)])
            for key in ("exp_avg", "exp_avg_sq")
        )
        taken = max((float(s["step"]) for s in moments if s), default=0.0)
        counts = torch.tensor([taken, eager.skipped, eager.running], dtype=torch.float64, device=x.device)
        state = [a.clone() for a in stored_state().values()]
        self._now = [x, m, v, _flat([*eager.means.values()]), counts, *state]
        row = torch.tensor([step.example_weight, 1e-3, 1.0], dtype=torch.float64, device=x.device)
        with _explained(f"backend {backend!r}"):
            self._step = compiled(step, [*self._now, row], backend)
        self._verify(row)
        self._since = 0
        self._good = self._now, torch.get_rng_state()

    def run(self, plan: np.ndarray) -> Iterator[float]:
        """As ``Eager.run``, but it ends with the plan.

        Raises:
            CompileError: a step is no longer the eager one. Parameters and random numbers are then those of the last
                step at which it was, ``error.lost`` steps ago.
        """
        for first in range(0, len(plan), CHECK_STEPS):
            rows = torch.tensor(plan[first : first + CHECK_STEPS], device=self._now[0].device).unbind()
            losses = []
            try:
                if self._since >= CHECK_STEPS:
                    self._check(rows[0])
                    self._since, self._good = 0, (self._now, torch.get_rng_state())
                with torch.no_grad(), _explained("a compiled step"):
                    for row in rows:
                        loss, *self._now = self._step(*self._now, row)
                        losses.append(loss)
            except CompileError as error:
                error.lost = self._since
                self._now, random = self._good
                torch.set_rng_state(random)
                self._hand_over()
                raise
            self.sync()
            self._since += len(losses)
            yield from torch.stack(losses).tolist()

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

    def _hand_over(self) -> None:
        """The eager steps go on from here."""
        self.sync()
        _, m, v, _, counts, *_ = self._now
        self._eager.skipped, self._eager.running = self.skipped, self.running
        for p, *moments in zip(self._parameters, self._views(m), self._views(v), strict=True):
            mean, square = (a.clone() for a in moments)
            self._eager.adam.state[p] = {"step": counts[0].float(), "exp_avg": mean, "exp_avg_sq": square}

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        parts = flat.split(self._sizes)
        return [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]

    def _verify(self, row: torch.Tensor) -> None:
        """Compares steps from other parameters, with two seeds, before anything is trained."""
        now = self._now
        with torch.random.fork_rng():
            for seed in (1, 2):
                torch.manual_seed(seed)
                self._now = [now[0] + MOVE * torch.randn_like(now[0]), *now[1:]]
                self._check(row)
        self._now = now
        self.sync()

    def _check(self, row: torch.Tensor) -> None:
        """Compares the step from here with the eager one: loss, gradient, state, and the random numbers it takes.

        Raises:
            CompileError: they differ.
        """
        self.sync()
        before = torch.get_rng_state()
        with torch.no_grad(), _explained("a compiled step"):
            loss, _, m, _, _, counts, *state = self._step(*self._now, row)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        expected, finite = self._eager.gradient(float(row[0]))
        gradient = _flat([torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters])
        self._eager.adam.zero_grad()
        same_numbers = torch.equal(torch.get_rng_state(), after)
        same_state = all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(state, stored_state().values(), strict=True)
        )
        torch.set_rng_state(before)
        self.sync()  # the eager step has moved running averages
        if finite != bool(counts[2] == 0):
            raise CompileError("a step is finite and its replay is not, or the other way round")
        if not finite:
            return
        error = torch.linalg.vector_norm(m - torch.lerp(self._now[1], gradient, 1 - BETAS[0])) / (1 - BETAS[0])
        # rounding of float32, also where large terms of the gradient cancel
        allowed = 1e-3 * torch.linalg.vector_norm(gradient) + 1e-5 * (1 + abs(expected))
        same = abs(float(loss) - expected) <= 1e-4 * (1 + abs(expected)) and bool(error <= allowed) and same_state
        if not (same and same_numbers):
            raise CompileError(
                "a step in Python gives another result than its replay: the model or guide reads something that "
                "changes from step to step and is no tensor of theirs, such as a counter, a loader of batches, or "
                "random numbers that are not torch's"
            )


def replayed(eager: Eager, compile: bool | str, steps: int, *, annealed: bool) -> Eager | Replay:
    """What takes so many more steps: ``compile`` as in ``fit``, but not False.

    Raises:
        CompileError: the step cannot be captured, or compiled.
    """
    if compile == "auto" and steps < JIT_STEPS:
        return eager
    backends = ["inductor"] if compile == "inductor" else ["jit"]
    if compile in ("auto", "strict") and steps > INDUCTOR_STEPS and has_compiler():
        backends = ["inductor", "jit"]
    step = captured(eager, annealed=annealed)
    for backend in backends[:-1]:
        try:
            return Replay(eager, step, backend)
        except CompileError as error:
            if compile == "strict":
                raise
            warnings.warn(f"fit goes on with TorchScript: {error.reason}.", stacklevel=4)
    return Replay(eager, step, backends[-1])


def has_compiler() -> bool:
    """Whether there is a C++ compiler for inductor."""
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "cl"))


def captured(eager: Eager, *, annealed: bool) -> Step:
    """The training step as a graph.

    Raises:
        CompileError: it cannot be captured.
    """
    parameters = [*eager.names]
    if len({(p.dtype, p.device) for p in parameters}) > 1:
        raise CompileError("its parameters have several dtypes or devices")

    def gradient(row: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight = row[0].to(parameters[0].dtype) if annealed else 1.0
        with poutine.trace(param_only=True) as seen:
            loss = _negative_elbo(eager, weight)
        if any(site["value"].unconstrained() not in eager.names for site in seen.trace.nodes.values()):
            raise CaptureError("a step has parameters that the first one did not have")
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        return loss.detach(), *filled

    row = torch.tensor([0.5, 1e-3, 1.0] if annealed else [1.0, 1e-3, 1.0], dtype=torch.float64).to(parameters[0].device)
    try:
        with _explained("the capture"):
            graph = capture(gradient, [row], [*parameters, *stored_state().values()])
    except CaptureError as error:
        raise CompileError(str(error)) from error
    return Step(graph, [p.shape for p in parameters], eager.clip, float(row[0]))


def _negative_elbo(eager: Eager, weight: torch.Tensor | float) -> torch.Tensor:
    """What ``Trace_ELBO`` differentiates where all draws carry gradients, as a tensor."""
    loss: torch.Tensor | float = 0.0
    elbo = eager.elbo
    for model, guide in elbo._get_traces(eager.model, eager.guide, (weight,), {}):
        for name, site in guide.nodes.items():
            if site["type"] == "sample":
                if not is_identically_zero(site["score_parts"].score_function):
                    raise CaptureError(
                        f"site {name!r} has no reparameterised draws, so its gradient is a score function"
                    )
                loss = loss + site["log_prob_sum"]
        loss = loss - sum(site["log_prob_sum"] for site in model.nodes.values() if site["type"] == "sample")
    return loss / elbo.num_particles


def compiled(step: Step, example: Sequence[torch.Tensor], backend: str) -> Callable[..., Sequence[torch.Tensor]]:
    """The step as a function that runs without Python: TorchScript, or C++ made by inductor."""
    with torch.no_grad(), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both announce their own future
        if backend == "jit":
            return torch.jit.freeze(torch.jit.trace(step.eval(), tuple(example), check_trace=False))
        graph = make_fx(step)(*example)
        for node in graph.graph.nodes:
            node.meta.pop("val", None)  # real tensors, where inductor wants its own
        # fallback_random: numbers of torch's generator, so that the fit is the eager one
        options = {"cpp_wrapper": True, "fallback_random": True, "compile_threads": 1}
        return torch._inductor.compile(graph, list(example), options=options)


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Any error of torch's own machinery is a reason, and no end of the fit."""
    try:
        yield
    except (CaptureError, CompileError):
        raise
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise CompileError(f"{what} failed with {type(error).__name__}: {text}") from error
