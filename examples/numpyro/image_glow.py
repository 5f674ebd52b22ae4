"""How well does a flow describe handwritten digits? Glow, RealNVP, NICE or TarFlow, in NumPyro.

Prints the test bits per dimension; saves a grid of samples and an interpolation through the latent space.
"""

import argparse
import gzip
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
from sklearn.datasets import load_digits

import ppl_flows as pf
from ppl_flows.numpyro import Flow, fit_density

MNIST = Path("../shared/data/mnist/t10k-images-idx3-ubyte.gz")
NOISE = 10  # draws of dequantisation noise in the test


def load(mnist: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Training images, test images, and the number of grey levels; images are ``(height, width, 1)``."""
    if mnist:
        images = np.frombuffer(gzip.decompress(MNIST.read_bytes())[16:], np.uint8).reshape(-1, 28, 28, 1)
        return images[:9_000], images[9_000:], 256
    images = load_digits().images[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[360:]], images[order[:360]], 17


def bijection(name: str, shape: tuple[int, ...]) -> pf.Bijection:
    """From the base to pixels between 0 and 1."""
    size = int(np.prod(shape))
    if name == "nice":
        return pf.Chain([pf.nice(size, hidden=(256, 256)), pf.Reshape(shape)])
    spline = pf.RationalQuadratic(bins=6, bound=4.0)
    flows = {
        "glow": pf.glow(shape, flow_layers=4, transformer=spline, hidden=32),
        "real_nvp": pf.real_nvp_image(shape, hidden=32),
        "tarflow": pf.tarflow(shape, flow_layers=3, transformer=spline),
    }
    return pf.Chain([flows[name], pf.LogitTransform(shape)])


def main(flow: str = "glow", steps: int = 1_500, mnist: bool = False, out: str = "out", seed: int = 0) -> float:
    train, test, levels = load(mnist)
    shape = train.shape[1:]
    layers = bijection(flow, shape)
    zeros = jnp.zeros(layers.event_shape)
    base = (dist.Logistic if flow == "nice" else dist.Normal)(zeros, 1.0).to_event(zeros.ndim)
    fit = fit_density(layers, train, base=base, levels=levels, steps=steps, batch_size=32, lr=3e-3, seed=seed)

    noise = jax.random.uniform(jax.random.key(seed), (NOISE, *test.shape))
    log_prob = jax.lax.map(lambda u: fit.flow.log_prob((test + u) / levels), noise)
    bits = float(pf.bits_per_dim(log_prob, shape, levels).mean())
    print(f"{flow}: {bits:.3f} bits per dimension")

    cooler = Flow(layers, fit.params, base=type(base.base_dist)(zeros, 0.8).to_event(zeros.ndim))  # temperature 0.8
    transform = fit.flow.transforms[0]
    samples = jax.jit(lambda key: cooler.sample(key, (64,)))(jax.random.key(seed))
    apply = jax.jit(lambda transform, v: transform(v))
    ends = apply(transform.inv, (test[:16] + 0.5) / levels)
    path = jnp.stack([(1 - t) * ends[:8] + t * ends[8:] for t in jnp.linspace(0, 1, 8)], axis=1)
    between = apply(transform, path.reshape(-1, *ends.shape[1:]))
    Path(out).mkdir(exist_ok=True)
    for name, pictures in (("samples", samples), ("between", between)):
        tiles = np.pad(np.asarray(pictures).reshape(8, 8, *shape[:2]), ((0, 0), (0, 0), (1, 1), (1, 1)))
        grid = tiles.transpose(0, 2, 1, 3).reshape(8 * tiles.shape[2], -1)
        plt.imsave(f"{out}/{flow}_{name}_numpyro.png", np.kron(grid, np.ones((4, 4))), cmap="gray_r", vmin=0, vmax=1)
    return bits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flow", choices=["glow", "real_nvp", "nice", "tarflow"], default="glow")
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--mnist", action="store_true", help=f"the images in {MNIST}")
    parser.add_argument("--out", default="out")
    main(**vars(parser.parse_args()))
