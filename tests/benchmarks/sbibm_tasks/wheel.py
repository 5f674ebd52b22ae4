"""Observations and reference posteriors of the package ``sbibm`` 1.1.0, read from its wheel, not installed.

The wheel is fetched by ``pip download`` into ``out/`` where it is not there yet.
"""

from __future__ import annotations

import bz2
import io
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

PACKAGE = "sbibm==1.1.0"
OUT = Path(__file__).resolve().parents[3] / "out"
SHAPES = {"slcp": (4, 2)}  # of data that are no vector


@cache
def wheel(path: str | None = None) -> zipfile.ZipFile:
    """That of the path, or the one in out/."""
    if path is not None:
        return zipfile.ZipFile(path)
    if not (found := sorted(OUT.glob("sbibm-1.1.0-*.whl"))):
        OUT.mkdir(exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(OUT), PACKAGE]
        subprocess.run(pip, check=True)
        found = sorted(OUT.glob("sbibm-1.1.0-*.whl"))
    return zipfile.ZipFile(found[0])


def observation(task: str, number: int, path: str | None = None) -> np.ndarray:
    """The data of one of ten, from 1 on."""
    row = _csv(_file(task, number, "observation.csv", path))[0]
    return row.reshape(SHAPES.get(task, row.shape))


def true_parameters(task: str, number: int, path: str | None = None) -> np.ndarray:
    """What these data were simulated from."""
    return _csv(_file(task, number, "true_parameters.csv", path))[0]


def reference(task: str, number: int, path: str | None = None) -> np.ndarray:
    """Ten thousand draws of the posterior, ``(10000, dim)``."""
    return _csv(bz2.decompress(_file(task, number, "reference_posterior_samples.csv.bz2", path)))


@cache
def design_matrix(path: str | None = None) -> np.ndarray:
    """Of ``bernoulli_glm``: a column of ones, and the stimulus at nine lags, ``(100, 10)``."""
    import torch

    stored = wheel(path).read("sbibm/tasks/bernoulli_glm/files/design_matrix.pt")
    return torch.load(io.BytesIO(stored), weights_only=True).numpy()


def _file(task: str, number: int, name: str, path: str | None) -> bytes:
    return wheel(path).read(f"sbibm/tasks/{task}/files/num_observation_{number}/{name}")


def _csv(content: bytes) -> np.ndarray:
    return np.loadtxt(io.BytesIO(content), delimiter=",", skiprows=1, ndmin=2, dtype=np.float32)
