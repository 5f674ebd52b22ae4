"""Flows in plain JAX, without NumPyro: ``pf.nsf(2).to_jax()`` is a pytree with ``log_prob`` and ``sample``."""

from ppl_flows.jax.flow import Flow

__all__ = ["Flow"]
