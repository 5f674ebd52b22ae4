"""What a type checker says of users' code: ``make lint`` reads this file, nothing runs it.

Where a line is ignored the checker must find that mistake: an ignore without one is an error of its own.
"""

import numpy as np

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro
from ppl_flows.core.namespace import namespace


def transforms_have_the_signatures_of_their_bijections() -> None:
    in_numpyro.transforms.Coupling(4, pf.RationalQuadratic(), mask="alternating", seed=1)
    in_pyro.transforms.Coupling(4, pf.RationalQuadratic(), mask="alternating", seed=1)
    in_numpyro.transforms.Coupling("four")  # type: ignore[arg-type]
    in_pyro.transforms.Coupling("four")  # type: ignore[arg-type]
    in_numpyro.transforms.Coupling(4, masks="alternating")  # type: ignore[call-arg]
    in_pyro.transforms.Coupling(4, masks="alternating")  # type: ignore[call-arg]


def namespaces_have_typed_hooks() -> None:
    xp = namespace(np.ones(3))
    xp.sum(xp.softplus(xp.asarray([1.0])), axis=-1)
    xp.softplus(np.ones(3), 1.0)  # type: ignore[call-arg]
    xp.pieces(np.ones(3), 3, axis=0)  # type: ignore[arg-type]
    xp.solve_triangular(np.eye(3), np.ones(3), True)  # type: ignore[call-arg]


def bijections_are_typed() -> None:
    params = pf.Coupling(4).init(np.random.default_rng(0))
    pf.Chain([pf.Coupling(4), pf.Permute(4)]).forward(params, np.ones(4))
    pf.Chain(4)  # type: ignore[arg-type]
