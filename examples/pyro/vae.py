"""What do flows add to a variational auto-encoder? First a flow as the posterior, then one as the prior, in Pyro.

Prints the test ELBO of three models of scikit-learn's digits, in nats per image.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine import scale
from sklearn.datasets import load_digits
from torch import nn

import ppl_flows as pf
from ppl_flows.pyro import fit, flow

PIXELS, MAX_GREY, CONTEXT = 64, 16, 16  # the context: numbers that the encoder hands to the flow
BATCH, DRAWS = 64, 32  # training images per step, and posterior draws per test image


def load() -> tuple[torch.Tensor, torch.Tensor]:
    """Training images and test images, ``(rows, PIXELS)``."""
    images = torch.tensor(load_digits().data, dtype=torch.float32)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[360:]], images[order[:360]]


def network(*sizes: int) -> nn.Module:
    layers = [layer for ends in pairwise(sizes) for layer in (nn.Linear(*ends), nn.ELU())]
    return nn.Sequential(*layers[:-1])


def vae(latent: int, hidden: int, iaf: pf.Bijection | None, prior: pf.Bijection | None) -> tuple[Callable, Callable]:
    """Model and guide, scaled to nats per image; where no flow is given, posterior or prior are normal."""
    encoder = network(PIXELS, hidden, 2 * latent + CONTEXT)
    decoder = network(latent, hidden, PIXELS)

    def model(images, batch_size=None):
        decode, n = pyro.module("decoder", decoder), len(images)
        p = flow("prior", prior) if prior else dist.Normal(torch.zeros(latent), 1.0).to_event(1)
        with pyro.plate("images", n, subsample_size=batch_size) as rows, scale(scale=1 / n):
            z = pyro.sample("z", p)
            pyro.sample("image", dist.Binomial(MAX_GREY, logits=decode(z)).to_event(1), obs=images[rows])

    def guide(images, batch_size=None):
        encode, n = pyro.module("encoder", encoder), len(images)
        with pyro.plate("images", n, subsample_size=batch_size) as rows, scale(scale=1 / n):
            loc, log_scale, context = encode(images[rows] / MAX_GREY).tensor_split((latent, 2 * latent), dim=-1)
            q = dist.Normal(loc, log_scale.exp()).to_event(1)
            pyro.sample("z", flow("posterior", iaf, base=q, context=context) if iaf else q)

    return model, guide


def main(steps: int = 5_000, latent: int = 16, hidden: int = 128, lr: float = 3e-3, seed: int = 0) -> dict[str, float]:
    train, test = load()
    iaf = pf.iaf(latent, flow_layers=2, hidden=(hidden,), context_dim=CONTEXT)  # fast to sample, and to score its draws
    maf = pf.maf(latent, flow_layers=3)  # fast to score
    elbos = {}
    for name, flows in {"diagonal": (None, None), "iaf": (iaf, None), "iaf + flow prior": (iaf, maf)}.items():
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        model, guide = vae(latent, hidden, *flows)
        fit(model, guide, train, BATCH, steps=steps, num_particles=1, lr=lr, draws=2, seed=seed)
        with torch.no_grad():
            elbos[name] = -Trace_ELBO(num_particles=DRAWS).loss(model, guide, test)
        print(f"{name}: {elbos[name]:.2f} nats per image")
    return elbos


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5_000)
    main(**vars(parser.parse_args()))
