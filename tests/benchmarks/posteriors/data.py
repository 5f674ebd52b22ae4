"""Data, log evidence and reference moments of the posteriors: all that does not depend on the language. NumPy only.

Definitions, data and log evidence: ``../shared/data/posteriordb`` (posteriordb) and ``../shared/data/targets``, beside
the checkout; their READMEs name the sources.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
Arrays = dict[str, np.ndarray]  # by name of site, quantity or argument
ROUNDING = 5e-5  # of an exact log evidence given to four digits
JITTER = 1e-10  # on the diagonal of the Gaussian process's covariance


class Moments(NamedTuple):
    """Posterior mean and standard deviation of a quantity."""

    mean: np.ndarray
    sd: np.ndarray


@dataclass(frozen=True)
class Target:
    """A posterior with a known log evidence.

    Attributes:
        name: of the target.
        log_z: log evidence in nats: the log integral of the model's joint density.
        log_z_se: its standard error.
        data: gives the model's arguments.
        reference: gives the moments of the quantities. None: there are none.
        draws: gives posterior draws of the model's sites, ``{site: (n, *shape)}``. None: there are none.
        quantities: from draws of the sites to draws of what ``reference`` describes.
        model: in the language, without arguments.
    """

    name: str
    log_z: float
    log_z_se: float
    data: Callable[[], Arrays]
    reference: Callable[[], dict[str, Moments]] | None = None
    draws: Callable[[], Arrays] | None = None
    quantities: Callable[[Arrays], Arrays] = dict
    model: Callable[[], None] | None = None


def targets(models: dict[str, Callable], array: Callable[[np.ndarray], Any]) -> dict[str, Target]:
    """The targets of a language.

    Args:
        models: of every target, as functions of its data.
        array: makes an array of the language.
    """
    bound = {t.name: partial(models[t.name], **{k: array(v) for k, v in t.data().items()}) for t in POSTERIORS}
    return {t.name: replace(t, model=bound[t.name]) for t in POSTERIORS}


# files


@cache
def read(path: str) -> Arrays:
    """A file of ``shared/data`` as arrays; numbers other than indices are float64."""
    if path.endswith(".json"):
        stored = {k: np.array(v, dtype=np.float64) for k, v in json.loads((SHARED / path).read_text()).items()}
    else:
        with np.load(SHARED / path) as file:
            stored = {k: file[k] for k in file.files}
    return stored


def posteriordb(name: str) -> Arrays:
    return read(f"posteriordb/{name}.data.json")


def published(posterior: str, values: str) -> Arrays:
    """Published values of a posterior, ``draws`` or moments, one array per name: ``beta[1], beta[2]`` become beta."""
    stored = read(f"posteriordb/{posterior}.draws.npz")
    columns: dict[str, list[np.ndarray]] = {}
    for i, name in enumerate(stored["names"]):
        columns.setdefault(re.sub(r"\[\d+\]", "", str(name)), []).append(stored[values][..., i])
    scalars = {str(name) for name in stored["names"]}
    return {name: c[0] if name in scalars else np.stack(c, axis=-1) for name, c in columns.items()}


def published_moments(posterior: str) -> dict[str, Moments]:
    mean, sd = published(posterior, "mean"), published(posterior, "sd")
    return {name: Moments(mean[name], sd[name]) for name in mean}


def of_posteriordb(
    name: str,
    posterior: str,
    log_z: float,
    log_z_se: float,
    data: Callable[[], Arrays],
    quantities: Callable[[Arrays], Arrays] = dict,
    sites: Callable[[Arrays], Arrays] = dict,
) -> Target:
    """A posterior of posteriordb; ``sites`` turns draws of its quantities into draws of the model's sites."""
    return Target(
        name,
        log_z,
        log_z_se,
        data,
        reference=lambda: published_moments(posterior),
        draws=lambda: sites(published(posterior, "draws")),
        quantities=quantities,
    )


# data of the models


def standardized(x: np.ndarray) -> np.ndarray:
    sd = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(sd > 0, sd, 1.0)  # ionosphere has a constant column


