from dataclasses import dataclass

import ppl_flows as pf
from ppl_flows.core.namespace import namespace
from ppl_flows.numerics.root_finding import numerical_inverse


@pf.register
@dataclass(frozen=True)
class TanhStep(pf.Transformer):
    """One smooth step: ``y = x + a tanh(x + b)`` with ``a = elu(theta_0) > -1``; the identity at theta = 0."""

    @property
    def size(self):
        return 2

    def forward(self, theta, x):
        return _step(x, theta)

    def inverse(self, theta, y):
        return numerical_inverse(_step, y, theta)  # exact to rounding, with the gradient of the implicit function


def _step(x, theta):
    xp = namespace(x)
    a, t = xp.elu(theta[..., 0]), xp.tanh(x + theta[..., 1])
    return x + a * t, xp.log1p(a * (1 - t * t))
