"""Which way do turtles go? The density of angles by a circular flow, in NumPyro.

Headings of 76 turtles after laying eggs (Gould; in Stephens 1969 and Fisher 1993): most go one way, some the opposite.
Prints the log-likelihood of left-out turtles, beside a von Mises distribution; saves a picture.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
from scipy.stats import vonmises

import ppl_flows as pf
from ppl_flows.numpyro import fit_density

DEGREES = """8 9 13 13 14 18 22 27 30 34 38 38 40 44 45 47 48 48 48 48 50 53 56 57 58 58 61 63 64 64 64 65 65 68 70 73
78 78 78 83 83 88 88 88 90 92 92 93 95 96 98 100 103 106 113 118 138 153 153 155 204 215 223 226 237 238 243 244 250
251 257 268 285 319 343 350"""
ANGLES = np.deg2rad([(float(d) + 180) % 360 - 180 for d in DEGREES.split()])  # in [-pi, pi)


def density(angles: np.ndarray, steps: int, seed: int):
    """A flow on the circle: a uniform angle, bent by a spline that closes on itself, and turned."""
    bijection = pf.Elementwise(1, pf.CircularRationalQuadratic(bins=5))
    uniform = dist.Uniform(-np.pi, np.pi).expand([1]).to_event(1)
    data = jnp.asarray(angles[:, None])
    return fit_density(bijection, data, base=uniform, steps=steps, lr=2e-2, seed=seed).flow


def log_prob(flow, angles: np.ndarray) -> np.ndarray:
    return np.asarray(flow.log_prob(jnp.asarray(angles[:, None])))


def main(steps: int = 100, folds: int = 8, out: str = "out", seed: int = 0) -> dict[str, float]:
    fold = np.random.default_rng(seed).permutation(len(ANGLES)) % folds
    scores: dict[str, list] = {"von Mises": [], "flow": []}
    for i in range(folds):
        train, test = ANGLES[fold != i], ANGLES[fold == i]
        scores["von Mises"].extend(vonmises.logpdf(test, *vonmises.fit(train, fscale=1)))
        scores["flow"].extend(log_prob(density(train, steps, seed), test))
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    for name, mean in means.items():
        print(f"{name}: {mean:.3f} nats per left-out turtle")

    grid = np.linspace(-np.pi, np.pi, 400, endpoint=False)
    axes = plt.figure(figsize=(4, 4)).add_subplot(projection="polar")
    axes.plot(grid, np.exp(log_prob(density(ANGLES, steps, seed), grid)), label="flow")
    axes.plot(grid, vonmises.pdf(grid, *vonmises.fit(ANGLES, fscale=1)), label="von Mises")
    axes.plot(ANGLES, np.full(len(ANGLES), axes.get_ylim()[1]), "k.", markersize=4, label="turtles")
    axes.legend(loc="lower right", bbox_to_anchor=(1.15, -0.1))
    axes.set_yticks([])
    Path(out).mkdir(exist_ok=True)
    plt.savefig(f"{out}/angles_numpyro.png", dpi=100)
    return means


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--folds", type=int, default=8)
    parser.add_argument("--out", default="out")
    main(**vars(parser.parse_args()))
