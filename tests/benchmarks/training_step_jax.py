"""The variants of ``training_step`` in JAX: ours, the bounds, and the other libraries in matched configuration."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from training_step import BATCH, BINS, BOUND, HIDDEN, LAYERS, sizes

import ppl_flows as pf

Step = Callable[[], object]
STEPS = 10  # of a fit in one dispatch, which is up to a twentieth of all of them


def batch(dim: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (BATCH, dim))


def training(params: Any, loss: Callable[[Any, jax.Array], jax.Array], dim: int) -> Step:
    adam, x = optax.adam(1e-3), batch(dim)

    def update(params, state, x):
        value, grads = jax.value_and_grad(loss)(params, x)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    compiled = jax.jit(update, donate_argnums=(0, 1))
    # copies of their own, as the buffers are given away at every step
    carry = [*jax.tree.map(lambda a: jnp.array(a, copy=True), (params, adam.init(params)))]

    def step() -> None:
        *carry[:], value = compiled(*carry, x)
        jax.block_until_ready(value)

    return step


def floor(flow: str, dim: int) -> Step:
    key = jax.random.key(0)
    layers = [
        [jax.random.normal(key, (n, m)) / n**0.5 for n, m in pairwise(sizes(flow, dim))] for _ in range(LAYERS[flow])
    ]

    @jax.jit
    def products(layers, x):
        gradients = []
        for weights in layers:
            inputs = [x]
            for w in weights:
                inputs.append(inputs[-1] @ w)
            x = inputs.pop()
            for w, a in zip(reversed(weights), reversed(inputs), strict=True):
                gradients.append(a.T @ x)
                x = x @ w.T
        return gradients, x

    x = batch(sizes(flow, dim)[0])
    return lambda: jax.block_until_ready(products(layers, x))


def networks(flow: str, dim: int) -> Step:
    widths = sizes(flow, dim)
    key = jax.random.key(0)
    params = [
        [(jax.random.normal(key, (n, m)) / n**0.5, jnp.zeros(m)) for n, m in pairwise(widths)]
        for _ in range(LAYERS[flow])
    ]

    def loss(params, x):
        total = 0.0
        for layers in params:
            a = x
            for i, (w, b) in enumerate(layers):
                a = (jax.nn.relu(a) if i else a) @ w + b
            total = total + jnp.mean(a**2)
        return total

    return training(params, loss, widths[0])


def recipe(flow: str, dim: int) -> pf.Bijection:
    options = {"flow_layers": LAYERS[flow], "hidden": HIDDEN, "activation": "relu"}
    if flow == "nsf":
        return pf.nsf(dim, bins=BINS, bound=BOUND, mask="halves", **options)
    return pf.maf(dim, **options) if flow == "maf" else pf.real_nvp(dim, mask="halves", **options)


def ours(flow: str, dim: int) -> Step:
    from ppl_flows.numpyro import Flow

    bijection = recipe(flow, dim)
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), bijection.init(np.random.default_rng(0)))
    return training(params, lambda p, x: -Flow(bijection, p).log_prob(x).mean(), dim)


def ours_fit(flow: str, dim: int) -> Step:
    """The steps that ``fit_density`` takes: many in one dispatch, and besides, these clip, check and average."""
    from fit_loop import loop_of

    from ppl_flows.numpyro import fit_density

    options = {"steps": 2_000, "batch_size": BATCH, "standardize": False, "progress": False}
    steps = loop_of(lambda: fit_density(recipe(flow, dim), batch(dim), **options))

    def step() -> None:
        steps(0, STEPS)

    step.steps = STEPS
    return step


def numpyro(flow: str, dim: int) -> Step:
    import numpyro.distributions as dist
    from jax.example_libraries import stax
    from numpyro.distributions.flows import InverseAutoregressiveTransform
    from numpyro.nn import AutoregressiveNN

    order = jnp.arange(dim)[::-1]
    net_init, net = AutoregressiveNN(dim, list(HIDDEN), nonlinearity=stax.Relu)
    params = [net_init(jax.random.key(i), (dim,))[1] for i in range(LAYERS[flow])]

    def loss(params, x):
        transforms = []
        for p in params:
            transforms += [
                InverseAutoregressiveTransform(lambda v, p=p: net(p, v)).inv,
                dist.transforms.PermuteTransform(order),
            ]
        base = dist.Normal(jnp.zeros(dim), 1.0).to_event(1)
        return -dist.TransformedDistribution(base, transforms[:-1]).log_prob(x).mean()

    return training(params, loss, dim)


def flowjax(flow: str, dim: int) -> Step:
    import equinox as eqx
    from flowjax.bijections import Affine, RationalQuadraticSpline
    from flowjax.distributions import StandardNormal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow
    from paramax import NonTrainable, unwrap

    key = jax.random.key(0)
    scalar = RationalQuadraticSpline(knots=BINS - 1, interval=BOUND) if flow == "nsf" else Affine()
    recipe = masked_autoregressive_flow if flow == "maf" else coupling_flow
    options = {"nn_width": HIDDEN[0], "nn_depth": len(HIDDEN), "flow_layers": LAYERS[flow]}
    made = recipe(key, base_dist=StandardNormal((dim,)), transformer=scalar, **options)
    params, static = eqx.partition(made, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable))

    def loss(params, x):
        return -unwrap(eqx.combine(params, static)).log_prob(x).mean()

    return training(params, loss, dim)


def distrax(flow: str, dim: int) -> Step:
    import distrax

    half = dim // 2
    per_coordinate = 3 * BINS + 1 if flow == "nsf" else 2
    widths = (half, *HIDDEN, half * per_coordinate)
    key = jax.random.key(0)
    params = [
        [(0.1 * jax.random.normal(key, (n, m)) / n**0.5, jnp.zeros(m)) for n, m in pairwise(widths)]
        for _ in range(LAYERS[flow])
    ]

    def scalar(theta):
        if flow == "nsf":
            return distrax.RationalQuadraticSpline(theta, range_min=-BOUND, range_max=BOUND, boundary_slopes="identity")
        return distrax.ScalarAffine(theta[..., 0], log_scale=theta[..., 1])

    def net(layers, a):
        for i, (w, b) in enumerate(layers):
            a = (jax.nn.relu(a) if i else a) @ w + b
        return a.reshape(*a.shape[:-1], half, per_coordinate)

    def loss(params, x):
        layers = [
            distrax.SplitCoupling(half, 1, lambda a, p=p: net(p, a), scalar, swap=i % 2 == 1)
            for i, p in enumerate(params)
        ]
        base = distrax.MultivariateNormalDiag(jnp.zeros(dim), jnp.ones(dim))
        return -distrax.Transformed(base, distrax.Chain(layers)).log_prob(x).mean()

    return training(params, loss, dim)


VARIANTS = {
    "floor": floor,
    "networks": networks,
    "ppl_flows": ours,
    "ppl_flows fit": ours_fit,
    "numpyro": numpyro,
    "flowjax": flowjax,
    "distrax": distrax,
}
