"""Eight schools, centred: a funnel that mean field cannot follow, fitted by flow guides in Pyro and in NumPyro.

Prints one table and the largest change in log_prob when the trained flow moves from Pyro to NumPyro, and saves one
figure. Run by ``make demo``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import ppl_flows as pf

Y = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
SIGMA = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
LOG_EVIDENCE = -31.3113  # exact, by quadrature
# Mean and standard deviation of 10,000 draws of Stan's NUTS on the non-centred model (posteriordb, Magnusson et al.
# 2023; BSD-3), whose posterior is the same.
REFERENCE = {"mu": (4.41, 3.31), "tau": (3.60, 3.20)}
FLOWS = {"AutoFlow": None, "AutoFlow(iaf)": pf.iaf}


def in_pyro(steps: int, folder: str) -> dict:
    import pyro
    import pyro.distributions as dist
    import torch

    from ppl_flows.pyro import AutoFlow, Flow, FlowTransform, fit

    torch.set_num_threads(1)
    y, sigma = torch.tensor(Y), torch.tensor(SIGMA)

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    guides = {"mean field": pyro.infer.autoguide.AutoNormal(model)}
    guides |= {name: AutoFlow(model, flow) for name, flow in FLOWS.items()}
    results = {}
    for name, guide in guides.items():
        pyro.clear_param_store()
        result = fit(model, guide, steps=steps, seed=0, progress=False)
        print(f"fitted Pyro {name}", flush=True)
        results[name] = (result.elbo, result.khat, _as_numpy(result.sample(4_000)))
        if name in FLOWS:
            whole = guide.get_transform()  # its last part places sites by their priors, and is the model's
            flow = pf.Chain(whole.bijection.parts[:-1], names=whole.bijection.names[:-1])
            transform = FlowTransform(flow, {part: whole.params[part] for part in flow.names})
            pf.save(Path(folder, f"{name}.safetensors"), transform.bijection, transform.params)
            with torch.no_grad():
                draws = Flow(transform).sample((1_000,))
                log_prob = Flow(transform).log_prob(draws.clone())
                log_prob64 = Flow(transform.double()).log_prob(draws.double())
            np.savez(Path(folder, f"{name}.npz"), draws=draws, log_prob=log_prob, log_prob64=log_prob64)
    return results


def in_numpyro(steps: int, folder: str) -> dict:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from ppl_flows.numpyro import AutoFlow, fit

    y, sigma = jnp.array(Y), jnp.array(SIGMA)

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    guides = {"mean field": numpyro.infer.autoguide.AutoNormal(model)}
    guides |= {name: AutoFlow(model, flow) for name, flow in FLOWS.items()}
    results = {}
    for name, guide in guides.items():
        result = fit(model, guide, steps=steps, seed=0, progress=False)
        print(f"fitted NumPyro {name}", flush=True)
        results[name] = (result.elbo, result.khat, _as_numpy(result.sample(4_000)))
    return results


def log_prob_change(folder: str, name: str) -> tuple[float, float]:
    """Largest difference of log_prob, in nats, between Pyro, where the flow was trained, and NumPyro, which loads it.

    In float32 and in float64: what remains in float32 is each language's own rounding.
    """
    import jax

    from ppl_flows.numpyro import Flow

    there = np.load(Path(folder, f"{name}.npz"))
    changes = []
    for x64, log_prob in ((False, there["log_prob"]), (True, there["log_prob64"])):
        with jax.enable_x64(x64):
            moved = Flow(*pf.load(Path(folder, f"{name}.safetensors")))
            changes.append(float(np.max(np.abs(moved.log_prob(there["draws"].astype(log_prob.dtype)) - log_prob))))
    return changes[0], changes[1]


def main(steps: int = 2_000, figure: str | None = "out/eight_schools.png") -> dict:
    print("fitting three guides in each language, one process a language; about a minute", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        jobs = {"Pyro": pool.submit(in_pyro, steps, folder), "NumPyro": pool.submit(in_numpyro, steps, folder)}
        results = {(language, name): r for language, job in jobs.items() for name, r in job.result().items()}
        changes = {name: log_prob_change(folder, name) for name in FLOWS}
    rows = {key: (LOG_EVIDENCE - elbo.mean, elbo.se, khat) for key, (elbo, khat, _) in results.items()}

    print(f"{'':24}{'KL (nats)':>10}{'s.e.':>7}{'k-hat':>7}{'mu':>8}{'sd':>6}{'tau':>8}{'sd':>6}")
    for (language, name), (kl, se, khat) in rows.items():
        draws = results[language, name][2]
        moments = "".join(f"{draws[s].mean():8.2f}{draws[s].std():6.2f}" for s in ("mu", "tau"))
        print(f"{language + ' ' + name:24}{kl:10.3f}{se:7.3f}{khat:7.2f}{moments}")
    print(f"{'reference':24}{'':24}" + "".join(f"{m:8.2f}{s:6.2f}" for m, s in REFERENCE.values()))
    print("\nlargest change of log_prob over 1,000 draws of the flow trained in Pyro, loaded in NumPyro:")
    for name, (in_float32, in_float64) in changes.items():
        print(f"  {name}: {in_float32:.1e} nats in float32, {in_float64:.1e} in float64")
    if figure:
        draw({name: results["NumPyro", name][2] for name in ("mean field", "AutoFlow")}, Path(figure))
        print(f"figure: {figure}")
    return {"rows": rows, "log_prob_changes": changes}


def exact_log_density(theta: np.ndarray, log_tau: np.ndarray) -> np.ndarray:
    """log p(theta_1, log tau | y) on a grid, up to a constant: the other effects and mu are integrated in closed form.

    Given (mu, tau) the effects are independent and each y_j ~ N(mu, sigma_j^2 + tau^2), so mu's posterior from the
    others is normal; theta_1 and y_1 then follow.
    """
    y, s2 = np.array(Y), np.array(SIGMA) ** 2
    t2 = np.exp(2 * log_tau)[:, None]
    precision = 1 / (s2[1:] + t2)
    v = 1 / (1 / 25 + precision.sum(1))
    m = v * (precision * y[1:]).sum(1)
    evidence = 0.5 * (np.log(precision).sum(1) + np.log(v) - (precision * y[1:] ** 2).sum(1) + m**2 / v)
    spread = v[:, None] + t2
    given = -0.5 * (np.log(spread) + (theta - m[:, None]) ** 2 / spread + (y[0] - theta) ** 2 / s2[0])
    prior = (log_tau - np.log1p((np.exp(log_tau) / 5) ** 2))[:, None]  # half-Cauchy(5), in log tau
    return evidence[:, None] + given + prior


def draw(samples: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """theta_1 against log tau: exact 50 % and 95 % regions, and the draws of each guide."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    theta, log_tau = np.linspace(-15, 30, 300), np.linspace(-3, 4, 280)
    density = np.exp(exact_log_density(theta, log_tau))
    density /= density.sum()
    order = np.sort(density.ravel())[::-1]
    levels = [order[np.searchsorted(np.cumsum(order), share)] for share in (0.95, 0.5)]
    fig, axes = plt.subplots(1, len(samples), figsize=(8, 3.6), sharex=True, sharey=True, layout="constrained")
    for ax, (name, s), colour in zip(axes, samples.items(), ("tab:orange", "tab:blue"), strict=True):
        ax.contourf(theta, log_tau, density, levels=[*levels, density.max()], colors=["0.88", "0.72"])
        ax.scatter(s["theta"][:1500, 0], np.log(s["tau"][:1500]), s=3, alpha=0.4, color=colour, linewidths=0)
        ax.set(title=name, xlabel=r"$\theta_1$", xlim=(-15, 30), ylim=(-3, 4))
    axes[0].set_ylabel(r"$\log\,\tau$")
    fig.suptitle("Centred eight schools: draws on the exact 50 % and 95 % regions", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)


def _as_numpy(draws: dict) -> dict[str, np.ndarray]:
    return {site: np.asarray(values) for site, values in draws.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--figure", default="out/eight_schools.png")
    main(**vars(parser.parse_args()))
