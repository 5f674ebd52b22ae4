"""Recipes: the architectures of the literature, each ``recipe(dim, *, ...) -> Bijection``.

``flow_layers``, ``conditioner``, ``hidden``, ``activation``, ``residual`` and ``context_dim`` mean the same in all that
take them: the number of transforming layers, the network of each (as in the layers), or in its place the widths of an
``MLP``'s hidden layers (None: two layers of a width that fits dim), its activation by name and whether ``hidden`` means
residual blocks, and the size of the context (0 for none). All start next to the identity; where a mask is random, next
to a permutation. For dim 1 there is nothing to condition on, and the coupling recipes use the same transformer
elementwise. An even number of couplings or of autoregressive layers, from four on, is a ``Repeat`` of pairs: in JAX the
time to compile does not grow with it. A size that is no whole number is a TypeError, one below 1 a ValueError.
"""

from ppl_flows.recipes.affine import guide_flow, iaf, maf, nice, real_nvp
from ppl_flows.recipes.continuous import ffjord
from ppl_flows.recipes.image import glow, real_nvp_image, tarflow
from ppl_flows.recipes.mixture import flowpp, gaussianization
from ppl_flows.recipes.neural import bnaf, naf, umnn
from ppl_flows.recipes.polynomial import bernstein_flow, sos_flow
from ppl_flows.recipes.residual import planar_flow, radial_flow, residual_flow, sylvester_flow
from ppl_flows.recipes.spline import nsf

__all__ = [
    "bernstein_flow",
    "bnaf",
    "ffjord",
    "flowpp",
    "gaussianization",
    "glow",
    "guide_flow",
    "iaf",
    "maf",
    "naf",
    "nice",
    "nsf",
    "planar_flow",
    "radial_flow",
    "real_nvp",
    "real_nvp_image",
    "residual_flow",
    "sos_flow",
    "sylvester_flow",
    "tarflow",
    "umnn",
]