def classification(name: str, *, bias_last: bool = False) -> Arrays:
    stored = read(f"targets/{name}.npz")
    x, one = standardized(stored["x"].astype(np.float64)), np.ones((len(stored["x"]), 1))
    return {"X": np.hstack([x, one] if bias_last else [one, x]), "y": stored["y"].astype(np.float64)}


def brownian() -> Arrays:
    y = read("targets/brownian.json")["observed_locs"]
    observed = np.flatnonzero(np.isfinite(y))
    return {"y": y[observed], "observed": observed}


def eight_schools() -> Arrays:
    stored = posteriordb("eight_schools")
    return {"y": stored["y"], "sigma": stored["sigma"]}


def gp_pois_regr() -> Arrays:
    stored = posteriordb("gp_pois_regr")
    return {"x": stored["x"], "k": stored["k"]}


def kidiq() -> Arrays:
    d = posteriordb("kidiq")
    return {"X": _columns(1, d["mom_hs"], d["mom_iq"], d["mom_hs"] * d["mom_iq"]), "y": d["kid_score"]}


def logearn_interaction() -> Arrays:
    d = posteriordb("earnings")
    return {"X": _columns(1, d["height"], d["male"], d["height"] * d["male"]), "y": np.log(d["earn"])}


def nes() -> Arrays:
    d = posteriordb("nes2000")
    ages = [(d["age_discrete"] == age).astype(np.float64) for age in (2, 3, 4)]
    X = _columns(1, d["real_ideo"], d["race_adj"], *ages, d["educ1"], d["gender"], d["income"])
    return {"X": X, "y": d["partyid7"]}


def sblrc() -> Arrays:
    stored = posteriordb("sblrc")
    return {"X": stored["X"], "y": stored["y"]}


def ar5() -> Arrays:
    """Rows of the autoregression of order 5: ``y[t]`` and the values 1, ..., 5 steps before it."""
    y, order = posteriordb("arK")["y"], 5
    return {"lags": np.stack([y[order - k : -k] for k in range(1, order + 1)], axis=1), "y": y[order:]}


def garch11() -> Arrays:
    stored = posteriordb("garch")
    return {"y": stored["y"], "sigma1": stored["sigma1"]}


def _columns(*columns: Any) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float64)


# from sites to quantities, and back


def theta_of_z(d: Arrays) -> Arrays:
    return {"mu": d["mu"], "tau": d["tau"], "theta": d["mu"][:, None] + d["tau"][:, None] * d["z"]}


def z_of_theta(d: Arrays) -> Arrays:
    return {"mu": d["mu"], "tau": d["tau"], "z": (d["theta"] - d["mu"][:, None]) / d["tau"][:, None]}


