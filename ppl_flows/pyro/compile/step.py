"""The whole training step as a function of tensors: gradient, clipping, Adam, mean of the iterates."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO
from torch.fx import GraphModule

from ppl_flows.inference.fit_error import MAX_SKIPPED
from ppl_flows.inference.schedule import NORM_EPS, OUTLIER
from ppl_flows.pyro.adam import BETAS, EPS
from ppl_flows.pyro.compile.capture import CompileError, as_compile_error, aten, capture
from ppl_flows.pyro.eager_step import EagerSteps
from ppl_flows.pyro.params import stored_state


class Step(torch.nn.Module):
    """``(x, m, v, mean, counts, *state, row, *batch) -> (loss, x, m, v, mean, counts, *state)``: ``EagerSteps.run``.

    x holds all parameters, m and v are Adam's moments, mean is the mean of the iterates, each one vector. counts are
    of the steps taken, those skipped, and those skipped running. row is ``(weight of the model, learning rate, share
    in the mean)``. After ``MAX_SKIPPED`` steps running that were not finite nothing moves any more.

    Args:
        gradient: ``(*parameters, *state, row) -> (loss, *gradients, *parameters, *state)``, as ``capture`` gives it.
        shapes: of the parameters.
        clip: bound on the norm of the gradient.
        example_weight: a weight of the model that row may have.
        batch: number of tensors that the model reads anew in every step.
    """

    def __init__(
        self, gradient: GraphModule, shapes: Sequence[torch.Size], clip: float, example_weight: float, batch: int
    ) -> None:
        super().__init__()
        self.batch = batch
        self.gradient, self.shapes, self.clip, self.example_weight = gradient, shapes, clip, example_weight
        self.sizes = [shape.numel() for shape in shapes]

    def forward(
        self,
        x: torch.Tensor,
        m: torch.Tensor,
        v: torch.Tensor,
        mean: torch.Tensor,
        counts: torch.Tensor,
        *inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        n_state = len(inputs) - 1 - self.batch
        state, (row, *batch) = [*inputs[:n_state]], inputs[n_state:]
        parameters = [p.view(s) for p, s in zip(x.split(self.sizes), self.shapes, strict=True)]
        loss, *out = self.gradient(*parameters, *state, row, *batch)
        n = len(parameters)
        g = torch.cat([d.reshape(-1) for d in out[:n]])
        _, lr, share = row.unbind()
        taken, skipped, running = counts.unbind()
        norm = torch.linalg.vector_norm(g)
        ok = torch.isfinite(loss) & torch.isfinite(norm) & (running < MAX_SKIPPED)
        usual = (v.sum() / -torch.expm1(taken * math.log(BETAS[1]))).sqrt()  # as usual_norm; the first step is taken
        bound = torch.clamp(OUTLIER * usual + NORM_EPS, max=self.clip)
        g = g * torch.clamp(bound / (norm + NORM_EPS), max=1.0)  # as torch.nn.utils.clip_grad_norm_
        taken = taken + ok
        m_new, v_new = torch.lerp(m, g, 1 - BETAS[0]), BETAS[1] * v + (1 - BETAS[1]) * g * g
        m_bias, v_bias = (-torch.expm1(taken * math.log(beta)) for beta in BETAS)  # 1 - beta^taken
        x = torch.where(ok, x - lr / m_bias * m_new / ((v_new / v_bias).sqrt() + EPS), x)
        m, v = torch.where(ok, m_new, m), torch.where(ok, v_new, v)
        counts = torch.stack([taken, skipped + ~ok, torch.where(ok, 0.0, running + 1)])
        state = [torch.where(ok, new, old) for new, old in zip(out[2 * n :], state, strict=True)]
        return loss, x, m, v, torch.lerp(mean, x, share.to(mean.dtype)), counts, *state


def capture_step(eager: EagerSteps, *, annealed: bool) -> Step:
    """The training step as a graph.

    Raises:
        CompileError: it cannot be captured.
    """
    parameters = [*eager.names]
    if not isinstance(eager.elbo, Trace_ELBO):
        raise CompileError("it sums over enumerated sites, in which the host reads values of tensors")
    if len({(p.dtype, p.device) for p in parameters}) > 1:
        raise CompileError("its parameters have several dtypes or devices")
    if parameters[0].device.type != "cpu":
        raise CompileError(f"its parameters are on {parameters[0].device}, and replays are for the CPU")

    def gradient(row: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight = row[0].to(parameters[0].dtype) if annealed else 1.0
        with poutine.trace(param_only=True) as seen:
            loss = _negative_elbo(eager, weight)
        sites: Any = seen.trace.nodes.values()
        if any(site["value"].unconstrained() not in eager.names for site in sites):
            raise CompileError("a step has parameters that the first one did not have")
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        return loss.detach(), *filled

    batch = eager.batches.tensors if eager.batches else []
    row = torch.tensor([0.5, 1e-3, 1.0] if annealed else [1.0, 1e-3, 1.0], dtype=torch.float64)
    with as_compile_error("the capture"):
        graph = capture(gradient, [row, *batch], [*parameters, *stored_state().values()])
    return Step(graph, [p.shape for p in parameters], eager.clip, float(row[0]), len(batch))


def _negative_elbo(eager: EagerSteps, weight: torch.Tensor | float) -> torch.Tensor:
    """What ``Trace_ELBO`` differentiates where all draws carry gradients, as a tensor."""
    loss: torch.Tensor | float = 0.0
    elbo = eager.elbo
    for model, guide in elbo._get_traces(eager.model, eager.guide, (weight,), {}):
        for name, site in guide.nodes.items():
            if site["type"] == "sample":
                if not is_identically_zero(site["score_parts"].score_function):
                    raise CompileError(
                        f"site {name!r} has no reparameterised draws, so its gradient is a score function"
                    )
                loss = loss + site["log_prob_sum"]
        loss = loss - sum(site["log_prob_sum"] for site in model.nodes.values() if site["type"] == "sample")
    return loss / elbo.num_particles


@contextmanager
def _quiet() -> Iterator[None]:
    """TorchScript announces its end, and inductor the operations that it leaves to torch."""
    log = logging.getLogger("torch._inductor.ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def compile_step(step: Step, example: Sequence[torch.Tensor], backend: str) -> Callable[..., Sequence[torch.Tensor]]:
    """The step as a function that runs without Python: TorchScript, or C++ made by inductor."""
    with torch.no_grad(), torch.random.fork_rng(), _quiet():
        if backend == "jit":
            for node in step.gradient.graph.find_nodes(op="call_function", target=aten.mm.default):
                if any(other.op == "get_attr" for other in node.all_input_nodes):
                    node.target = aten.matmul.default  # TorchScript takes a product of a constant to have its shape
            step.gradient.recompile()
            # torch.jit.trace would leave the graph, and what running it makes, in a unit that lives as long as Python
            traced, _ = torch._C._create_graph_by_tracing(step.eval(), tuple(example), lambda _: "", True, False)
            run: Callable[..., Sequence[torch.Tensor]] = torch._C._create_function_from_graph("step", traced)
            return run
        from torch.fx.experimental.proxy_tensor import make_fx  # a third of a second, for who takes inductor

        graph = make_fx(step)(*example)
        for node in graph.graph.nodes:
            node.meta.pop("val", None)  # real tensors, where inductor wants its own
        # fallback_random: numbers of torch's generator, so that the fit is the eager one
        options = {"cpp_wrapper": True, "fallback_random": True, "compile_threads": 1}
        # heuristics of newer torch leave loops scalar that read every second number, as those of affine maps do:
        # without them a step of MAF takes 0.7 times as long
        heuristics = "cpp.enable_tiling_heuristics"
        if heuristics in torch._inductor.list_options():
            options[heuristics] = False
        return torch._inductor.compile(graph, list(example), options=options)
