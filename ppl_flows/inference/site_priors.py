"""Where a latent site lies given the sites before it: its prior's location and scale, moved by a pseudo-observation.

Every coordinate u of a site is placed as if it had been observed once, with precision tau, at y: a prior ``N(m, s^2)``
becomes

    u = (m + s^2 tau y) / (1 + s^2 tau) + w s / sqrt(1 + s^2 tau),

which is the exact conditional where the likelihood is Gaussian, for every m and s. ``tau = 0`` is the non-centred
form, ``tau = inf`` the centred one. In a chain the later observations count, too, by a backward recursion; in a
multivariate normal those of all coordinates. All are lower triangular in w.

Arrays are ``(*rows, *site)``; all functions are pure, in any library, and differentiable. References: Papaspiliopoulos,
Roberts & Sköld (2007), A general framework for the parametrization of hierarchical models, Statistical Science 22(1);
Rauch, Tung & Striebel (1965) for chains.
"""

from __future__ import annotations

from typing import NamedTuple

from ppl_flows.core.namespace import namespace, unit_matrix
from ppl_flows.core.types import Array


class Pseudo(NamedTuple):
    """Pseudo-observations, one per coordinate: their precisions, zero or positive, and values."""

    precision: Array
    value: Array


class Independent(NamedTuple):
    """Coordinates with locations and scales, independent given the sites before."""

    loc: Array
    scale: Array

    def place(self, w: Array, seen: Pseudo) -> tuple[Array, Array]:
        """``(u, log |du/dw|)``, both of w's shape."""
        mean, scale = _posterior(self.loc, self.scale, seen.precision, seen.precision * seen.value)
        return mean + scale * w, namespace(w).log(scale)

    def unplace(self, u: Array, seen: Pseudo) -> tuple[Array, Array]:
        """``(w, log |dw/du|)``."""
        mean, scale = _posterior(self.loc, self.scale, seen.precision, seen.precision * seen.value)
        return (u - mean) / scale, -namespace(u).log(scale)

    def pull(self, u: Array) -> Array:
        """``precision @ (u - location)`` of the prior: minus the gradient of its log density."""
        return (u - self.loc) / self.scale**2

    @property
    def spread(self) -> Array:
        """About the standard deviation of each coordinate."""
        return self.scale


class Walk(NamedTuple):
    """A chain along the last axis: ``u_t = loc_t + coefficient_t u_(t-1) + scale_t eps_t``; the first coefficient is
    not used."""

    loc: Array
    coefficient: Array
    scale: Array

    def place(self, w: Array, seen: Pseudo) -> tuple[Array, Array]:
        """``(u, log |du/dw|)``, both of w's shape."""
        xp, (precision, linear) = namespace(w), self._with_later(seen)
        gain, mean, scale = self._conditional(precision, linear)
        return xp.recurrence(gain, mean + scale * w), xp.log(scale)

    def unplace(self, u: Array, seen: Pseudo) -> tuple[Array, Array]:
        """``(w, log |dw/du|)``."""
        xp, (precision, linear) = namespace(u), self._with_later(seen)
        gain, mean, scale = self._conditional(precision, linear)
        return (u - mean - gain * _before(u)) / scale, -xp.log(scale)

    def pull(self, u: Array) -> Array:
        """``precision @ (u - location)`` of the prior: minus the gradient of its log density."""
        residual = (u - self.loc - self._coefficient() * _before(u)) / self.scale**2
        return residual - _later(self._coefficient() * residual)

    @property
    def spread(self) -> Array:
        """The standard deviation of each step."""
        return self.scale

    def _coefficient(self) -> Array:
        xp = namespace(self.coefficient)
        return xp.concat((self.coefficient[..., :1] * 0, self.coefficient[..., 1:]), axis=-1)

    def _with_later(self, seen: Pseudo) -> tuple[Array, Array]:
        """Precision and linear term of each coordinate's own observation and the later ones, given the one before it.

        With J and h those at t + 1, the message to t is ``phi^2 J / (1 + s^2 J)`` and ``phi (h - J a) / (1 + s^2 J)``.
        """
        precision, linear = seen.precision, seen.precision * seen.value
        variance, square = self.scale**2, self.coefficient**2
        xp = namespace(self.loc)

        def backward(a: Array) -> Array:
            return xp.flip(a + 0 * self.loc, axis=-1)

        steps = square, square * precision, variance, 1 + variance * precision
        joint = precision + _later(xp.flip(xp.fractions(*(backward(a) for a in steps)), axis=-1))
        shrink = self.coefficient / (1 + variance * joint)
        terms = _later(shrink), _later(shrink * (linear - joint * self.loc))
        return joint, linear + xp.flip(xp.recurrence(*(backward(a) for a in terms)), axis=-1)

    def _conditional(self, precision: Array, linear: Array) -> tuple[Array, Array, Array]:
        """Of each coordinate given the one before it: coefficient, location, scale."""
        mean, scale = _posterior(self.loc, self.scale, precision, linear)
        return self._coefficient() / (1 + self.scale**2 * precision), mean, scale


