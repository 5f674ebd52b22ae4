"""What do flows add to a variational auto-encoder? First a flow as the posterior, then one as the prior, in NumPyro.

Prints the test ELBO of three models of scikit-learn's digits, in nats per image.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.example_libraries import stax
from numpyro.handlers import scale
from numpyro.infer import Trace_ELBO
from sklearn.datasets import load_digits

import ppl_flows as pf
from ppl_flows.numpyro import fit, flow

PIXELS, MAX_GREY, CONTEXT = 64, 16, 16  # the context: numbers that the encoder hands to the flow
BATCH, DRAWS = 64, 32  # training images per step, and posterior draws per test image


def load() -> tuple[jax.Array, jax.Array]:
    """Training images and test images, ``(rows, PIXELS)``."""
    images = jnp.array(load_digits().data)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[360:]], images[order[:360]]


def network(*sizes: int) -> tuple[Callable, Callable]:
    layers = [layer for size in sizes[1:] for layer in (stax.Dense(size), stax.Elu)]
    return stax.serial(*layers[:-1])


def vae(latent: int, hidden: int, iaf: pf.Bijection | None, prior: pf.Bijection | None) -> tuple[Callable, Callable]:
    """Model and guide, scaled to nats per image; where no flow is given, posterior or prior are normal."""
    encoder = network(PIXELS, hidden, 2 * latent + CONTEXT)
    decoder = network(latent, hidden, PIXELS)

    def model(images, batch_size=None):
        decode, n = numpyro.module("decoder", decoder, (latent,)), len(images)
        p = flow("prior", prior) if prior else dist.Normal(jnp.zeros(latent), 1.0).to_event(1)
        with numpyro.plate("images", n, subsample_size=batch_size) as rows, scale(scale=1 / n):
            z = numpyro.sample("z", p)
            numpyro.sample("image", dist.Binomial(MAX_GREY, logits=decode(z)).to_event(1), obs=images[rows])

    def guide(images, batch_size=None):
        encode, n = numpyro.module("encoder", encoder, (PIXELS,)), len(images)
        with numpyro.plate("images", n, subsample_size=batch_size) as rows, scale(scale=1 / n):
            loc, log_scale, context = jnp.split(encode(images[rows] / MAX_GREY), (latent, 2 * latent), axis=-1)
            q = dist.Normal(loc, jnp.exp(log_scale)).to_event(1)
            numpyro.sample("z", flow("posterior", iaf, base=q, context=context) if iaf else q)

    return model, guide


def main(steps: int = 5_000, latent: int = 16, hidden: int = 128, lr: float = 3e-3, seed: int = 0) -> dict[str, float]:
    train, test = load()
    iaf = pf.iaf(latent, flow_layers=2, hidden=(hidden,), context_dim=CONTEXT)  # fast to sample, and to score its draws
    maf = pf.maf(latent, flow_layers=3)  # fast to score
    elbos = {}
    for name, flows in {"diagonal": (None, None), "iaf": (iaf, None), "iaf + flow prior": (iaf, maf)}.items():
        model, guide = vae(latent, hidden, *flows)
        result = fit(model, guide, train, BATCH, steps=steps, num_particles=1, lr=lr, draws=2, seed=seed)
        loss = Trace_ELBO(num_particles=DRAWS).loss(jax.random.key(seed), result.params, model, guide, test)
        elbos[name] = -float(loss)
        print(f"{name}: {elbos[name]:.2f} nats per image")
    return elbos


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5_000)
    main(**vars(parser.parse_args()))
