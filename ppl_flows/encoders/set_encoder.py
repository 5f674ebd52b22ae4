"""Networks of sets: what they give does not depend on the order of the rows."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache

import numpy as np

from ppl_flows.conditioners.hidden_layers import OUTPUT_SCALE
from ppl_flows.conditioners.mlp import MLP, DenseNetwork
from ppl_flows.core.checks import check_flags, check_generator, check_whole, checked_widths
from ppl_flows.core.namespace import ACTIVATIONS, namespace
from ppl_flows.core.types import Array, Params

POOLINGS = ("mean", "attention")


@dataclass(frozen=True)
class SetEncoder:
    """Context of a set of rows that are i.i.d. given the latents, for ``fit_amortized(encoder=)``.

    A network per row, then the mean over the rows, ``g(mean_i f(y_i), log m)`` for m rows; or attention in the place of
    the mean: every head is a mean with weights that are a softmax over the rows. The order of the rows changes nothing
    but rounding, and their number is known to it. Cost O(rows).

    Args:
        pooling: ``"mean"``, a deep set, or ``"attention"``, which can pick single rows, such as outliers.
        size: of the context that the flow is given.
        hidden: widths of the network per row, and of the one after the pooling.
        heads: of the attention; they divide the last width of hidden. Not used by the mean.
        activation: a name such as ``"silu"``.
        any_size: whether training shows sets of every size up to that of the data in the arguments, so that ``sample``
            takes data of any number of rows up to it, and warns above. The first m rows of a simulation are one of m
            rows. False: sets of that size alone; others are an error.
        plate: name of the model's plate whose rows are the set. None: the only one that has data and no latents.

    Raises:
        TypeError: a size that is no whole number, hidden that are no widths, ``any_size`` that is no bool.
        ValueError: an unknown pooling or activation, a size below 1, or a width that heads does not divide.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> network = pf.SetEncoder("attention", size=8).bind(features=2)
        >>> params = network.init(np.random.default_rng(0))
        >>> network(params, np.zeros((5, 10, 2)), np.full((5, 1), 3.0), None).shape  # the first 3 of 10 rows
        (5, 8)

    Reference: Zaheer et al. (2017), Deep Sets, arXiv:1703.06114; Lee et al. (2019), Set Transformer: A Framework for
        Attention-based Permutation-Invariant Neural Networks, arXiv:1810.00825 (pooling by attention).
    """

    pooling: str = "mean"
    _: KW_ONLY
    size: int = 32
    hidden: tuple[int, ...] = (64, 64)
    heads: int = 4
    activation: str = "silu"
    any_size: bool = True
    plate: str | None = None

    def __post_init__(self) -> None:
        check_whole(self, size=1, heads=1)
        check_flags(self, "any_size")
        object.__setattr__(self, "hidden", checked_widths("SetEncoder", self.hidden, self.activation, ACTIVATIONS))
        if self.pooling not in POOLINGS:
            raise ValueError(f"SetEncoder: unknown pooling {self.pooling!r}; choose one of {', '.join(POOLINGS)}.")
        if not self.hidden or (self.pooling == "attention" and self.hidden[-1] % self.heads):
            raise ValueError(
                f"SetEncoder: hidden must have a last width that heads={self.heads} divides, got hidden={self.hidden}."
            )

    def bind(self, features: int, others: int = 0) -> SetNetwork:
        """The network of these sizes: ``init(rng)``, and ``(params, rows, count, others) -> context``.

        Args:
            features: numbers of a row.
            others: numbers that are in no row.

        Returns:
            The network, whose parameters do not depend on the number of rows.
        """
        return SetNetwork(self, features, others)


@dataclass(frozen=True)
class SetNetwork:
    """A ``SetEncoder`` of these sizes."""

    encoder: SetEncoder
    features: int
    others: int = 0

    @property
    def _parts(self) -> tuple[DenseNetwork, DenseNetwork]:
        """Per row, and after the pooling."""
        hidden, activation = self.encoder.hidden, self.encoder.activation
        row = DenseNetwork(MLP(hidden[:-1], activation=activation), self.features, hidden[-1])
        return row, DenseNetwork(MLP(hidden, activation=activation), hidden[-1] + 1 + self.others, self.encoder.size)

    def init(self, rng: np.random.Generator) -> Params:
        """Initial parameters; all that comes out is of about size 1."""
        check_generator(rng)
        width = self.encoder.hidden[-1]
        row, after = (_as_wide(network, network.init(rng)) for network in self._parts)
        params = {"row": row, "after": after}
        if self.encoder.pooling == "attention":
            keys = rng.standard_normal((width, self.encoder.heads)) / width**0.5
            params["attention"] = {"keys": keys, "values": rng.standard_normal((width, width)) / width**0.5}
        return params

    def __call__(self, params: Params, rows: Array, count: Array, others: Array | None) -> Array:
        """``(*batch, size)`` of the first ``count`` ``(*batch, 1)`` of the rows ``(*batch, n, features)``, and of
        others, ``(*batch, others)``; what stands after the first ``count`` has no effect, as long as it is finite."""
        xp, (row, after) = namespace(rows), self._parts
        seen = xp.constant(_places(rows.shape[-2]), rows) < count  # (*batch, n)
        a = getattr(xp, self.encoder.activation)(row(params["row"], rows, None))
        pooled = self._attend(params["attention"], a, seen) if "attention" in params else _mean(a, seen, count)
        more = [xp.log(count)] if others is None else [xp.log(count), others]
        return after(params["after"], xp.concat([pooled, *more], axis=-1), None)

    def _attend(self, params: Params, a: Array, seen: Array) -> Array:
        xp, heads = namespace(a), self.encoder.heads
        scores = xp.matrix_transpose(a @ params["keys"])  # (*batch, heads, n)
        weights = xp.softmax(xp.where(seen[..., None, :], scores, -float("inf")))
        values = (a @ params["values"]).reshape(*a.shape[:-1], heads, -1)
        of_heads = xp.matrix_transpose(weights)[..., None] * values  # (*batch, n, heads, width / heads)
        return xp.sum(of_heads, axis=-3).reshape(*a.shape[:-2], -1)


def _mean(a: Array, seen: Array, count: Array) -> Array:
    """Over the rows that are seen."""
    xp = namespace(a)
    return xp.sum(xp.where(seen[..., None], a, 0.0 * a), axis=-2) / count


def _as_wide(network: DenseNetwork, params: Params) -> Params:
    """Its last layer as wide as the others: nothing here is to start next to the identity."""
    last = f"w{len(network.mlp.widths)}"
    return {**params, last: params[last] / OUTPUT_SCALE}


@cache
def _places(n: int) -> np.ndarray:
    return np.arange(n, dtype=float)