class Joint(NamedTuple):
    """A multivariate normal over the last axis, by the lower triangular factor of its covariance."""

    loc: Array
    scale_tril: Array

    def place(self, w: Array, seen: Pseudo) -> tuple[Array, Array]:
        """``(u, log |du/dw|)``, both of w's shape."""
        mean, factor, log_det = self._conditional(seen)
        return self.loc + _product(self.scale_tril, mean + _solve(_transposed(factor), w)), log_det

    def unplace(self, u: Array, seen: Pseudo) -> tuple[Array, Array]:
        """``(w, log |dw/du|)``."""
        mean, factor, log_det = self._conditional(seen)
        return _product(_transposed(factor), _solve(self.scale_tril, u - self.loc) - mean), -log_det

    def pull(self, u: Array) -> Array:
        """``precision @ (u - location)`` of the prior: minus the gradient of its log density."""
        return _solve(_transposed(self.scale_tril), _solve(self.scale_tril, u - self.loc))

    @property
    def spread(self) -> Array:
        """The standard deviation of each coordinate."""
        xp = namespace(self.loc)
        return xp.sqrt(xp.sum(self.scale_tril**2, axis=-1))

    def _conditional(self, seen: Pseudo) -> tuple[Array, Array, Array]:
        """Mean and upper factor U of the precision ``U U^T`` of ``(u - loc)`` in units of the prior's factor."""
        xp, lower = namespace(self.loc), self.scale_tril
        precision = unit_matrix(lower.shape[-1], lower) + _transposed(lower) @ (seen.precision[..., None] * lower)
        # a Cholesky factor from the last coordinate to the first: its inverse transposed is lower triangular
        factor = xp.flip(xp.linalg.cholesky(xp.flip(precision, axis=(-2, -1))), axis=(-2, -1))
        pull = _product(_transposed(lower), seen.precision * (seen.value - self.loc))
        mean = _solve(_transposed(factor), _solve(factor, pull))
        log_det = xp.log(xp.linalg.diagonal(lower)) - xp.log(xp.linalg.diagonal(factor))
        return mean, factor, log_det


Prior = Independent | Walk | Joint


def _posterior(loc: Array, scale: Array, precision: Array, linear: Array) -> tuple[Array, Array]:
    """Mean and scale of ``N(loc, scale^2)`` times ``exp(-precision u^2 / 2 + linear u)``."""
    variance = scale**2
    shrink = 1 / (1 + variance * precision)
    return (loc + variance * linear) * shrink, scale * namespace(loc).sqrt(shrink)


def _product(matrix: Array, v: Array) -> Array:
    return (matrix @ v[..., None])[..., 0]


def _solve(matrix: Array, v: Array) -> Array:
    return namespace(v).linalg.solve(matrix, v[..., None])[..., 0]


def _transposed(matrix: Array) -> Array:
    return namespace(matrix).matrix_transpose(matrix)


def _before(v: Array) -> Array:
    """Every entry is the one before it; the first one 0."""
    return namespace(v).concat((v[..., :1] * 0, v[..., :-1]), axis=-1)


def _later(v: Array) -> Array:
    """Every entry is the one after it; the last one 0."""
    return namespace(v).concat((v[..., 1:], v[..., :1] * 0), axis=-1)
