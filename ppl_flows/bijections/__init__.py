"""Layers, one paper one file."""

from ppl_flows.bijections.coupling import Coupling
from ppl_flows.bijections.elementwise import Elementwise
from ppl_flows.bijections.masked_autoregressive import MaskedAutoregressive
from ppl_flows.bijections.permute import Permute, Reverse

__all__ = ["Coupling", "Elementwise", "MaskedAutoregressive", "Permute", "Reverse"]
