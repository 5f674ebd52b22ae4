"""torch drivers of ``remat``. They run under ``torch.func``, which ``torch.utils.checkpoint`` does not."""

from functools import partial

import torch
from torch.autograd import Function

from ppl_flows.core.params import flatten, map_params, split
from ppl_flows.numerics.reversible_pass import allowed_error, ill_conditioned, round_trip_error, walk, walk_back


def checkpoint(run):
    """run, a function of ``(params, v, context)``, of which only the arguments are kept for the backward pass."""

    def back(vjp, params, v, context, out, cotangents):
        return vjp(lambda *args: run(*args)[1:], params, v, context)[1](cotangents)

    return partial(_differentiated, run, back)


def reversible(stack, forward, stage, params, v, context):
    def back(vjp, params, v, context, out, cotangents):
        gradients, again = walk_back(vjp, stack, forward, stage, params, context, out, cotangents)
        error, allowed = _largest(round_trip_error(v, again).detach()), allowed_error(v)
        if not error <= allowed:
            raise ill_conditioned(stack, error, allowed)
        return gradients

    return _differentiated(partial(walk, stack, forward, stage), back, params, v, context)


def _differentiated(run, back, params, v, context):
    """``run(params, v, context)``, which is ``(state, out, log_det)``, with back as its gradient."""
    names = map_params(lambda name, _: name, params)  # not the arrays, which the graph would keep alive
    out, log_det, *state = _Differentiated.apply(run, back, names, v, context, *_leaves(params))
    return _nested(split(names)[1], state) if state else {}, out, log_det


class _Differentiated(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(run, back, names, v, context, *leaves):
        state, out, log_det = run(_nested(names, leaves), v, context)
        return out, log_det, *_in_order(split(names)[1] if any(flatten(state)) else {}, state)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.back, ctx.names, *arrays = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(output[0], *arrays)

    @staticmethod
    def backward(ctx, g_out, g_log_det, *_):
        out, v, context, *leaves = ctx.saved_tensors
        wanted = any(ctx.needs_input_grad[5:])
        g_params, g_v, g_context = ctx.back(
            partial(_vjp, wanted), _nested(ctx.names, leaves), v, context, out, (g_out, g_log_det)
        )
        g_leaves = _in_order(ctx.names, g_params) if wanted else [None] * len(leaves)
        return None, None, None, g_v, g_context, *g_leaves


def _vjp(wanted, run, params, v, context):
    """``jax.vjp``; the gradient of params is empty unless wanted."""
    names = map_params(lambda name, _: name, params)
    given = () if context is None else (context,)

    def flat(v, *rest):
        p = _nested(names, rest[len(given) :]) if wanted else params
        return run(p, v, rest[0] if given else None)

    outs, pull = torch.func.vjp(flat, v, *given, *(_leaves(params) if wanted else ()))

    def back(cotangents):
        g_v, *rest = pull(cotangents)
        g_params = _nested(names, rest[len(given) :]) if wanted else {}
        return g_params, g_v, rest[0] if given else None

    return outs, back


def _leaves(params):
    return [a for _, a in flatten(params)]


def _nested(like, leaves):
    left = iter(leaves)
    return map_params(lambda *_: next(left), like)


def _in_order(like, params):
    """The leaves of params in the order in which like has them."""
    named = dict(flatten(params))
    return [named[name] for name, _ in flatten(like)]


def _largest(error):
    try:
        return float(error)
    except RuntimeError:  # under torch.func.vmap a tensor has no one value
        return float(_Largest.apply(error))


class _Largest(Function):
    """The largest element, also of those that ``torch.func.vmap`` maps over."""

    @staticmethod
    def forward(x):
        return x.max()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, x):
        return _Largest.apply(x), None
