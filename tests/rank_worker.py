"""Fits that ``test_ranks.py`` runs in one process and in several: ``rank_worker.py FOLDER CASE...``.

Started by torchrun, or with its variables RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; without, it is one process. Every
process writes ``FOLDER/CASE.RANK.npz``: losses, parameters and measures.
"""

import os
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.distributed
from pyro.distributions import constraints
from pyro.infer import RenyiELBO, TraceMeanField_ELBO

import ppl_flows as pf
from ppl_flows.core.params import flatten
from ppl_flows.pyro import AutoFlow, AutoLocalFlow, fit, fit_amortized, fit_density, flow

TIMEOUT = timedelta(seconds=30)  # of a group, so that no test waits for longer
QUICK = {"steps": 40, "tolerance": None, "draws": 50, "check_modes": False, "progress": False, "compile": False}
ROWS = np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32)


def small(dim, **_):
    return pf.iaf(dim, flow_layers=1, hidden=(8,))


def correlated():
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 0.9))
    with pyro.plate("rows", 5):
        pyro.sample("y", dist.StudentT(3.0, z.sum(-1), 1.0), obs=torch.arange(5.0))


def subsampled(size=10):
    def model():
        data = torch.as_tensor(ROWS)
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(data), subsample_size=size) as rows:
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=data[rows])

    return model


def local():
    data = torch.as_tensor(ROWS[:, 0])
    z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))  # as many numbers as a process has rows
    with pyro.plate("rows", len(data), subsample_size=8) as rows:
        own = pyro.sample("own", dist.Normal(z.mean(-1), 1.0))
        pyro.sample("y", dist.Normal(own, 0.5), obs=data[rows])


def by_hand():
    """A model and a guide whose draws are of other kinds than a flow's."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    coin = pyro.sample("coin", dist.Bernoulli(0.3))
    noise = torch.rand(rate.shape) * 1e-2 if rate.ndim else torch.rand(()) * 1e-2
    pyro.sample("y", dist.Normal(rate + coin + noise, 1.0), obs=torch.tensor(2.0))


def guide_by_hand():
    shape = pyro.param("shape", torch.tensor(2.0), constraint=constraints.positive)
    chance = pyro.param("chance", torch.tensor(0.4), constraint=constraints.unit_interval)
    pyro.sample("rate", dist.Gamma(shape, 1.0))
    pyro.sample("coin", dist.Bernoulli(chance))


def flow_of_student():
    pyro.sample("z", flow("q", pf.Elementwise(2), base=dist.StudentT(5.0).expand([2]).to_event(1)))


def labelled():
    """A mixture, whose labels are summed over."""
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", 20):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        pyro.sample(
            "y", dist.Normal(torch.where(k == 0, z[..., 0], z[..., 1] + 2.0), 1.0), obs=torch.as_tensor(ROWS[:20, 0])
        )


def simulated(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def two_modes():
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    pyro.sample("y", dist.Normal(z.abs().sum(-1), 0.3), obs=torch.tensor(4.0))


def of_guide(model, guide, **options):
    result = fit(model, guide, **{**QUICK, **options})
    params = [p.detach().numpy() for p in result.params.values()]
    return [result.losses, np.array([*result.elbo, result.ess, result.interrupted]), *params]


def of_density(fitted):
    leaves = [np.asarray(a) for _, a in flatten(fitted.params)]
    return [fitted.losses, np.array([] if fitted.validation_losses is None else fitted.validation_losses), *leaves]


def density(**options):
    bijection, data = pf.maf(2, flow_layers=1, hidden=(8,)), options.pop("data", ROWS)
    return of_density(fit_density(bijection, data, **{"steps": 40, "batch_size": 15, "progress": False, **options}))


class Dataset:
    """Rows that a step reads, skewed."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, i):
        return np.exp(ROWS[i])


def amortized(**options):
    y = torch.zeros(6)
    common = {"steps": 20, "batch_size": 30, "progress": False, "compile": False}
    return of_density(fit_amortized(simulated, y, **{**common, **options}).density)


