"""Autoregressive inversion of 1,000 points and of one, in forward passes of the same layer; and whole flows of peers.

    python tests/benchmarks/inversion.py

Hidden layers 128 x 128, float32, one core. "loop" passes the network once per coordinate, as every peer does. The
weights are those of a start next to the identity, and "stronger" ones, whose outputs are a hundred times as large.
"""

from __future__ import annotations

from functools import partial

from timing import one_core, ratios

one_core()

import jax
import jax.numpy as jnp
import numpy as np
import torch

import ppl_flows as pf
from ppl_flows.core.params import map_params

POINTS, HIDDEN, LAYERS = 1_000, (128, 128), 5
TRANSFORMERS = {"affine": pf.Affine(), "spline": pf.RationalQuadratic(), "sigmoidal": pf.DeepSigmoidal()}


def loop(layer: pf.MaskedAutoregressive, params: dict, y):
    x = y
    for _ in range(layer.dim):
        x, slopes = layer.transformer.inverse(layer._network(params, x, None), y)
    return x, slopes.sum(-1)


def in_torch(layer: pf.MaskedAutoregressive, params: dict, x: np.ndarray, rounds: int) -> list[float]:
    fixed = map_params(lambda _, a: torch.tensor(a, dtype=torch.float32), params)
    trained = map_params(lambda _, a: a.clone().requires_grad_(), fixed)
    stronger = fixed | {"w2": 100 * fixed["w2"]}
    points, one = torch.tensor(x), torch.tensor(x[:1])

    def plain(run, params=fixed, points=points):
        with torch.no_grad():
            run(params, points)

    def gradient(run):
        y, log_det = run(trained, points)
        (y.sum() + log_det.sum()).backward()

    def several(*args):
        return lambda: [plain(*args) for _ in range(10)]

    return [
        ratios({"": lambda: plain(layer.forward), "inverse": lambda: plain(layer.inverse)}, rounds)["inverse"],
        ratios({"": lambda: gradient(layer.forward), "inverse": lambda: gradient(layer.inverse)}, rounds)["inverse"],
        *(
            ratios({"": several(layer.forward, p, one), "inverse": several(layer.inverse, p, one)}, rounds)["inverse"]
            for p in (fixed, stronger)
        ),
        ratios({"": lambda: plain(layer.forward), "loop": lambda: plain(lambda p, y: loop(layer, p, y))}, rounds=1)[
            "loop"
        ],
    ]


def in_jax(layer: pf.MaskedAutoregressive, params: dict, x: np.ndarray, rounds: int) -> list[float]:
    fixed = map_params(lambda _, a: jnp.asarray(a, jnp.float32), params)
    stronger = fixed | {"w2": 100 * fixed["w2"]}
    points, one = jnp.asarray(x), jnp.asarray(x[:1])

    def timed(f, params=fixed, points=points):
        compiled = jax.jit(f)
        return lambda: [jax.block_until_ready(compiled(params, points)) for _ in range(10 if len(points) == 1 else 1)]

    def gradient(run):
        return jax.grad(lambda p, x: sum(jnp.sum(a) for a in run(p, x)), (0, 1))

    def jax_loop(params, y):
        def again(_, x):
            return layer.transformer.inverse(layer._network(params, x, None), y)[0]

        return jax.lax.fori_loop(0, layer.dim, again, y)

    pairs = [
        ({"": timed(layer.forward), "inverse": timed(layer.inverse)}, rounds),
        ({"": timed(gradient(layer.forward)), "inverse": timed(gradient(layer.inverse))}, rounds),
        *(
            ({"": timed(layer.forward, p, one), "inverse": timed(layer.inverse, p, one)}, rounds)
            for p in (fixed, stronger)
        ),
        ({"": timed(layer.forward), "loop": timed(jax_loop)}, 1),
    ]
    return [list(ratios(variants, n).values())[1] for variants, n in pairs]


