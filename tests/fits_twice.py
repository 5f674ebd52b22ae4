"""A plugin of pytest: every training of Pyro's fits is tried first, for some steps, by replays and by Pyro.

``REPORT`` in the environment is a file that gets a line for each: ``compiled``, ``reason ...`` or ``DIFFERENT ...``.
"""

import importlib
import logging
import os
from contextlib import contextmanager

import numpy as np
import pyro
import torch

from ppl_flows.pyro import density_training, training
from ppl_flows.pyro.compile import replay
from ppl_flows.pyro.compile.replay import Replay

fit_module = importlib.import_module("ppl_flows.pyro.fit")
replay.JIT_STEPS, STEPS = 10, 20  # float32 on a funnel: later the two are some per cent apart, by rounding alone
train, reasons, made = training.train, [], []


class Reasons(logging.Handler):
    def emit(self, record):
        reasons.append(record.getMessage())


logging.getLogger("ppl_flows").addHandler(Reasons())
logging.getLogger("ppl_flows").setLevel(logging.INFO)


first, gradient = {}, training.EagerSteps.gradient


def noted_gradient(self, weight):
    """The first makes parameters, some of them of modules that outlive the store: it notes where they start."""
    out = gradient(self, weight)
    if not first:
        params = pyro.get_param_store()._params
        first.update({name: (params[name], params[name].detach().clone()) for name in params})
    return out


class Noted(Replay):
    def __init__(self, *args):
        super().__init__(*args)
        made.append(1)


@contextmanager
def as_it_was():
    """Pyro's store, and torch's generator."""
    store, before = pyro.get_param_store(), {}
    for name in store:
        before[name] = store._params[name].detach().clone()
    first.clear()
    with torch.random.fork_rng():
        yield
    for name in [*store]:
        if name not in before:
            if name in first:
                with torch.no_grad():
                    first[name][0].copy_(first[name][1])
            del store[name]
        else:
            with torch.no_grad():
                store._params[name].copy_(before[name])


def outcome(compile, args, options):
    with as_it_was():
        try:
            trained = train(*args, compile=compile, **options)
            return trained.losses, {name: value.clone() for name, value in trained.params.items()}
        except Exception as error:  # whatever it is, both must raise it
            return type(error).__name__, {}


def twice(*args, compile=None, **options):
    host = options.get("optimizer") is not None or not options.get("weighted", True)
    if compile is None and not host:
        short = options | {"steps": STEPS, "progress": False, "tolerance": None, "watch": None, "checkpoint": None}
        reasons.clear()
        made.clear()
        (eager, there), (ours, here) = (outcome(mode, args, short) for mode in (False, None))
        same = type(eager) is type(ours) and there.keys() == here.keys()
        if same and isinstance(eager, np.ndarray):
            scale = 1 + np.abs(eager)
            same = np.allclose(ours / scale, eager / scale, rtol=0, atol=1e-3, equal_nan=True)
            same &= all(torch.allclose(here[n], there[n], rtol=1e-2, atol=1e-3, equal_nan=True) for n in there)
        elif same:
            same = ours == eager
        told = f"reason {reasons[0]}" if reasons else "compiled" if made or isinstance(eager, str) else "NEITHER"
        with open(os.environ["REPORT"], "a", encoding="utf-8") as report:
            report.write(f"{told if same else 'DIFFERENT'} {os.environ.get('PYTEST_CURRENT_TEST')}\n")
    return train(*args, compile=compile, **options)


replay.Replay = Noted
training.EagerSteps.gradient = noted_gradient
training.train = fit_module.train = density_training.train = twice
