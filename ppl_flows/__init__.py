"""Normalizing flows as Transforms for Pyro and NumPyro: written once, run in both, weights move between them.

``import ppl_flows as pf`` loads neither torch nor JAX. What meets a language is in ``ppl_flows.pyro`` and
``ppl_flows.numpyro``, which have the same names.
"""

from ppl_flows import bases, bijections, recipes, transformers
from ppl_flows.bases import *  # noqa: F403
from ppl_flows.bijections import *  # noqa: F403  a new layer is named once, in its folder
from ppl_flows.combinators.batched import Batched
from ppl_flows.combinators.chain import Chain
from ppl_flows.combinators.frozen import Frozen
from ppl_flows.combinators.inverse import Inverse
from ppl_flows.combinators.multi_scale import MultiScale
from ppl_flows.combinators.partial import Partial
from ppl_flows.combinators.per_pixel import PerPixel
from ppl_flows.combinators.repeat import Repeat
from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import merge, split
from ppl_flows.core.transformer import Transformer
from ppl_flows.files import load, save
from ppl_flows.images import bits_per_dim
from ppl_flows.recipes import *  # noqa: F403
from ppl_flows.transformers import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [
    "Base",
    "Batched",
    "Bijection",
    "Chain",
    "Frozen",
    "Inverse",
    "MultiScale",
    "Partial",
    "PerPixel",
    "Repeat",
    "Transformer",
    "bits_per_dim",
    "load",
    "merge",
    "save",
    "split",
]
__all__ += [*bases.__all__, *bijections.__all__, *recipes.__all__, *transformers.__all__]  # noqa: PLE0604  they are lists of strings