def whole_flows(dim: int) -> dict[str, float]:
    """Drawing 1,000 samples from five layers, in passes the other way (of scoring)."""
    import zuko
    from flowjax.distributions import StandardNormal
    from flowjax.flows import masked_autoregressive_flow
    from numpyro.distributions.flows import InverseAutoregressiveTransform
    from numpyro.nn import AutoregressiveNN
    from pyro.distributions.transforms import affine_autoregressive

    x = np.random.default_rng(1).standard_normal((POINTS, dim)).astype("float32")
    points, array = torch.tensor(x), jnp.asarray(x)
    ours = pf.maf(dim, flow_layers=LAYERS, hidden=HIDDEN)
    initial = ours.init(np.random.default_rng(0))
    in_torch = map_params(lambda _, a: torch.tensor(a, dtype=torch.float32), initial)
    in_jax = map_params(lambda _, a: jnp.asarray(a, jnp.float32), initial)
    zuko_flow = zuko.flows.MAF(dim, transforms=LAYERS, hidden_features=HIDDEN)()
    pyro_flow = torch.distributions.ComposeTransform([affine_autoregressive(dim, list(HIDDEN)) for _ in range(LAYERS)])
    keys = jax.random.split(jax.random.key(0), LAYERS)
    flowjax_flow = masked_autoregressive_flow(
        keys[0], base_dist=StandardNormal((dim,)), flow_layers=LAYERS, nn_width=HIDDEN[0], nn_depth=len(HIDDEN)
    )
    init, apply = AutoregressiveNN(dim, list(HIDDEN))
    numpyro_flow = [InverseAutoregressiveTransform(partial(apply, init(key, (dim,))[1])) for key in keys]

    def numpyro_score(x):
        for t in numpyro_flow:
            x = t(x)
        return x

    def numpyro_sample(x):
        for t in reversed(numpyro_flow):
            x = t._inverse(x)
        return x

    def eager(f):
        def run():
            with torch.no_grad():
                f()

        return run

    def jitted(f, *args):
        compiled = jax.jit(f)
        return lambda: jax.block_until_ready(compiled(*args))

    flows = {
        "ppl_flows, torch": (
            eager(lambda: ours.inverse(in_torch, points)),
            eager(lambda: ours.forward(in_torch, points)),
        ),
        "zuko": (eager(lambda: zuko_flow.log_prob(points)), eager(lambda: zuko_flow.sample((POINTS,)))),
        "Pyro": (eager(lambda: pyro_flow(points)), eager(lambda: pyro_flow.inv(points.clone()))),
        "ppl_flows, JAX": (jitted(ours.inverse, in_jax, array), jitted(ours.forward, in_jax, array)),
        "FlowJAX": (
            jitted(lambda x: flowjax_flow.log_prob(x), array),  # noqa: PLW0108  its method has no hash
            jitted(lambda key: flowjax_flow.sample(key, (POINTS,)), jax.random.key(1)),
        ),
        "NumPyro": (jitted(numpyro_score, array), jitted(numpyro_sample, array)),
    }
    found = {}
    for name, (score, sample) in flows.items():
        found[name] = ratios({"": score, "sample": sample}, rounds=7 if "ppl_flows" in name else 1)["sample"]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| dim | transformer | language | inverse | with gradient | one point | one, stronger weights | loop |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, transformer in TRANSFORMERS.items():
        for dim in (64, 128):
            layer = pf.MaskedAutoregressive(dim, transformer=transformer, conditioner=pf.MLP(HIDDEN))
            params = layer.init(np.random.default_rng(0))
            x = np.random.default_rng(1).standard_normal((POINTS, dim)).astype("float32")
            for name, run in (("torch", in_torch), ("JAX", in_jax)):
                row = run(layer, params, x, rounds=11 if kind == "affine" else 3)
                print(f"| {dim} | {kind} | {name} |", " | ".join(f"{r:.1f}" for r in row), "|", flush=True)
    print("\n| flow of five layers, 1,000 samples | dim 64 | dim 128 |\n|---|---|---|")
    small, large = whole_flows(64), whole_flows(128)
    for name, ratio in small.items():
        print(f"| {name} | {ratio:.1f} | {large[name]:.1f} |")
