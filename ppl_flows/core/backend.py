"""The seam between array libraries: all that a namespace has besides the functions of the array API.

A hook is here for one of three reasons: the array API lacks the function; the libraries spell it, or run it fast, each
in its own way; or it needs what a library alone can do: loops, maps and gradients of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ppl_flows.core.types import Array, Context, Params

if TYPE_CHECKING:
    from ppl_flows.core.transformer import Transformer

State = TypeVar("State")
Carry = TypeVar("Carry")
F = TypeVar("F", bound=Callable[..., Any])


class Activations(Protocol):
    """Activations of networks: elementwise, in x's dtype, to rounding the same in every library.

    The array API has tanh alone, and the libraries' own differ in their defaults and in their digits.
    """

    def elu(self, x: Array, /) -> Array:
        """x where it is positive, else ``exp(x) - 1``."""

    def gelu(self, x: Array, /) -> Array:
        """``x Phi(x)``, by the formula with tanh."""

    def relu(self, x: Array, /) -> Array:
        """The larger of x and 0."""

    def sigmoid(self, x: Array, /) -> Array:
        """``1 / (1 + exp(-x))``."""

    def silu(self, x: Array, /) -> Array:
        """``x sigmoid(x)``."""

    def softplus(self, x: Array, /) -> Array:
        """``log(1 + exp(x))``, to the dtype's precision at both ends."""

    def tanh(self, x: Array, /) -> Array:
        """The hyperbolic tangent."""


