"""Coverage of the intervals of ``result.exact(...).log_evidence`` over repeated runs; NumPyro, a markdown table.

    python tests/benchmarks/exact/evidence.py --runs 50

Targets whose log evidence is exact, or known to a tenth of the errors. One guide each; every run has its own draws.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "posteriors"))

from targets_numpyro import TARGETS

from ppl_flows.numpyro import AutoFlow, fit

EXACT = ("funnel10", "brownian", "eight_schools_centered", "kidiq", "nes", "arK")
DRAWS = 4_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default=",".join(EXACT), help="with commas between")
    parser.add_argument("--runs", type=int, default=50)
    given = parser.parse_args()
    print("| target | KL of the guide | bias | sd | median s.e. | coverage of 95 % | withheld |")
    print("|---|---|---|---|---|---|---|")
    for target in (TARGETS[name] for name in given.targets.split(",")):
        result = fit(target.model, AutoFlow(target.model), progress=False)
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in range(given.runs):
                found.append(result.exact(DRAWS, seed=seed).log_evidence)
        errors = np.array([e.mean - target.log_z for e in found])
        told, spread = np.isfinite(errors), np.array([e.se for e in found])
        errors, spread = errors[told], spread[told]
        inside = np.abs(errors) < 1.96 * np.hypot(spread, target.log_z_se)
        cells = [
            target.name,
            f"{target.log_z - result.elbo.mean:.4f}",
            f"{errors.mean():+.4f}",
            f"{errors.std():.4f}",
            f"{np.median(spread):.4f}",
            f"{inside.mean():.0%}",
            str(int((~told).sum())),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
