"""Every bijection under its own name as a Pyro transform class.

``from ppl_flows.pyro.transforms import Coupling``; then
``Coupling(4, mask="alternating")`` is ``FlowTransform(pf.Coupling(4, mask="alternating"))``; besides the bijection's
own arguments each class takes ``params``, ``context`` and ``seed`` of ``FlowTransform``.
"""

from ppl_flows.pyro.transform import FlowTransform
from ppl_flows.transform_classes import transform_classes

_classes = transform_classes(FlowTransform, __name__)
globals().update(_classes)
__all__ = sorted(_classes)  # noqa: PLE0605  a list of names, made where the classes are made
