"""What a pass costs in Python: checks run once, at the outermost call, and a level of nesting adds few frames."""

import sys
from collections.abc import Callable
from functools import partial
from types import CodeType

import jax
import numpy as np
import pytest
from cases import JAX, NUMPY, SHAPE, TORCH, perturbed, points

import ppl_flows as pf
from ppl_flows.conditioners.mlp import DenseNetwork
from ppl_flows.inference.auto_flow import guide_bijection

GUIDE = guide_bijection(None, 10, 16)
NETWORK = DenseNetwork.__call__.__code__
FORWARD = pf.Bijection.forward.__code__


def profiled(run: Callable, until: CodeType) -> tuple[int, int, int]:
    """Python calls of ``run``, those of our own code, and the frames from ``forward`` to the first of ``until``."""
    calls, own, frames = 0, 0, None

    def count(frame, event, _):
        nonlocal calls, own, frames
        if event != "call":
            return
        calls += 1
        own += "ppl_flows" in frame.f_code.co_filename
        if frames is None and frame.f_code is until:
            path = [frame]
            while path[-1].f_back is not None:
                path.append(path[-1].f_back)
            frames = 1 + max(i for i, f in enumerate(path) if f.f_code is FORWARD)

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    assert frames is not None, "it was not run"
    return calls, own, frames


def a_pass(library):
    """Of the default guide's bijection, once it has been run."""
    params, x = library.params(GUIDE.init(np.random.default_rng(0))), library.array(points(GUIDE))
    GUIDE.forward(params, x)
    return lambda: GUIDE.forward(params, x)


# before checks ran once, and parts through a private path: 3,272 and 2,276 calls, 32 frames
@pytest.mark.parametrize(("library", "most"), [(NUMPY, 1_300), (TORCH, 800)], ids=["numpy", "torch"])
def test_a_pass_of_the_default_guide_takes_few_calls_and_frames(library, most):
    calls, _, frames = profiled(a_pass(library), NETWORK)
    assert calls <= most
    assert frames <= 14


def test_jax_traces_a_pass_of_the_default_guide_in_few_calls_of_ours_and_frames():
    params, x = JAX.params(GUIDE.init(np.random.default_rng(0))), JAX.array(points(GUIDE))

    def trace():
        def again(*args):  # to jit another function, which it traces anew
            return GUIDE.forward(*args)

        jax.jit(again).lower(params, x)

    trace()
    _, own, frames = profiled(trace, NETWORK)
    assert own <= 150  # before: 465
    assert frames <= 16


COUPLING = pf.Coupling(4, conditioner=pf.MLP((3,)))
IMAGE = pf.Coupling(SHAPE, conditioner=pf.ConvNet(3))
NESTED = {
    "Chain": (COUPLING, pf.Chain([COUPLING])),
    "Chain in Chain": (pf.Chain([COUPLING]), pf.Chain([pf.Chain([COUPLING])])),
    "Chain in Repeat": (pf.Chain([COUPLING]), pf.Repeat(pf.Chain([COUPLING]), times=2)),
    "Frozen": (COUPLING, pf.Frozen(COUPLING)),
    "Inverse": (COUPLING, pf.Inverse(COUPLING)),
    "MultiScale": (IMAGE, pf.MultiScale([IMAGE])),
    "Partial": (COUPLING, pf.Partial(COUPLING, dim=5, index=(0, 1, 2, 4))),
    "PerPixel": (COUPLING, pf.PerPixel(COUPLING, height=2, width=2)),
    "Repeat": (COUPLING, pf.Repeat(COUPLING, times=2)),
    "all at once": (
        COUPLING,
        pf.Frozen(pf.Chain([pf.Inverse(pf.Repeat(pf.Partial(COUPLING, dim=5, index=(0, 1, 2, 4)), times=2))])),
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_level_of_nesting_adds_at_most_two_frames(name):
    levels = 5 if name == "all at once" else 1
    inner, outer = (
        profiled(partial(b.forward, perturbed(b), points(b)), pf.Coupling._apply.__code__)[2] for b in NESTED[name]
    )
    assert inner < outer <= inner + 2 * levels
