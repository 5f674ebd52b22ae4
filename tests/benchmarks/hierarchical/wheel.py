"""Data and ground truth of two models of the package ``inference_gym`` 0.0.5, read from its wheel, not installed.

The wheel is fetched by ``pip download`` into ``out/`` where it is not there yet.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

PACKAGE = "inference_gym==0.0.5"
OUT = Path(__file__).resolve().parents[3] / "out"
GROUND_TRUTH = {"irt501": "synthetic_item_response_theory", "volatility2519": "stochastic_volatility_log_sp500"}


@cache
def wheel() -> zipfile.ZipFile:
    if not (found := sorted(OUT.glob("inference_gym-0.0.5-*.whl"))):
        OUT.mkdir(exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(OUT), PACKAGE]
        subprocess.run(pip, check=True)
        found = sorted(OUT.glob("inference_gym-0.0.5-*.whl"))
    return zipfile.ZipFile(found[0])


@cache
def constants(module: str) -> dict[str, np.ndarray]:
    """The arrays that a module of the package is made of, without running it; by name."""
    found = {}
    for node in ast.parse(wheel().read(f"inference_gym/{module}.py")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values = next((part for part in ast.walk(node.value) if isinstance(part, ast.List)), None)
            if values is not None:
                found[node.targets[0].id] = np.array(ast.literal_eval(values))
    return found


def item_response() -> dict[str, np.ndarray]:
    stored = constants("internal/datasets/synthetic_item_response_theory")
    correct = stored["CORRECT"].astype(np.float64)
    return {"student": stored["STUDENT_IDS"], "question": stored["QUESTION_IDS"], "correct": correct}


def log_returns() -> dict[str, np.ndarray]:
    """Of the S&P 500 index over ten years, less their mean."""
    returns = np.diff(np.log(constants("internal/datasets/sp500_closing_prices")["CLOSING_PRICES"]))
    return {"returns": returns - returns.mean()}


def ground_truth(target: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Posterior means and standard deviations that the package gives, by name of the quantity."""
    stored, end = constants(f"targets/ground_truth/{GROUND_TRUTH[target]}"), "_STANDARD_DEVIATION"
    names = [name.removesuffix(end) for name in stored if name.endswith(end)]
    return {
        n.removeprefix("IDENTITY_").lower(): (np.squeeze(stored[f"{n}_MEAN"]), np.squeeze(stored[f"{n}{end}"]))
        for n in names
        if n.startswith("IDENTITY_")
    }
