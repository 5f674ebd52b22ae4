"""Whether posteriors are right on average over data sets of the model: ``Calibration``; the same in both languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_flows.core.checks import checked_seed, real_number
from ppl_flows.core.types import Array
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.coordinates import columns_of, name_of
from ppl_flows.inference.expected_coverage import coverage_ranks, ranks_among
from ppl_flows.inference.observations import Scaler
from ppl_flows.inference.uniform_ranks import uniformity_p_value

LEAST = 10  # data sets
SHOWN = 5  # coordinates in a verdict
FAR = 2.0  # standard errors of a mean of ranks, from which on it says what is wrong with those that are not uniform


@dataclass(frozen=True)
class Calibration:
    """Simulation-based calibration: whether posteriors of simulated data hold the truth as often as they claim.

    If they are right, the rank of a true parameter among posterior draws is uniform. So is, for all coordinates at
    once, the number of draws that lie nearer to a reference point than the truth (TARP). Draws must be independent:
    thin those of MCMC. ``plots.plot_calibration`` and ``plots.plot_coverage`` draw it.

    Attributes:
        ranks: of each coordinate, such as ``theta[0]``, how many draws lie below the truth: whole numbers from 0 to
            ``num_draws``, ``(num_data_sets,)``.
        coverage_ranks: how many draws lie nearer to the reference point than the truth, likewise.
        num_draws: of each posterior.
        level: of the verdict: posteriors that are right are called calibrated with this probability.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> z, y = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 1], [1, 2]], size=200).T
        >>> draws = y[:, None] / 2 + 0.5**0.5 * np.random.default_rng(1).normal(size=(200, 99))
        >>> pf.Calibration.from_draws({"z": z}, {"z": draws}).verdict
        'calibrated: 200 data sets show nothing else'

    Reference: Talts et al. (2018), arXiv:1804.06788; Säilynoja, Bürkner & Vehtari (2022), arXiv:2103.10522; Lemos et
    al. (2023), arXiv:2302.03026.
    """

    ranks: dict[str, np.ndarray]
    coverage_ranks: np.ndarray
    num_draws: int
    level: float = 0.95

    @classmethod
    def from_draws(
        cls,
        truths: Mapping[str, Array],
        draws: Mapping[str, Array],
        *,
        references: Mapping[str, Array] | None = None,
        level: float = 0.95,
        seed: int = 0,
    ) -> Calibration:
        """Of simulations and posteriors from anywhere.

        Args:
            truths: parameters that data were simulated from, ``{site: (n, *site shape)}``.
            draws: of the posteriors of these data, ``{site: (n, num_draws, *site shape)}``; of some of the sites.
            references: for the joint coverage, points that depend on nothing of the truths but the data, like truths.
                None: the truth of the next data set. With such, draws from the prior pass as posteriors.
            level: of the verdict.
            seed: for ties, which count at random.

        Raises:
            ValueError: sites or shapes that do not fit, fewer than 10 data sets, draws that are not finite.
            TypeError: what holds no numbers.
        """
        owner = "Calibration.from_draws"
        rng = np.random.default_rng(checked_seed(owner, seed))
        level = real_number(owner, "level", level, 0.0, 1.0)
        of_draws = _columns(owner, truths, draws)
        names = list(of_draws)
        posteriors = np.stack([of_draws[name] for name in names], axis=-1)
        of_truths = columns_of(owner, truths, "truths")
        points = [np.stack([of_truths[name] for name in names], axis=-1)]
        if references is None:
            points.append(np.roll(points[0], -1, axis=0))
        else:
            given = columns_of(owner, references, "references")
            if missing := [name for name in names if name not in given or len(given[name]) != len(points[0])]:
                raise ValueError(f"{owner}: references must be as the truths, but those of {missing[0]!r} are not.")
            points.append(np.stack([given[name] for name in names], axis=-1))
        for words, values in zip(("truths", "references", "draws"), (*points, posteriors), strict=True):
            if not np.isfinite(values).all():
                raise ValueError(f"{owner}: {words} must be finite, but {np.sum(~np.isfinite(values))} are not.")
        own = {name: ranks_among(points[0][:, i], posteriors[..., i], rng) for i, name in enumerate(names)}
        scaler = Scaler.from_rows(points[0])
        return cls(own, coverage_ranks(points[0], posteriors, points[1], scaler, rng), posteriors.shape[1], level)

    @property
    def p_values(self) -> dict[str, float]:
        """Of each coordinate: how often the ranks of right posteriors would stray as far from uniform.

        Below ``1 - level`` where the simultaneous band does not hold the curve of ``plot``. With many coordinates some
        are, by chance.
        """
        return {name: uniformity_p_value(ranks, self.num_draws) for name, ranks in self.ranks.items()}

    @property
    def coverage_p_value(self) -> float:
        """As ``p_values``, of the coverage of all coordinates at once."""
        return uniformity_p_value(self.coverage_ranks, self.num_draws)

    def expected_coverage(self, credibility: Array) -> np.ndarray:
        """Share of the data sets whose truth lies in the TARP region of such a credibility, which it should equal.

        Args:
            credibility: between 0 and 1, any shape.

        Returns:
            Shares, the same shape.
        """
        inside = (self.coverage_ranks + 0.5) / (self.num_draws + 1)
        return np.asarray(np.mean(inside <= np.asarray(credibility)[..., None], axis=-1))

    @property
    def calibrated(self) -> bool:
        """Whether nothing is wrong at the level, with all coordinates and the coverage taken together (Holm)."""
        return not self.failures

    @property
    def failures(self) -> dict[str, str]:
        """What is wrong, by the name of the coordinate, the worst first; ``""``: of all coordinates at once."""
        p = {**self.p_values, "": self.coverage_p_value}
        found = {}
        for i, name in enumerate(sorted(p, key=lambda name: p[name])):
            if p[name] > (1 - self.level) / (len(p) - i):
                break
            ranks = self.ranks[name] if name else self.coverage_ranks
            found[name] = (_marginal_words if name else _joint_words)((ranks + 0.5) / (self.num_draws + 1))
        return found

    @property
    def verdict(self) -> str:
        """Whether the posteriors are right, and what is wrong where, in one sentence."""
        n, failures = len(self.coverage_ranks), self.failures
        if not failures:
            return f"calibrated: {n:,} data sets show nothing else"
        seen = [f"{name} {words}" for name, words in failures.items() if name]
        more = [f"and {len(seen) - SHOWN} more"] if len(seen) > SHOWN else []
        joint = [failures[""]] if "" in failures else []
        return "not calibrated: " + "; ".join([*seen[:SHOWN], *more, *joint])

    def __repr__(self) -> str:
        return f"Calibration({len(self.coverage_ranks):,} data sets, {self.num_draws:,} draws each: {self.verdict})"


def _columns(owner: str, truths: Mapping[str, Any], draws: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``(n, num_draws)`` of each coordinate of the draws."""
    if not isinstance(truths, Mapping) or not isinstance(draws, Mapping) or not draws:
        raise TypeError(f"{owner}: truths and draws must be {{site: numbers}}, such as {{'theta': theta}}.")
    if missing := sorted(draws.keys() - truths.keys()):
        raise ValueError(f"{owner}: there are draws of {missing[0]!r}, but no truths; there are {sorted(truths)}.")
    shapes: dict[str, tuple[int, ...]] = {}
    columns: dict[str, np.ndarray] = {}
    for site, value in draws.items():
        array = to_numpy(value, f"{owner}: draws, site {site!r},").astype(float)
        truth = np.shape(to_numpy(truths[site], f"{owner}: truths, site {site!r},"))
        if array.ndim < 2 or not truth or (array.shape[0], *array.shape[2:]) != truth or array.shape[1] < 2:
            raise ValueError(
                f"{owner}: draws of {site!r} must be (n, num_draws, *site shape), at least 2 of each, where truths are "
                f"(n, *site shape), got {array.shape} and {truth}."
            )
        shapes[site] = array.shape[:2]
        columns |= {name_of(site, index): array[(..., *index)] for index in np.ndindex(array.shape[2:])}
    if len({*shapes.values()}) != 1:
        raise ValueError(f"{owner}: all sites must have as many data sets and draws, got {shapes}.")
    if len(next(iter(columns.values()))) < LEAST:
        raise ValueError(f"{owner}: at least {LEAST} data sets have a calibration, got {len(truths[site])}.")
    return columns


