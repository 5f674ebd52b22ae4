"""Bijections made of others."""

from ppl_flows.combinators.at_context import AtContext
from ppl_flows.combinators.batched import Batched
from ppl_flows.combinators.chain import Chain
from ppl_flows.combinators.frozen import Frozen
from ppl_flows.combinators.inverse import Inverse
from ppl_flows.combinators.multi_scale import MultiScale
from ppl_flows.combinators.partial import Partial
from ppl_flows.combinators.per_pixel import PerPixel
from ppl_flows.combinators.repeat import Repeat

__all__ = ["AtContext", "Batched", "Chain", "Frozen", "Inverse", "MultiScale", "Partial", "PerPixel", "Repeat"]
