"""Normalizing flows as Transforms for Pyro and NumPyro: written once, run in both, weights move between them.

``import ppl_flows as pf`` loads neither torch nor JAX. What meets a language is in ``ppl_flows.pyro`` and
``ppl_flows.numpyro``, which have the same names; pictures are in ``ppl_flows.plots``.
"""

from ppl_flows import bases, bijections, combinators, conditioners, recipes, transformers
from ppl_flows.bases import *  # noqa: F403  a new part is named once, in its folder
from ppl_flows.bijections import *  # noqa: F403
from ppl_flows.combinators import *  # noqa: F403
from ppl_flows.conditioners import *  # noqa: F403
from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import AutoregressiveConditioner, AutoregressiveNetwork, Conditioner
from ppl_flows.core.params import merge, split
from ppl_flows.core.transformer import Transformer
from ppl_flows.descriptions import register
from ppl_flows.encoders import SetEncoder
from ppl_flows.files import load, save
from ppl_flows.images import bits_per_dim
from ppl_flows.inference.calibration import Calibration
from ppl_flows.inference.classifier_test import c2st
from ppl_flows.inference.evidence import compare
from ppl_flows.inference.saved_fits import SavedAmortized, SavedDensity, SavedFit
from ppl_flows.inference.saved_likelihoods import SavedLikelihood
from ppl_flows.inference.saved_priors import SavedPrior
from ppl_flows.recipes import *  # noqa: F403
from ppl_flows.safe_files import FileFormatError
from ppl_flows.transformers import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [
    "AutoregressiveConditioner",
    "AutoregressiveNetwork",
    "Base",
    "Bijection",
    "Calibration",
    "Conditioner",
    "FileFormatError",
    "SavedAmortized",
    "SavedDensity",
    "SavedFit",
    "SavedLikelihood",
    "SavedPrior",
    "SetEncoder",
    "Transformer",
    "bits_per_dim",
    "c2st",
    "compare",
    "load",
    "merge",
    "register",
    "save",
    "split",
]
__all__ += bases.__all__ + bijections.__all__ + combinators.__all__ + conditioners.__all__
__all__ += recipes.__all__ + transformers.__all__
