"""Specifications of networks, one kind one file."""

from ppl_flows.conditioners.causal_attention import CausalAttention
from ppl_flows.conditioners.conv_net import ConvNet
from ppl_flows.conditioners.mlp import MLP

__all__ = ["MLP", "CausalAttention", "ConvNet"]