def _marginal_words(u: np.ndarray) -> str:
    """Of ranks as shares, that are not uniform."""
    shift, spread = _moments(u)
    words, seen = [], []
    if abs(spread) > FAR and abs(spread) > abs(shift) / 2:  # a shift moves ranks to the ends, too
        half, most = (np.mean(np.abs(u - 1 / 2) < mass / 2) for mass in (0.5, 0.9))
        words.append("too narrow" if spread > 0 else "too wide")
        seen.append(f"50% and 90% intervals hold {half:.0%} and {most:.0%} of the truths")
    if abs(shift) > FAR and abs(shift) > abs(spread) / 2:
        words.append("too high" if shift < 0 else "too low")
        side = "below" if shift < 0 else "above"
        seen.append(f"{np.mean((u < 1 / 2) == (shift < 0)):.0%} of the truths lie {side} the median")
    return f"{' and '.join(words)} ({', '.join(seen)})" if words else "of another shape (see plots.plot_calibration)"


def _joint_words(u: np.ndarray) -> str:
    """Of ranks of distances as shares, that are not uniform."""
    shift, spread = _moments(u)
    if abs(shift) > max(FAR, abs(spread)):
        if shift > 0:
            return "jointly too narrow or in the wrong place: truths lie further out than the draws"
        return "jointly too wide, in the wrong place, or blind to the data: draws lie further out than the truths"
    if abs(spread) > FAR:
        return f"jointly too {'narrow' if spread > 0 else 'wide'}"
    return "jointly of another shape (see plots.plot_coverage)"


def _moments(u: np.ndarray) -> tuple[float, float]:
    """How far mean and spread around the middle are from those of uniform ranks, in standard errors."""
    spread = (np.mean((u - 1 / 2) ** 2) - 1 / 12) / (1 / 180 / len(u)) ** 0.5
    return (u.mean() - 1 / 2) / (1 / 12 / len(u)) ** 0.5, spread
