"""The contract of bases: distributions of x, the side a flow starts from, with parameters that train with the flow."""

from __future__ import annotations

import abc
from typing import ClassVar, Protocol

import numpy as np

from ppl_flows.core.initialisation import check_params
from ppl_flows.core.precision import has_narrow, is_narrow, wide, wide_params
from ppl_flows.core.types import Array, Params


class Random(Protocol):
    """Random numbers that a language supplies, in the dtype and on the device of the parameters."""

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Standard normal."""

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Uniform on [0, 1)."""

    def gamma(self, concentration: Array) -> Array:
        """Gamma of rate 1, of concentration's shape, with the pathwise gradient with respect to it."""


class Base(abc.ABC):
    """A distribution of vectors x of size ``dim``, with parameters.

    Shapes: x ``(*batch, dim)``, log_prob ``(*batch,)``, in nats. Where x or params are narrower than float32, such as
    bfloat16, it is computed in float32, and so are draws.

    A concrete base is a final frozen dataclass, as a ``Bijection`` is: hyperparameters plus pure functions of params.
    In a language it is a ``BaseDistribution``, or the ``base=`` of a flow.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> base = pf.StudentT(2)
        >>> params = base.init(np.random.default_rng(0))
        >>> base.log_prob(params, np.zeros((5, 2))).shape
        (5,)
    """

    dim: int
    reparameterized: ClassVar[bool] = True  # samples carry the gradient with respect to all of params

    @abc.abstractmethod
    def init(self, rng: np.random.Generator) -> Params:
        """Initial parameters as NumPy arrays: the same generator state gives the same ones in every language.

        Args:
            rng: a NumPy generator.

        Returns:
            Nested dict of arrays.
        """

    def log_prob(self, params: Params, x: Array) -> Array:
        """The log density.

        Args:
            params: nested dict of arrays, as ``init`` makes it.
            x: ``(*batch, dim)``.

        Returns:
            ``(*batch,)``, in nats.

        Raises:
            ValueError: x of another size, or params that do not fit.
        """
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"{type(self).__name__} expects x of shape (*batch, {self.dim}), got {tuple(x.shape)}.")
        check_params(self, params, more=True)
        return (
            self._log_prob(wide_params(params), wide(x))
            if is_narrow(x) or has_narrow(params)
            else self._log_prob(params, x)
        )

    def sample(self, params: Params, random: Random, shape: tuple[int, ...] = ()) -> Array:
        """Draws, which carry gradients if ``reparameterized``.

        Args:
            params: nested dict of arrays, as ``init`` makes it.
            random: a language's random numbers: ``normal``, ``uniform`` and ``gamma``.
            shape: how many draws.

        Returns:
            ``(*shape, dim)``.
        """
        return self._sample(wide_params(params) if has_narrow(params) else params, random, tuple(shape))

    @abc.abstractmethod
    def _log_prob(self, params: Params, x: Array) -> Array: ...

    @abc.abstractmethod
    def _sample(self, params: Params, random: Random, shape: tuple[int, ...]) -> Array: ...
