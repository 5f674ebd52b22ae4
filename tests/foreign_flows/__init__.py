"""A package of somebody else: a layer, a transformer, two conditioners and a base, each in one file of its own."""

from foreign_flows.fourier_features import FourierFeatures
from foreign_flows.givens import Givens
from foreign_flows.laplace import Laplace
from foreign_flows.markov import Markov
from foreign_flows.tanh_step import TanhStep

__all__ = ["FourierFeatures", "Givens", "Laplace", "Markov", "TanhStep"]