def gp_factor(rho: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Cholesky factors of the Gaussian process's covariance, ``(n, 11, 11)``."""
    x = gp_pois_regr()["x"]
    squared = (x[:, None] - x) ** 2
    K = alpha[:, None, None] ** 2 * np.exp(-squared / (2 * rho[:, None, None] ** 2))
    return np.linalg.cholesky(K + JITTER * np.eye(len(x)))


def f_of_ft(d: Arrays) -> Arrays:
    f = gp_factor(d["rho"], d["alpha"]) @ d["ft"][..., None]
    return {"rho": d["rho"], "alpha": d["alpha"], "f": f[..., 0]}


def ft_of_f(d: Arrays) -> Arrays:
    ft = np.linalg.solve(gp_factor(d["rho"], d["alpha"]), d["f"][..., None])
    return {"rho": d["rho"], "alpha": d["alpha"], "ft": ft[..., 0]}


def beta1_of_share(d: Arrays) -> Arrays:
    return {k: d[k] for k in ("mu", "alpha0", "alpha1")} | {"beta1": d["share"] * (1 - d["alpha1"])}


def share_of_beta1(d: Arrays) -> Arrays:
    return {k: d[k] for k in ("mu", "alpha0", "alpha1")} | {"share": d["beta1"] / (1 - d["alpha1"])}


def funnel_standardized(d: Arrays) -> Arrays:
    # x itself has a kurtosis of 3 exp(9): no sample of a sensible size shows its sd
    return {"x0": d["x0"], "z": d["x"] * np.exp(-d["x0"] / 2)[:, None]}


def funnel_moments() -> dict[str, Moments]:
    return {"x0": Moments(np.zeros(()), np.full((), 3.0)), "z": Moments(np.zeros(9), np.ones(9))}


def funnel_draws() -> Arrays:
    rng = np.random.default_rng(0)
    x0 = 3 * rng.standard_normal(4_000)
    return {"x0": x0, "x": np.exp(x0 / 2)[:, None] * rng.standard_normal((4_000, 9))}


def brownian_moments() -> dict[str, Moments]:
    exact = read("targets/brownian_exact.npz")
    si, so = exact["scale_mean"]
    sd_si, sd_so = 0.0403, 0.0375  # README of the targets, by quadrature as the means
    scales = {"si": Moments(si, np.array(sd_si)), "so": Moments(so, np.array(sd_so))}
    return scales | {"x": Moments(exact["locs_mean"], exact["locs_sd"])}


def brownian_draws() -> Arrays:
    exact = read("targets/brownian_exact.npz")
    return {"si": exact["innovation_noise_scale"], "so": exact["observation_noise_scale"], "x": exact["locs"]}


def german_credit_moments() -> dict[str, Moments]:
    stored = json.loads((SHARED / "targets/inference_gym_ground_truth.json").read_text())
    w = stored["german_credit_numeric_logistic_regression"]
    return {"w": Moments(np.array(w["identity_mean"]), np.array(w["identity_standard_deviation"]))}


EIGHT_SCHOOLS = "eight_schools-eight_schools_noncentered"

POSTERIORS = [
    Target("funnel10", 0.0, 0.0, dict, funnel_moments, funnel_draws, funnel_standardized),
    Target("brownian", 1.18774898, 1e-8, brownian, brownian_moments, brownian_draws),
    Target("seeds", -73.407, 0.002, lambda: dict(read("targets/seeds.json"))),
    Target("ionosphere", -111.603, 0.006, partial(classification, "ionosphere")),
    Target("sonar", -108.379, 0.011, partial(classification, "sonar")),
    Target(
        "german_credit_T",
        -529.181,
        0.004,
        partial(classification, "german_credit", bias_last=True),
        german_credit_moments,
    ),
    of_posteriordb("eight_schools_centered", EIGHT_SCHOOLS, -31.3113, ROUNDING, eight_schools),
    of_posteriordb(
        "eight_schools_noncentered", EIGHT_SCHOOLS, -31.3113, ROUNDING, eight_schools, theta_of_z, z_of_theta
    ),
    of_posteriordb("gp_pois_regr", "gp_pois_regr-gp_pois_regr", -47.622, 0.001, gp_pois_regr, f_of_ft, ft_of_f),
    of_posteriordb(
        "hmm_example", "hmm_example-hmm_example", -172.710, 0.002, lambda: {"y": posteriordb("hmm_example")["y"]}
    ),
    of_posteriordb("kidiq", "kidiq-kidscore_interaction", -1872.8159, ROUNDING, kidiq),
    of_posteriordb("logearn_interaction", "earnings-logearn_interaction", -1553.3588, ROUNDING, logearn_interaction),
    of_posteriordb("nes", "nes2000-nes", -957.1280, ROUNDING, nes),
    of_posteriordb("sblrc", "sblrc-blr", -194.9676, ROUNDING, sblrc),
    of_posteriordb("arK", "arK-arK", 58.5876, ROUNDING, ar5),
    of_posteriordb("garch11", "garch-garch11", -451.002, 0.003, garch11, beta1_of_share, share_of_beta1),
    of_posteriordb(
        "low_dim_gauss_mix",
        "low_dim_gauss_mix-low_dim_gauss_mix",
        -2115.683,
        0.002,
        lambda: {"y": posteriordb("low_dim_gauss_mix")["y"]},
    ),
]
