"""Layers, one paper one file."""

from ppl_flows.bijections.act_norm import ActNorm
from ppl_flows.bijections.batch_norm import BatchNorm
from ppl_flows.bijections.block_neural_autoregressive import BlockNeuralAutoregressive
from ppl_flows.bijections.contractive_residual import ContractiveResidual
from ppl_flows.bijections.coupling import Coupling
from ppl_flows.bijections.elementwise import Elementwise
from ppl_flows.bijections.householder import Householder
from ppl_flows.bijections.invertible_1x1_conv import Invertible1x1Conv
from ppl_flows.bijections.logit_transform import LogitTransform
from ppl_flows.bijections.lu_linear import LULinear
from ppl_flows.bijections.masked_autoregressive import MaskedAutoregressive
from ppl_flows.bijections.neural_ode import NeuralODE
from ppl_flows.bijections.orthogonal import Orthogonal
from ppl_flows.bijections.permute import Permute, Reverse, Shuffle
from ppl_flows.bijections.planar import Planar
from ppl_flows.bijections.radial import Radial
from ppl_flows.bijections.reshape import Reshape, Squeeze
from ppl_flows.bijections.sylvester import Sylvester
from ppl_flows.bijections.triangular_affine import TriangularAffine

__all__ = [
    "ActNorm",
    "BatchNorm",
    "BlockNeuralAutoregressive",
    "ContractiveResidual",
    "Coupling",
    "Elementwise",
    "Householder",
    "Invertible1x1Conv",
    "LULinear",
    "LogitTransform",
    "MaskedAutoregressive",
    "NeuralODE",
    "Orthogonal",
    "Permute",
    "Planar",
    "Radial",
    "Reshape",
    "Reverse",
    "Shuffle",
    "Squeeze",
    "Sylvester",
    "TriangularAffine",
]