class Hooks(Activations, Protocol):
    """Every name of ours that a namespace has; ``ppl_flows.backends`` and tests/test_backend.py check the three."""

    # Functions that the array API lacks.

    def erfc(self, x: Array, /) -> Array:
        """``1 - erf(x)``, elementwise, accurate where that is small."""

    def lgamma(self, x: Array, /) -> Array:
        """``log |Gamma(x)|``, elementwise."""

    def ndtri(self, x: Array, /) -> Array:
        """The quantile function of the standard normal, elementwise."""

    def logsumexp(self, x: Array) -> Array:
        """``log sum exp`` over the last axis: ``(*batch, n)`` to ``(*batch,)``."""

    def softmax(self, x: Array) -> Array:
        """Over the last axis: ``(*batch, n)`` to the same shape."""

    def solve_triangular(self, a: Array, b: Array, *, lower: bool) -> Array:
        """x with ``a x = b`` for every row of b, ``(*batch, n)``; a ``(n, n)`` is triangular.

        The array API has only ``linalg.solve``, which factors a anew and whose batch is in front of both.
        """

    def cholesky(self, x: Array) -> tuple[Array, Array]:
        """The lower factors of matrices, ``(*batch, n, n)``, and their inverses; nan where not positive definite.

        The array API's is for all matrices or, if one is not positive definite, for none. JAX runs the LAPACK of SciPy,
        whose threads get into each other's way where several matrices are factored at once.
        """

    def conv2d(self, x: Array, kernel: Array) -> Array:
        """Convolution of images with channels last, padded with zeros so that height and width stay.

        ``(*batch, height, width, in)`` and ``(side, side, in, out)`` to ``(*batch, height, width, out)``.
        """

    # What each library spells, or runs fast, in its own way.

    def reads_code(self) -> bool:
        """Whether a compiler is reading the code that runs, NumPy's too: checks that use it are left out then."""

    def constant(self, array: np.ndarray, like: Array) -> Array:
        """A NumPy constant as an array of like's library and device; floats and bools in like's dtype.

        The array must be kept by the caller: torch keeps the tensor it made of it, JAX writes masks in bits.
        """

    def linear(self, x: Array, w: Array, b: Array) -> Array:
        """``x w + b``: x ``(*batch, in)``, w ``(in, out)``, b ``(out,)`` or ``(*batch, out)``; one kernel in torch."""

    def masked_sum(self, x: Array, mask: Array, axis: int) -> Array:
        """The sum of x where mask, broadcast to its shape, is true; torch multiplies, as its ``where`` is slow."""

    def pieces(self, x: Array, sizes: Sequence[int], axis: int) -> Sequence[Array]:
        """x cut along an axis into pieces of these sizes, which add up to its length.

        The gradient of slices is a sum of padded arrays, that of the libraries' own split one concatenation.
        """

    def transposed(self, x: Array) -> Array:
        """``x.T`` of a matrix, with its own rows contiguous: kernels over them are then as fast as over x's."""

    def rational_quadratic(
        self, plain: Callable[[Array, Array], tuple[Array, Array]], v: Array, rows: Array, axis: int, h: Any
    ) -> tuple[Array, Array]:
        """``plain(v, rows)``, which is ``(value, log slope)`` of the spline h at v: torch has its gradient by hand.

        Args:
            plain: the spline in plain operations.
            v: within the spline's interval, of any shape.
            rows: its raw parameters, ``(3 bins - 1, *shape of v)``.
            axis: 0 for the spline, 1 for its inverse.
            h: a ``RationalQuadratic``.
        """

    # Gradients.

    def stop_gradient(self, x: Array) -> Array:
        """x as a constant."""

    def keeping_products(self, f: F) -> F:
        """f, a network: its backward pass may keep the matrix products alone, and compute the rest anew.

        What JAX keeps inside a scan is copied, at twice the cost of computing it.
        """

    def checkpoint(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """run, a function of ``(params, v, context)``, of which only the arguments are kept for the backward pass."""

    def reversible(
        self, stack: Any, forward: bool, stage: str | None, params: Params, v: Array, context: Context
    ) -> tuple[Params, Array, Array]:
        """``reversible_pass.walk``, of which only the output is kept: the backward pass walks back by the inverse.

        Returns:
            ``(what changed of params, out, log_det)``.

        Raises:
            ValueError: in the backward pass, where the inverse does not lead back to v.
        """

    # Loops and maps.

    def scan(
        self, step: Callable[[Carry, Params], tuple[Carry, Any]], carry: Carry, params: Params, n: int, *, reverse: bool
    ) -> tuple[Carry, Any]:
        """``carry, out = step(carry, row)`` for each of the n rows of params, the last one first if reverse.

        A loop in Python would be a program of n bodies in JAX, which compiles for n times as long.

        Args:
            step: its carry has one structure, with the same shapes and dtypes in every step, and so has its out.
            params: every array has an axis of length n in front; a row has not.

        Returns:
            The last carry; the outs, nested dicts of arrays, stacked in the order of the rows.
        """

    def repeat_passes(
        self,
        run: Callable[[Params, Array, Context], tuple[Array, Array]],
        params: Params,
        v: Array,
        context: Context,
        zero: Array,
        n: int,
        *,
        reverse: bool,
    ) -> tuple[Array, Array]:
        """``v, log_det = run(row, v, context)`` for each of the n rows of params, the last one first if reverse.

        A ``scan``, but at no Python frame a row besides run's own in the libraries that run eagerly.

        Args:
            zero: zeros of the log_det's shape and dtype.

        Returns:
            The last v, and the sum of the log_dets.
        """

    def while_loop(
        self, go_on: Callable[[State], Array], body: Callable[[State], State], state: State, limit: int
    ) -> State:
        """``state = body(state)`` while ``go_on(state)``, a bool scalar; at most ``limit`` times; no gradient.

        Under ``vmap`` as long as any of the mapped elements goes on.
        """

    def vmap(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f on every element along the first axis of all its arguments, which may be nested dicts.

        f returns a tuple, the first of it a nested dict.
        """

    def recurrence(self, gain: Array, term: Array) -> Array:
        """``x_t = gain_t x_(t-1) + term_t`` along the last axis, with ``x_(-1) = 0``; both of one shape."""

    def fractions(self, a: Array, b: Array, c: Array, d: Array) -> Array:
        """``x_t = (a_t x_(t-1) + b_t) / (c_t x_(t-1) + d_t)`` along the last axis, with ``x_(-1) = 0``.

        All are of one shape, and at least 0, d positive.
        """

    # Solvers.

    def autoregressive_inverse(
        self, network: Any, transformer: Transformer, method: str, params: Params, y: Array, context: Context
    ) -> tuple[Array, Array]:
        """``(x, log_det)`` with ``transformer.forward(network(x), x) = y``, in about one pass of the network.

        Its derivatives, of every order, are those of the implicit function theorem, by two more such systems. See
        ``triangular_sweep``.

        Args:
            network: a ``MaskedMLP``.
            method: "sweep"; "jacobi", parallel iteration; "auto", what is faster in this library.
            y: ``(*batch, dim)``.
        """

    def odeint(
        self,
        f: Callable[..., Array],
        y: Array,
        args: tuple[Array, ...],
        times: tuple[float, float],
        *,
        rtol: float,
        atol: float,
    ) -> Array:
        """The solution at ``times[1]`` of ``dy/dt = f(t, y, *args)`` that is y, ``(*batch, n)``, at ``times[0]``.

        By the library's own solver: SciPy, torchdiffeq, diffrax. The step is that of the hardest row. nan where the
        solver fails. Gradients with respect to y and args, not times.
        """


class Backend(Hooks, Protocol):
    """A namespace: the hooks, and the functions of the array API under their standard names."""

    def __getattr__(self, name: str) -> Any:
        """A function, dtype or submodule of the array API, as its standard has it."""


HOOKS = tuple(name for c in (Activations, Hooks) for name in vars(c) if not name.startswith("_"))
