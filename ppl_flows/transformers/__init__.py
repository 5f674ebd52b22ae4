"""Transformers: monotone scalar maps, one file each, usable in every wiring."""

from ppl_flows.transformers.additive import Additive
from ppl_flows.transformers.affine import Affine
from ppl_flows.transformers.multiplicative import Multiplicative
from ppl_flows.transformers.rational_quadratic import RationalQuadratic

__all__ = ["Additive", "Affine", "Multiplicative", "RationalQuadratic"]
