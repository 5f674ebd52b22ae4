"""Fits that ``test_ranks.py`` runs in one process and in several: ``rank_worker.py FOLDER CASE...``.

Started by torchrun, or with its variables RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; without, it is one process. Every
process writes ``FOLDER/CASE.RANK.npz``: losses, parameters and measures.
"""

import os
import sys
from datetime import timedelta
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.distributed
from pyro.distributions import constraints
from pyro.infer import TraceMeanField_ELBO

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


def simulated(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def of_guide(model, guide, **options):
    result = fit(model, guide, **{**QUICK, **options})
    params = [p.detach().numpy() for p in result.params.values()]
    return [result.losses, np.array([*result.elbo, result.ess]), *params]


def of_density(fitted):
    leaves = [np.asarray(a) for _, a in flatten(fitted.params)]
    return [fitted.losses, np.array([] if fitted.validation_losses is None else fitted.validation_losses), *leaves]


def density(**options):
    bijection, data = pf.maf(2, flow_layers=1, hidden=(8,)), options.pop("data", ROWS)
    return of_density(fit_density(bijection, data, **{"steps": 40, "batch_size": 15, "progress": False, **options}))


def amortized(**options):
    y = torch.zeros(6)
    common = {"steps": 20, "batch_size": 30, "progress": False, "compile": False}
    return of_density(fit_amortized(simulated, y, **{**common, **options}).density)


CASES = {
    "particles": lambda **o: of_guide(correlated, AutoFlow(correlated, small), num_particles=11, **o),
    "one by one": lambda: of_guide(
        correlated, AutoFlow(correlated, small, start="init"), num_particles=9, vectorize_particles=False
    ),
    "plate": lambda **o: of_guide(subsampled(), AutoFlow(subsampled(), small), num_particles=1, **o),
    "plate, particles": lambda: of_guide(subsampled(), AutoFlow(subsampled(), small), num_particles=3),
    "local": lambda: of_guide(local, AutoLocalFlow(local, "rows", flow=small, local_flow=pf.Elementwise)),
    "local, plate": lambda: of_guide(
        local, AutoLocalFlow(local, "rows", flow=small, local_flow=pf.Elementwise), num_particles=2
    ),
    "by hand": lambda: of_guide(by_hand, guide_by_hand, num_particles=10),
    "base": lambda: of_guide(correlated, flow_of_student, num_particles=10),
    "loss": lambda: of_guide(
        correlated,
        AutoFlow(correlated, small),
        loss=TraceMeanField_ELBO(num_particles=10, vectorize_particles=True),
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
    ),
    "early": lambda: of_guide(
        correlated, AutoFlow(correlated, small), num_particles=32, steps=2_000, tolerance=0.1, lr=1e-3
    ),
    "density": lambda **o: density(validation=0.2, **o),
    "levels": lambda: density(levels=4, data=np.abs(ROWS).clip(0, 3).round()),
    "amortized": lambda: amortized(simulations=200, encoder=pf.SetEncoder(hidden=(8,))),
    "on the fly": lambda: amortized(simulations=None),
}


def run(case, folder, rank):
    pyro.clear_param_store()
    np.savez(f"{folder}/{case}.{rank}.npz", *CASES[case]())


def main(folder, *cases):
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    for case in cases:
        run(case, folder, rank)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
