"""Autoregressive inversion of 1,000 points, in forward passes of the same layer (hidden 128 x 128, float32).

The plain loop, which every other library runs, takes ``dim`` passes.
"""

from timing import one_core, ratios

one_core()

import jax
import jax.numpy as jnp
import numpy as np
import torch

import ppl_flows as pf
from ppl_flows.core.params import map_params

POINTS = 1_000


def in_torch(layer: pf.Bijection, params: dict, x: np.ndarray) -> dict[str, float]:
    fixed = map_params(lambda _, a: torch.tensor(a, dtype=torch.float32), params)
    trained = map_params(lambda _, a: a.clone().requires_grad_(), fixed)
    points = torch.tensor(x)

    def plain(run):
        with torch.no_grad():
            run(fixed, points)

    def gradient(run):
        y, log_det = run(trained, points)
        (y.sum() + log_det.sum()).backward()

    return {
        "inverse": ratios({"forward": lambda: plain(layer.forward), "": lambda: plain(layer.inverse)})[""],
        "with gradient": ratios({"forward": lambda: gradient(layer.forward), "": lambda: gradient(layer.inverse)})[""],
    }


def in_jax(layer: pf.Bijection, params: dict, x: np.ndarray) -> dict[str, float]:
    fixed, points = map_params(lambda _, a: jnp.asarray(a, jnp.float32), params), jnp.asarray(x)

    def loss(run, params, x):
        y, log_det = run(params, x)
        return jnp.sum(y) + jnp.sum(log_det)

    def timed(f):
        compiled = jax.jit(f)
        return lambda: jax.block_until_ready(compiled(fixed, points))

    runs = (layer.forward, layer.inverse)
    gradients = [jax.grad(lambda p, x, run=run: loss(run, p, x), (0, 1)) for run in runs]
    return {
        "inverse": ratios({"forward": timed(runs[0]), "": timed(runs[1])})[""],
        "with gradient": ratios({"forward": timed(gradients[0]), "": timed(gradients[1])})[""],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(
        f"{'dim':>4} {'language':>8} {'inverse':>8} {'with gradient':>14}   (forward passes; forward + backward passes)"
    )
    for dim in (8, 64, 128):
        layer = pf.MaskedAutoregressive(dim, hidden=(128, 128))
        params = layer.init(np.random.default_rng(0))
        x = np.random.default_rng(1).standard_normal((POINTS, dim)).astype("float32")
        for name, run in (("torch", in_torch), ("jax", in_jax)):
            row = run(layer, params, x)
            print(f"{dim:4} {name:>8} {row['inverse']:8.1f} {row['with gradient']:14.1f}", flush=True)
