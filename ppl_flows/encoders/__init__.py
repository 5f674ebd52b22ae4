"""Networks from data to the context of a flow."""

from ppl_flows.encoders.set_encoder import SetEncoder

__all__ = ["SetEncoder"]
