"""Flows in plain torch, without Pyro: ``pf.nsf(2).to_torch()`` is an ``nn.Module`` with ``log_prob`` and ``sample``."""

from ppl_flows.torch.flow import Flow

__all__ = ["Flow"]
