"""``c2st``: can a classifier tell two sets of draws apart?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_flows.core.checks import checked_seed, whole_number
from ppl_flows.core.types import Array
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.coordinates import columns_of


def c2st(
    reference: Array | Mapping[str, Array],
    draws: Array | Mapping[str, Array],
    *,
    folds: int = 5,
    standardize: bool = True,
    seed: int = 1,
) -> float:
    """Classifier two-sample test: accuracy, on rows held out, of a network that tells two samples apart.

    0.5: it cannot, they look alike; 1: they have nothing in common. The network and the folds are those of the
    benchmark ``sbibm``, so that numbers compare: two hidden layers of ten times the dimension, scikit-learn's
    ``MLPClassifier``. Give as many draws as references. With 10,000 of each it takes minutes.

    Args:
        reference: draws of the true posterior, ``(n, dim)``, or ``{site: (n, *site shape)}``.
        draws: of the posterior to judge, likewise; of the same sites, in any order.
        folds: of the cross-validation.
        standardize: centre and scale both by mean and standard deviation of the reference.
        seed: of the network and the folds.

    Returns:
        The accuracy, between 0 and 1: the mean over the folds.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: other sites or dimensions, draws that are not finite, fewer rows than folds, or, with
            ``standardize``, a coordinate of the reference that is constant.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> a, b = np.random.default_rng(0).normal(size=(2, 200, 1))
        >>> pf.c2st(a, b + 10.0)
        1.0

    Reference: Lopez-Paz & Oquab (2017), Revisiting Classifier Two-Sample Tests, arXiv:1610.06545; Lueckmann et al.
    (2021), Benchmarking Simulation-Based Inference, arXiv:2101.04653.
    """
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError(f"c2st trains a classifier of scikit-learn: pip install scikit-learn ({error}).") from error
    checked_seed("c2st", seed)
    X, Y = _rows(reference, draws)
    if whole_number("c2st", "folds", folds, 2) > min(len(X), len(Y)):
        raise ValueError(f"c2st: folds={folds} need as many rows of each, got {len(X)} and {len(Y)}.")
    if standardize:
        mean, std = X.mean(0), X.std(0, ddof=1)
        if not np.all(std > 0):
            raise ValueError("c2st: a coordinate of the reference is constant; leave it out, or standardize=False.")
        X, Y = (X - mean) / std, (Y - mean) / std
    width = 10 * X.shape[1]
    network = MLPClassifier(
        activation="relu", hidden_layer_sizes=(width, width), max_iter=10_000, solver="adam", random_state=seed
    )
    rows = np.concatenate((X, Y))
    labels = np.concatenate((np.zeros(len(X)), np.ones(len(Y))))
    parts = KFold(n_splits=folds, shuffle=True, random_state=seed)
    return float(np.mean(cross_val_score(network, rows, labels, cv=parts, scoring="accuracy")))


def _rows(reference: Any, draws: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(reference, Mapping) != isinstance(draws, Mapping):
        raise TypeError("c2st: reference and draws must both be arrays, or both be {site: draws}.")
    if isinstance(reference, Mapping):
        first, second = (columns_of("c2st", of, name) for of, name in ((reference, "reference"), (draws, "draws")))
        if first.keys() != second.keys():
            raise ValueError(f"c2st: the reference is of {sorted(first)}, but the draws are of {sorted(second)}.")
        X, Y = (np.stack([of[name] for name in first], axis=1) for of in (first, second))
    else:
        X, Y = to_numpy(reference, "c2st: reference"), to_numpy(draws, "c2st: draws")
        if X.ndim != 2 or Y.ndim != 2 or X.shape[1] != Y.shape[1]:
            raise ValueError(
                f"c2st: reference and draws must be (n, dim) with the same dim, got {X.shape} and {Y.shape}."
            )
    for name, rows in (("reference", X), ("draws", Y)):
        if not np.isfinite(rows).all():
            raise ValueError(f"c2st: {name} must be finite, but {np.sum(~np.isfinite(rows).all(1))} rows are not.")
    return X, Y