CASES = {
    "particles": lambda **o: of_guide(correlated, AutoFlow(correlated, small), num_particles=11, **o),
    "one by one": lambda: of_guide(
        correlated, AutoFlow(correlated, small, start="init"), num_particles=9, vectorize_particles=False, steps=20
    ),
    "plate": lambda **o: of_guide(subsampled(), AutoFlow(subsampled(), small), num_particles=1, **o),
    "plate, particles": lambda: of_guide(subsampled(), AutoFlow(subsampled(), small), num_particles=3),
    "local": lambda: of_guide(local, AutoLocalFlow(local, "rows", flow=small, local_flow=pf.Elementwise)),
    "local, plate": lambda: of_guide(
        local, AutoLocalFlow(local, "rows", flow=small, local_flow=pf.Elementwise), num_particles=2
    ),
    "by hand": lambda: of_guide(by_hand, guide_by_hand, num_particles=10),
    "enumerated": lambda: of_guide(labelled, AutoFlow(labelled, small, start="init"), num_particles=10),
    "base": lambda: of_guide(correlated, flow_of_student, num_particles=10),
    "loss": lambda: of_guide(
        correlated,
        AutoFlow(correlated, small, start="init"),
        loss=TraceMeanField_ELBO(num_particles=10, vectorize_particles=True),
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
    ),
    "early": lambda: of_guide(
        correlated, AutoFlow(correlated, small), num_particles=16, steps=600, tolerance=0.5, lr=1e-3
    ),
    "dataset": lambda: density(data=Dataset(), batch_size=45, lr=0.05),
    "density": lambda **o: density(validation=0.2, **o),
    "all rows": lambda: density(batch_size=100),
    "levels": lambda: density(levels=4, data=np.abs(ROWS).clip(0, 3).round()),
    "amortized": lambda: amortized(simulations=200, encoder=pf.SetEncoder(hidden=(8,))),
    "on the fly": lambda: amortized(simulations=None),
}


def rank():
    return int(os.environ.get("RANK", "0"))


def of_rank(number, value, other):
    return value if rank() == number else other


class OwnError(Exception):
    """Of a model or a callback in one process."""


def fails(number):
    """A model, or a callback, that fails in one process at its so-many-th run."""
    runs = []

    def run(*_):
        runs.append(1)
        if rank() == 1 and len(runs) == number:
            raise OwnError("this process alone")
        return correlated()

    return run


def signals(step):
    """A callback that interrupts one process after so many steps."""

    def callback(at, *_):
        if rank() == 1 and at == step:
            os.kill(os.getpid(), signal.SIGINT)

    return callback


def nan_from(number):
    """A model whose log density is no number from so many runs on, in one process."""
    runs = []

    def model():
        runs.append(1)
        correlated()
        pyro.factor("nan", torch.tensor(torch.nan if rank() == 1 and len(runs) > number else 0.0))

    return model


def one_fit(model=correlated, **options):
    return of_guide(model, AutoFlow(correlated, small, start="init"), **{"num_particles": 4, **options})


def by_branches():
    z = correlated()
    if rank() == 1:
        torch.rand(1)
    return z


def dependent():
    """A guide whose second draw depends on the first by more than a location and a scale."""
    rate = pyro.sample("rate", dist.Gamma(pyro.param("shape", torch.tensor(2.0)), 1.0))
    pyro.sample("coin", dist.Bernoulli(torch.sigmoid(rate)))


def killed(**options):
    """A fit one of whose processes is killed in a step, or none."""
    runs = []

    def model():
        runs.append(1)
        if rank() == 1 and len(runs) == int(os.environ.get("KILL_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return correlated()

    return one_fit(model, num_particles=8, **options)


TROUBLE = {
    "model": lambda: one_fit(fails(40)),
    "first step": lambda: one_fit(fails(3)),
    "start": lambda: of_guide(correlated, AutoFlow(fails(1), small), num_particles=4),
    "callback": lambda: one_fit(callback=fails(20)),
    "seeds": lambda: one_fit(seed=rank()),
    "data": lambda: density(data=ROWS + rank()),
    "hidden data": lambda: one_fit(lambda: (correlated(), pyro.factor("own", torch.tensor(float(rank()))))),
    "nan": lambda: one_fit(nan_from(20)),
    "branches": lambda: one_fit(by_branches),
    "dependent": lambda: of_guide(by_hand, dependent, num_particles=4),
    "nothing to share": lambda: one_fit(num_particles=3),
    "too few rows": lambda: of_guide(subsampled(1), AutoFlow(subsampled(1), small), num_particles=1),
    "batch statistics": lambda: of_density(fit_density(pf.Chain([pf.BatchNorm(2)]), ROWS, steps=5, progress=False)),
    "no mean": lambda: one_fit(num_particles=None, loss=RenyiELBO(num_particles=4, vectorize_particles=True)),
    "modes": lambda: of_guide(two_modes, AutoFlow(two_modes, small, modes=2)),
    "strict": lambda: one_fit(compile="strict"),
    "afterwards": one_fit,
    "never killed": killed,
    "killed": lambda: killed(checkpoint="fit.ck", checkpoint_every=0),
    "interrupted": lambda: one_fit(callback=signals(20), checkpoint="interrupted.ck"),
    "no group": one_fit,
}


def run(case):
    """Numbers, or the error that this process ends by."""
    pyro.clear_param_store()
    try:
        np.savez(f"{case}.{rank()}.npz", *(CASES | TROUBLE)[case]())
    except Exception as error:
        Path(f"{case}.{rank()}.txt").write_text(f"{type(error).__name__}: {error}")
        if case in CASES:
            raise


def main(folder, *cases):
    os.chdir(folder)
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ and cases != ("no group",):
        torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    for case in cases:
        run(case)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
