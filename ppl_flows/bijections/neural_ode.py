from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from ppl_flows.conditioners import MLP
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import POSITIVE, check_flags, check_real, check_whole, checked_widths
from ppl_flows.core.namespace import ACTIVATIONS, namespace
from ppl_flows.core.types import Array, Observed, Params
from ppl_flows.numerics.hutchinson_probes import check_dim, first_step, next_step, random_probes
from ppl_flows.numerics.jacobian_products import EXACT_UP_TO, activation_and_slope, linearize


@dataclass(frozen=True)
class NeuralODE(Bijection):
    """A continuous flow: x moves from t = 0 to y at t = 1 by ``dx/dt = f(x, t, context)``, f an MLP.

    ``d log_det/dt = tr(df/dx)``. Starts next to the identity: f is small. The inverse is the same equation from t = 1
    to 0. Solved by Dormand & Prince's adaptive Runge-Kutta method of order 5(4) of a library: torchdiffeq in torch,
    diffrax in JAX (the extra ``ode``), SciPy in NumPy; values hold to about ten times the tolerances, not to the
    dtype's precision. Gradients go through the solver's steps. Where it needs more than 4,096 steps the result is
    nan in torch and JAX. Cost: some 20 to 100 passes of f, either way; the row that needs most steps sets the number
    for its batch.

    With ``exact=False`` the trace is Hutchinson's unbiased estimate ``v^T (df/dx) v`` with one random vector of signs
    v a row, held fixed along the path. It is a function of the starting point and of ``params["state"]["step"]``,
    which every training step advances: evaluation is deterministic given params, and over steps the estimate is
    unbiased. The estimates of the two directions differ.

    Args:
        dim: event size, at least 1.
        hidden: widths of f's hidden layers. Up to two, the exact trace costs as little as an estimate.
        activation: of f, a name such as ``"tanh"``: a bounded one keeps the motion bounded far out.
        rtol: relative tolerance of one step, at least eight units of rounding of the dtype in use.
        atol: absolute tolerance of one step, likewise.
        exact: the exact trace; None: up to two hidden layers, or dim up to 32.
        context_dim: size of the context, 0 for none.

    Raises:
        ValueError: dim below 1, or above 4,095 where the trace is estimated; a tolerance that is not positive; an
            unknown activation.
        ImportError: at the first use, torchdiffeq or diffrax is missing.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.NeuralODE(3, hidden=(16,))
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Grathwohl et al. (2019), FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative
    Models, arXiv:1810.01367; Chen et al. (2018), Neural Ordinary Differential Equations, arXiv:1806.07366, eq. 8.
    """

    dim: int
    _: KW_ONLY
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    rtol: float = 1e-6
    atol: float = 1e-6
    exact: bool | None = None
    context_dim: int = 0

    def __post_init__(self) -> None:
        check_whole(self, dim=1, context_dim=0)
        check_real(self, rtol=POSITIVE, atol=POSITIVE)
        if self.exact is not None:
            check_flags(self, "exact")
        object.__setattr__(self, "hidden", checked_widths("NeuralODE", self.hidden, self.activation, ACTIVATIONS))
        if not self._exact:
            check_dim("NeuralODE", self.dim)

    @property
    def _exact(self) -> bool:
        return len(self.hidden) <= 2 or self.dim <= EXACT_UP_TO if self.exact is None else self.exact

    def init(self, rng: np.random.Generator) -> Params:
        # time is the last input
        params = MLP(self.hidden, activation=self.activation).bind(self.dim, self.dim, self.context_dim + 1).init(rng)
        return params if self._exact else {**params, "state": {"step": first_step(rng)}}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self._solve(params, x, context, (0.0, 1.0))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._solve(params, y, context, (1.0, 0.0))

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        if not self._exact and stage == "train":
            params = {**params, "state": {"step": next_step(params["state"]["step"])}}
        return super()._observe(params, value, context, forward, stage)

    def _solve(
        self, params: Params, x: Array, context: Array | None, times: tuple[float, float]
    ) -> tuple[Array, Array]:
        xp, n = namespace(x), self.dim
        weights = [params[f"w{i}"] for i in range(len(self.hidden) + 1)]
        biases = [params[f"b{i}"] for i in range(len(self.hidden) + 1)]
        speed = weights[0][-1]  # of the first bias in time
        if context is not None:
            biases[0] = biases[0] + context @ weights[0][n:-1]
        weights[0] = weights[0][:n]
        noise = () if self._exact else (random_probes(x, params["state"]["step"])[0],)
        floor = 8 * float(xp.finfo(x.dtype).eps)  # below it rounding errors look like errors of the method
        start = xp.concat([x, xp.zeros_like(x[..., :1])], axis=-1)
        end = xp.odeint(
            self._velocity,
            start,
            (speed, *weights, *biases, *noise),
            times,
            rtol=max(self.rtol, floor),
            atol=max(self.atol, floor),
        )
        return end[..., :n], end[..., n]

    def _velocity(self, t: Array, state: Array, speed: Array, *args: Array) -> Array:
        """``d(x, log_det)/dt``."""
        layers = len(self.hidden) + 1
        weights, (bias, *biases), noise = args[:layers], args[layers : 2 * layers], args[2 * layers :]
        activations = [activation_and_slope(self.activation)] * len(self.hidden)
        f = linearize(state[..., : self.dim], weights, [bias + t * speed, *biases], activations)
        xp = namespace(state)
        trace = xp.sum(noise[0] * f.jvp(noise[0]), axis=-1) if noise else f.trace()
        return xp.concat([f.value, trace[..., None]], axis=-1)
