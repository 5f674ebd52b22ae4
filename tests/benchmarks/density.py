"""Density estimation on UCI tables: a Gaussian, our flows in both languages, and the NSF of zuko and of FlowJAX.

Prints the mean test log-likelihood in nats per row, in the units of the table. All flows see standardised columns,
and have the same steps, batches, learning rates, clipping, averaging and held-out rows, and networks of the
same depth and width; every NSF but ``nsf, autoregressive`` is made of couplings. ``pip install zuko flowjax`` first
(the extra ``bench``), and have the tables in ``../shared/data/uci``. Takes about a minute per row of the result on one
core.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import flowjax.bijections
import flowjax.distributions
import flowjax.flows
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import paramax
import pyro
import torch
import zuko
from numpyro.infer import Trace_ELBO as NumPyroELBO
from pyro.infer import Trace_ELBO as PyroELBO
from scipy.stats import multivariate_normal

import ppl_flows as pf
import ppl_flows.numpyro.training
import ppl_flows.pyro.training
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro
from ppl_flows.core.params import flatten
from ppl_flows.inference.density import split_rows
from ppl_flows.inference.schedule import BestParams

UCI = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "uci"
TABLES = ("kin8nm", "power_plant", "protein")
LAYERS, HIDDEN, BINS, BOUND = 6, (64, 64), 8, 5.0
NSF_LAYERS = 10  # for as many parameters as zuko's NSF has in 6 layers, each of which moves all coordinates
BATCH, CLIP, HELD = 256, 10.0, 1 / 9  # a ninth of what is not for testing


def table(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows to fit and rows to test on, standardised, and what the log-likelihood loses by that in nats per row."""
    stored = np.load(UCI / f"{name}.npz")
    rows = np.concatenate([stored["x"], stored["y"].reshape(len(stored["x"]), -1)], axis=-1).astype(float)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    n = round(0.9 * len(rows))
    loc, scale = rows[:n].mean(0), rows[:n].std(0)
    train, test = np.split(((rows - loc) / scale).astype(np.float32), [n])
    return train, test, float(np.log(scale).sum())


def gaussian(train: np.ndarray, test: np.ndarray, **_) -> tuple[float, int]:
    d = train.shape[1]
    return float(multivariate_normal(train.mean(0), np.cov(train.T)).logpdf(test).mean()), d + d * (d + 1) // 2


def ours(
    train: np.ndarray, test: np.ndarray, *, shell, recipe, layers: int = LAYERS, steps: int, lr: float, seed: int
) -> tuple[float, int]:
    bijection = recipe(train.shape[1], flow_layers=layers, hidden=HIDDEN)
    arrays = torch.tensor if shell is in_pyro else jnp.asarray
    options = {
        "steps": steps,
        "batch_size": BATCH,
        "lr": lr,
        "clip": CLIP,
        "validation": HELD,
        "seed": seed,
        "progress": False,
    }
    fit = shell.fit_density(bijection, arrays(train), **options)
    with torch.no_grad():
        score = np.asarray(fit.flow.log_prob(arrays(test)))
    return float(score.mean()), sum(int(np.prod(a.shape)) for _, a in flatten(fit.params))


def of_zuko(train: np.ndarray, test: np.ndarray, *, steps: int, lr: float, seed: int) -> tuple[float, int]:
    torch.manual_seed(seed)
    nsf = zuko.flows.NSF(train.shape[1], transforms=LAYERS, bins=BINS, passes=2, randperm=True, hidden_features=HIDDEN)
    rows, held = (torch.tensor(train[i]) for i in split_rows(len(train), HELD, seed))

    def model(_: float) -> None:
        with pyro.plate("rows", len(rows), subsample_size=BATCH) as i:
            pyro.factor("score", pyro.module("nsf", nsf)().log_prob(rows[i]) / len(rows))

    @torch.no_grad()
    def loss(_) -> torch.Tensor:
        return -nsf().log_prob(held).mean()

    best = BestParams(loss)
    pyro.clear_param_store()
    ppl_flows.pyro.training.train(
        PyroELBO(),
        model,
        lambda _: None,
        steps=steps,
        lr=lr,
        clip=CLIP,
        progress=False,
        watch=lambda *_: best({name: value.clone() for name, value in nsf.state_dict().items()}),
    )
    nsf.load_state_dict(best.params)
    with torch.no_grad():
        return float(nsf().log_prob(torch.tensor(test)).mean()), sum(p.numel() for p in nsf.parameters())


