"""Transformers: monotone scalar maps, one file each, usable in every wiring."""

from ppl_flows.transformers.additive import Additive
from ppl_flows.transformers.affine import Affine
from ppl_flows.transformers.bernstein_polynomial import BernsteinPolynomial
from ppl_flows.transformers.circular_rational_quadratic import CircularRationalQuadratic
from ppl_flows.transformers.cubic_spline import CubicSpline
from ppl_flows.transformers.deep_dense_sigmoidal import DeepDenseSigmoidal
from ppl_flows.transformers.deep_sigmoidal import DeepSigmoidal
from ppl_flows.transformers.leaky_relu import LeakyReLU
from ppl_flows.transformers.linear_spline import LinearSpline
from ppl_flows.transformers.mixture_gaussianization import MixtureGaussianization
from ppl_flows.transformers.mixture_logistic_cdf import MixtureLogisticCDF
from ppl_flows.transformers.multiplicative import Multiplicative
from ppl_flows.transformers.quadratic_spline import QuadraticSpline
from ppl_flows.transformers.rational_quadratic import RationalQuadratic
from ppl_flows.transformers.sinh_arcsinh import SinhArcsinh
from ppl_flows.transformers.squashing import Sigmoid, Softplus, Tanh
from ppl_flows.transformers.sum_of_squares import SumOfSquares
from ppl_flows.transformers.unconstrained_monotone import UnconstrainedMonotone

__all__ = [
    "Additive",
    "Affine",
    "BernsteinPolynomial",
    "CircularRationalQuadratic",
    "CubicSpline",
    "DeepDenseSigmoidal",
    "DeepSigmoidal",
    "LeakyReLU",
    "LinearSpline",
    "MixtureGaussianization",
    "MixtureLogisticCDF",
    "Multiplicative",
    "QuadraticSpline",
    "RationalQuadratic",
    "Sigmoid",
    "SinhArcsinh",
    "Softplus",
    "SumOfSquares",
    "Tanh",
    "UnconstrainedMonotone",
]
