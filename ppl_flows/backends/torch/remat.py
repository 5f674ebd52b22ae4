"""torch drivers of ``remat``. They run under ``torch.func``, which ``torch.utils.checkpoint`` does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ppl_flows.core.params import flatten, map_params, split
from ppl_flows.core.types import Params
from ppl_flows.numerics.reversible_pass import allowed_error, ill_conditioned, round_trip_error, walk, walk_back

Pass = tuple[Params, Tensor, Tensor]  # state, out, log_det
Gradients = tuple[Params, Tensor, Tensor | None]  # of params, v, context
Vjp = Callable[..., tuple[Any, Callable[..., Gradients]]]  # as ``jax.vjp``, of functions of (params, v, context)


def checkpoint(run: Callable[..., Any]) -> Callable[..., Any]:
    def back(
        vjp: Vjp,
        params: Params,
        v: Tensor,
        context: Tensor | None,
        out: Tensor,
        cotangents: tuple[Tensor, Tensor],
    ) -> Gradients:
        return vjp(lambda *args: run(*args)[1:], params, v, context)[1](cotangents)

    return partial(_differentiated, run, back)


def reversible(stack: Any, forward: bool, stage: str | None, params: Params, v: Tensor, context: Tensor | None) -> Pass:
    def back(
        vjp: Vjp,
        params: Params,
        v: Tensor,
        context: Tensor | None,
        out: Tensor,
        cotangents: tuple[Tensor, Tensor],
    ) -> Gradients:
        gradients, again = walk_back(vjp, stack, forward, stage, params, context, out, cotangents)
        error, allowed = _largest(round_trip_error(v, again).detach()), allowed_error(v)
        if not error <= allowed:
            raise ill_conditioned(stack, error, allowed)
        return gradients

    return _differentiated(partial(walk, stack, forward, stage), back, params, v, context)


def _differentiated(
    run: Callable[..., Pass], back: Callable[..., Gradients], params: Params, v: Tensor, context: Tensor | None
) -> Pass:
    """``run(params, v, context)``, which is ``(state, out, log_det)``, with back as its gradient."""
    if torch._C._get_tracing_state():  # a trace with a gradient of ours in it could not be saved
        return run(params, v, context)
    names = map_params(lambda name, _: name, params)  # not the arrays, which the graph would keep alive
    out, log_det, *state = _Differentiated.apply(run, back, names, v, context, *_leaves(params))
    return _nested(split(names)[1], state) if state else {}, out, log_det


class _Differentiated(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        run: Callable[..., Pass],
        back: Callable[..., Gradients],
        names: Params,
        v: Tensor,
        context: Tensor | None,
        *leaves: Tensor,
    ) -> tuple[Tensor, ...]:
        state, out, log_det = run(_nested(names, leaves), v, context)
        return out, log_det, *_in_order(split(names)[1] if any(flatten(state)) else {}, state)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.back, ctx.names, *arrays = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(output[0], *arrays)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        out, v, context, *leaves = ctx.saved_tensors
        wanted = any(ctx.needs_input_grad[5:])
        g_params, g_v, g_context = ctx.back(
            partial(_vjp, wanted), _nested(ctx.names, leaves), v, context, out, (gradients[0], gradients[1])
        )
        g_leaves = _in_order(ctx.names, g_params) if wanted else [None] * len(leaves)
        return None, None, None, g_v, g_context, *g_leaves


def _vjp(
    wanted: bool, run: Callable[..., Any], params: Params, v: Tensor, context: Tensor | None
) -> tuple[Any, Callable[..., Gradients]]:
    """``jax.vjp``; the gradient of params is empty unless wanted."""
    names = map_params(lambda name, _: name, params)
    given = () if context is None else (context,)

    def flat(v: Tensor, *rest: Tensor) -> Any:
        p = _nested(names, rest[len(given) :]) if wanted else params
        return run(p, v, rest[0] if given else None)

    outs, pull, *_ = torch.func.vjp(flat, v, *given, *(_leaves(params) if wanted else ()))

    def back(cotangents: Any) -> Gradients:
        g_v, *rest = pull(cotangents)
        g_params = _nested(names, rest[len(given) :]) if wanted else {}
        return g_params, g_v, rest[0] if given else None

    return outs, back


def _leaves(params: Params) -> list[Tensor]:
    return [a for _, a in flatten(params)]


def _nested(like: Params, leaves: Iterable[Tensor]) -> Params:
    left = iter(leaves)
    return map_params(lambda *_: next(left), like)


def _in_order(like: Params, params: Params) -> list[Tensor]:
    """The leaves of params in the order in which like has them."""
    named = dict(flatten(params))
    return [named[name] for name, _ in flatten(like)]


def _largest(error: Tensor) -> float:
    try:
        return float(error)
    except RuntimeError:  # under torch.func.vmap a tensor has no one value
        return float(_Largest.apply(error))


class _Largest(Function):
    """The largest element, also of those that ``torch.func.vmap`` maps over."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.max()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, None]:
        return _Largest.apply(x), None
