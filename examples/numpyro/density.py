"""How are the rows of a table distributed, and some columns given the others? Maximum likelihood, in NumPyro.

Cell nuclei of 569 breast tumours (from scikit-learn), or any file of arrays ``x`` and ``y``. Prints the log-likelihood
of left-out rows by a flow beside that by a Gaussian, and for y given x beside that by a linear regression.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LinearRegression

import ppl_flows as pf
from ppl_flows.numpyro import Flow, fit_density

GIVEN, SOUGHT = ["mean radius", "mean texture", "mean smoothness"], ["mean area", "mean concavity"]


def table(path: str | None) -> tuple[np.ndarray, np.ndarray]:
    """x and y, a row each."""
    if path is not None:
        stored = np.load(path)
        return stored["x"], stored["y"].reshape(len(stored["x"]), -1)
    frame = load_breast_cancer(as_frame=True).data
    return frame[GIVEN].to_numpy(), frame[SOUGHT].to_numpy()


def density(y: np.ndarray, x: np.ndarray | None, steps: int, flow_layers: int):
    """A flow, fitted in a plate that draws minibatches; a tenth of the rows says which of its weights are the best."""
    bijection = pf.nsf(y.shape[1], flow_layers=flow_layers, context_dim=0 if x is None else x.shape[1])
    context = None if x is None else jnp.asarray(x)
    return fit_density(bijection, jnp.asarray(y), context=context, steps=steps, lr=2e-3, validation=0.1)


def log_prob(fit, y: np.ndarray, x: np.ndarray | None) -> float:
    """Mean over the rows."""
    context = None if x is None else jnp.asarray(x)
    return float(jax.jit(Flow(fit.bijection, fit.params, context=context).log_prob)(jnp.asarray(y)).mean())


def main(steps: int = 1_000, flow_layers: int = 4, path: str | None = None, out: str = "out") -> dict[str, float]:
    x, y = (a[np.random.default_rng(0).permutation(len(a))] for a in table(path))
    x = (x - x.mean(0)) / x.std(0)  # fit_density scales y by itself
    both, train, test = np.hstack([x, y]), slice(len(x) // 5, None), slice(len(x) // 5)
    alone = density(both[train], None, steps, flow_layers)
    given = density(y[train], x[train], steps, flow_layers)
    gaussian = multivariate_normal(both[train].mean(0), np.cov(both[train].T))
    errors = y - LinearRegression().fit(x[train], y[train]).predict(x)
    numbers = {
        "Gaussian": gaussian.logpdf(both[test]).mean(),
        "flow": log_prob(alone, both[test], None),
        "linear regression": multivariate_normal(cov=np.cov(errors[train].T)).logpdf(errors[test]).mean(),
        "conditional flow": log_prob(given, y[test], x[test]),
    }
    for name, number in numbers.items():
        print(f"{name}: {number:.3f} nats per left-out row")

    drawn = np.asarray(jax.jit(alone.flow.sample, static_argnums=1)(jax.random.key(0), (2_000,)))
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True)
    for axis, name, rows in zip(axes, ("flow", "Gaussian"), (drawn, gaussian.rvs(2_000, 0)), strict=True):
        axis.plot(*rows[:, [0, -1]].T, ".", markersize=2, label=name)
        axis.plot(*both[test][:, [0, -1]].T, "k.", markersize=4, label="left-out rows")
        axis.set(xlabel="first column of x, standardised", ylabel="last column of y")
        axis.legend()
    Path(out).mkdir(exist_ok=True)
    figure.savefig(f"{out}/density_numpyro.png", dpi=100, bbox_inches="tight")
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--path", help="an .npz file with x, (rows, columns), and y, (rows,) or (rows, columns)")
    main(**vars(parser.parse_args()))