def of_flowjax(train: np.ndarray, test: np.ndarray, *, steps: int, lr: float, seed: int) -> tuple[float, int]:
    nsf = flowjax.flows.coupling_flow(
        jax.random.key(seed),
        base_dist=flowjax.distributions.Normal(jnp.zeros(train.shape[1])),
        transformer=flowjax.bijections.RationalQuadraticSpline(knots=BINS, interval=BOUND),
        flow_layers=LAYERS,
        nn_width=HIDDEN[0],
        nn_depth=len(HIDDEN),
    )
    start, static = eqx.partition(nsf, eqx.is_inexact_array, is_leaf=lambda x: isinstance(x, paramax.NonTrainable))
    rows, held = (jnp.asarray(train[i]) for i in split_rows(len(train), HELD, seed))

    def log_prob(params, x: jax.Array) -> jax.Array:
        return paramax.unwrap(eqx.combine(params, static)).log_prob(x)

    def model(_: jax.Array) -> None:
        params = numpyro.param("nsf", lambda _: start)
        with numpyro.plate("rows", len(rows), subsample_size=BATCH) as i:
            numpyro.factor("score", log_prob(params, rows[i]) / len(rows))

    best = BestParams(jax.jit(lambda found: -log_prob(found["nsf"], held).mean()))
    options = {"steps": steps, "lr": lr, "clip": CLIP, "progress": False, "watch": lambda *after: best(after[-1])}
    ppl_flows.numpyro.training.train(jax.random.key(seed), NumPyroELBO(), model, lambda _: None, **options)
    size = sum(a.size for a in jax.tree.leaves(start))
    return float(log_prob(best.params["nsf"], jnp.asarray(test)).mean()), size


FITS = {
    "Gaussian": gaussian,
    "maf, Pyro": partial(ours, shell=in_pyro, recipe=pf.maf),
    "maf, NumPyro": partial(ours, shell=in_numpyro, recipe=pf.maf),
    "nsf, Pyro": partial(ours, shell=in_pyro, recipe=pf.nsf, layers=NSF_LAYERS),
    "nsf, NumPyro": partial(ours, shell=in_numpyro, recipe=pf.nsf, layers=NSF_LAYERS),
    "nsf, autoregressive, Pyro": partial(ours, shell=in_pyro, recipe=partial(pf.nsf, wiring="autoregressive")),
    "nsf, autoregressive, NumPyro": partial(ours, shell=in_numpyro, recipe=partial(pf.nsf, wiring="autoregressive")),
    "NSF, zuko": of_zuko,
    "NSF, FlowJAX": of_flowjax,
}


def main(tables: list[str], fits: list[str], steps: int, lr: float, seeds: int) -> None:
    if not UCI.exists():
        sys.exit("the tables are not in this checkout: expected kin8nm.npz and others in ../shared/data/uci.")
    for name in tables:
        train, test, log_scale = table(name)
        for fit in fits:
            results = [FITS[fit](train, test, steps=steps, lr=lr, seed=seed) for seed in range(seeds)]
            scores = " ".join(f"{score - log_scale:8.3f}" for score, _ in results)
            print(f"{name:12} {fit:28} {scores}  ({results[0][1]} parameters)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--fits", nargs="+", default=list(FITS), choices=list(FITS))
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, default=1)
    main(**vars(parser.parse_args()))
