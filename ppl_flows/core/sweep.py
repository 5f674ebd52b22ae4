"""Incremental inversion of a masked autoregressive map, for libraries that run eagerly (NumPy, torch).

Step t computes only the hidden units that ``x[t-1]`` newly determines, so inverting costs the arithmetic of about
one pass of the network instead of ``dim`` passes. Buffers are (features, batch): a step works on contiguous rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppl_flows.core.bijection import Array
from ppl_flows.core.ops import namespace

if TYPE_CHECKING:
    from ppl_flows.core.networks import MaskedMLP
    from ppl_flows.core.transformer import Transformer


def forward(
    network: MaskedMLP, transformer: Transformer, weights: Sequence[Array], biases: Sequence[Array], y: Array
) -> tuple[Array, Array]:
    """The x with ``transformer.forward(network(x), x) = y``, and the log_det of the inverse map.

    Args:
        weights, biases: of ``network.layers``.
        y: ``(*batch, dim)``.
    """
    xp = namespace(y)
    acts, skips, bounds, dim, p = network.activations(xp), network.skips, network.bounds(), network.dim, network.outputs
    batch = y.shape[:-1]
    rows = xp.reshape(y, (-1, dim)).T
    n = rows.shape[1]
    w = [a.T for a in weights]
    b = [xp.broadcast_to(a, (*batch, a.shape[-1])).reshape(n, -1).T if a.ndim > 1 else a[:, None] for a in biases]
    units = [xp.empty((a.shape[1], n), dtype=y.dtype, device=y.device) for a in w]
    log_det = xp.zeros_like(rows[0])
    for t in range(dim):
        fresh: list[Array] = []  # what this step's units get, by layer; those of a residual block have equal degrees
        for i in range(len(w) - 1):
            (start, stop), known = bounds[i + 1][t : t + 2], bounds[i][t + 1]
            if start < stop:
                a = w[i][start:stop, :known] @ units[i][:known] + b[i][start:stop]
                if i in skips:
                    a = a + fresh[-2]
                fresh.append(a)
                units[i + 1][start:stop] = acts[i](a)
        out, known = slice(t * p, (t + 1) * p), bounds[-1][t + 1]
        theta = w[-1][out, :known] @ units[-1][:known] + b[-1][out]
        x, slope = transformer.inverse(theta.T, rows[t])
        units[0][t] = x
        log_det += slope
    return units[0].T.reshape(*batch, dim), log_det.reshape(batch)


def reverse(
    network: MaskedMLP,
    weights: Sequence[Array],
    bends: Sequence[Array],
    direct: Array,
    slope: Array,
    theta: Array,
    push: Array,
) -> Array:
    """Solves ``J^T v = g`` for the Jacobian J of the autoregressive map at x: one incremental pass from last to first.

    A unit receives its cotangent when all coordinates after it have theirs, so the pass mirrors ``forward``.

    Args:
        weights: masked, ``(in, out)``, as in ``network.layers``.
        bends: derivative of ``network.activations`` at each hidden unit, ``(n, width)`` each.
        direct: cotangent that reaches ``x`` on no way through the network, ``(n, dim)``.
        slope, theta: ``dy/dx`` ``(n, dim)`` and ``dy/dtheta`` ``(n, dim, outputs)`` of the transformer.
        push: cotangent of theta that does not come through y, ``(n, dim, outputs)``.

    Returns:
        v, ``(n, dim)``.
    """
    xp = namespace(direct)
    dim, p, n, skips = network.dim, network.outputs, direct.shape[0], network.skips
    bounds = [*network.bounds()[1:], range(0, (dim + 1) * p, p)]  # of the hidden layers and of the output
    direct, slope, bends = direct.T, slope.T, [a.T for a in bends]
    theta, push = (xp.reshape(a, (n, dim * p)).T for a in (theta, push))
    v = xp.empty_like(slope)
    grads = [*(xp.zeros_like(a) for a in bends), xp.empty_like(theta)]
    for t in reversed(range(dim)):
        later = bounds[0][t + 1]
        v[t] = (direct[t] + weights[0][t, later:] @ grads[0][later:]) / slope[t]
        out = slice(t * p, (t + 1) * p)
        grads[-1][out] = push[out] - v[t] * theta[out]
        for i in reversed(range(len(bends))):
            (start, stop), later = bounds[i][t : t + 2], bounds[i + 1][t]
            if start < stop:
                back = weights[i + 1][start:stop, later:] @ grads[i + 1][later:]
                grads[i][start:stop] = back * bends[i][start:stop]
                if i + 2 in skips:
                    grads[i][start:stop] += grads[i + 2][start:stop]
    return v.T
