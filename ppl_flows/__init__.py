"""Normalizing flows as Transforms for Pyro and NumPyro: written once, run in both, weights move between them.

``import ppl_flows as pf`` loads neither torch nor JAX. What meets a language is in ``ppl_flows.pyro`` and
``ppl_flows.numpyro``, which have the same names.
"""

from ppl_flows.bijections import Coupling, Elementwise, MaskedAutoregressive, Permute, Reverse
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.compose import Chain, Inverse
from ppl_flows.core.transformer import Transformer
from ppl_flows.files import load, save
from ppl_flows.flows import guide_flow, iaf, maf, nice, nsf, real_nvp
from ppl_flows.transformers import Additive, Affine, Multiplicative, RationalQuadratic

__version__ = "0.1.0"

__all__ = [
    "Additive",
    "Affine",
    "Bijection",
    "Chain",
    "Coupling",
    "Elementwise",
    "Inverse",
    "MaskedAutoregressive",
    "Multiplicative",
    "Permute",
    "RationalQuadratic",
    "Reverse",
    "Transformer",
    "guide_flow",
    "iaf",
    "load",
    "maf",
    "nice",
    "nsf",
    "real_nvp",
    "save",
]
