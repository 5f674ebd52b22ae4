"""The hierarchical targets: data, log evidence and reference moments. All that does not depend on the language.

Data are simulated (``simulated.py``) or read from a package's wheel (``wheel.py``); ``references.py`` makes
``references.json`` from long runs of NUTS.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simulated
import wheel
from simulated import Arrays

REFERENCES = Path(__file__).resolve().parent / "references.json"


class Moments(NamedTuple):
    """Posterior mean and standard deviation of a quantity."""

    mean: np.ndarray
    sd: np.ndarray


@dataclass(frozen=True)
class Target:
    """A hierarchical posterior.

    Attributes:
        name: of the target.
        dim: number of unconstrained coordinates.
        bound: KL(guide || posterior) in nats that a guide is to reach; nan: its moments are judged instead.
        data: gives the model's arguments.
        scalars: the global quantities, sites or deterministic, each a scalar.
        locals_: the other quantities.
        positive: those of both whose logarithm is described.
        derive: adds quantities to draws of the sites.
        same_as: target with the same posterior, whose reference this is. Empty: its own.
        model: in the language, without arguments.
    """

    name: str
    dim: int
    bound: float
    data: Callable[[], Arrays]
    scalars: tuple[str, ...]
    locals_: tuple[str, ...]
    positive: tuple[str, ...] = ()
    derive: Callable[[Arrays], Arrays] = dict
    same_as: str = ""
    model: Callable[..., None] | None = None

    @property
    def stored(self) -> dict[str, Any]:
        """What ``references.json`` has of the posterior; empty: nothing."""
        return references().get(self.same_as or self.name, {})

    @property
    def log_z(self) -> float:
        """Log evidence in nats; nan where it is not known."""
        return float(self.stored.get("log_z", np.nan))

    @property
    def log_z_se(self) -> float:
        return float(self.stored.get("log_z_se", np.nan))

    def quantities(self, draws: Arrays) -> Arrays:
        """Draws of what the reference describes, from draws of all sites, deterministic ones among them."""
        draws = self.derive(draws)
        return {n: np.log(draws[n]) if n in self.positive else draws[n] for n in self.scalars + self.locals_}

    def moments(self) -> dict[str, Moments]:
        """Reference moments, by name of the quantity, of the logarithm of positive ones; empty: there are none."""
        name = self.same_as or self.name
        if name in wheel.GROUND_TRUTH:
            return {n: Moments(*m) for n, m in wheel.ground_truth(name).items()}
        return {n: Moments(*map(np.array, m)) for n, m in self.stored.get("moments", {}).items()}


@cache
def references() -> dict[str, Any]:
    return json.loads(REFERENCES.read_text()) if REFERENCES.exists() else {}


def targets(models: dict[str, Callable], array: Callable[[np.ndarray], Any]) -> dict[str, Target]:
    """The targets of a language.

    Args:
        models: of its targets, as functions of their data.
        array: makes an array of the language.
    """

    def model(name: str, data: Callable[[], Arrays]) -> Callable[[], None]:
        @cache
        def arguments() -> dict[str, Any]:  # read when the model first runs: two come from a wheel
            return {k: array(v) for k, v in data().items()}

        return lambda: models[name](**arguments())

    return {t.name: replace(t, model=model(t.name, t.data)) for t in HIERARCHICAL if t.name in models}


def standardized(scale: Callable[[Arrays], np.ndarray]) -> Callable[[Arrays], Arrays]:
    """Adds ``z``, a funnel's x over its scale: no sample of a sensible size shows the sd of x itself."""
    return lambda draws: {**draws, "z": draws["x"] / scale(draws)[:, None]}


RADON = Target(
    "radon",
    175,
    0.05,
    partial(simulated.radon, groups=85, rows=919, seed=3),
    ("mu_a", "mu_b", "sigma_a", "sigma_b", "sigma_y"),
    ("a", "b"),
    ("sigma_a", "sigma_b", "sigma_y"),
)
HORSESHOE = Target(
    "horseshoe",
    103,
    0.5,
    partial(simulated.sparse_regression, rows=100, coefficients=50, seed=1),
    ("tau", "alpha", "sigma"),
    ("lambda", "beta"),
    ("tau", "sigma", "lambda"),
)
VOLATILITY_2519 = Target(
    "volatility2519",
    2519,
    np.nan,
    wheel.log_returns,
    ("persistence_of_volatility", "mean_log_volatility", "white_noise_shock_scale"),
    ("log_volatility",),
)
HIERARCHICAL = [
    Target("eight_schools", 10, 0.002, simulated.eight_schools, ("mu", "tau"), ("theta",), ("tau",)),
    Target("funnel10", 10, 0.001, dict, ("x0",), ("z",), derive=standardized(lambda d: np.exp(d["x0"] / 2))),
    Target("funnel101", 101, 0.01, dict, ("log_sigma",), ("z",), derive=standardized(lambda d: np.exp(d["log_sigma"]))),
    RADON,
    replace(RADON, name="radon_factors", same_as="radon"),
    Target(
        "volatility",
        202,
        0.05,
        partial(simulated.volatility, steps=200, seed=1),
        ("step_size", "nu"),
        ("s",),
        ("step_size", "nu"),
    ),
    Target(
        "item_response",
        144,
        0.25,
        partial(simulated.item_response, persons=100, items=20, seed=1),
        ("mu_a", "sigma_a", "mu_b", "sigma_b"),
        ("a", "b", "theta"),
        ("sigma_a", "sigma_b", "a"),
    ),
    HORSESHOE,
    replace(HORSESHOE, name="horseshoe_noncentred", same_as="horseshoe"),
    Target(
        "capture_recapture",
        303,
        0.2,
        partial(simulated.capture_recapture, animals=150, augmented=300, occasions=5, seed=1),
        ("omega", "mean_p", "sigma"),
        ("eps",),
        ("sigma",),
    ),
    Target(
        "irt501",
        501,
        np.nan,
        wheel.item_response,
        ("mean_student_ability",),
        ("centered_student_ability", "question_difficulty"),
    ),
    VOLATILITY_2519,
    replace(VOLATILITY_2519, name="volatility2519_vector", same_as="volatility2519"),
]
