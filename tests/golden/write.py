"""Writes the golden files of today's format: ``python tests/golden/write.py``, once per format, never again."""

import json
import sys
from pathlib import Path

import numpy as np

import ppl_flows as pf
from ppl_flows import files
from ppl_flows.core.params import map_params

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import cases  # noqa: E402
from test_golden import log_density  # noqa: E402

ROWS = 10
SMALL = {"scales": 2, "hidden": 4, "width": 8, "heads": 2, "flow_layers": 2}  # of recipes of images


def written() -> list:
    """Every class and recipe, bases included, with and without a context."""
    image_recipes = [
        recipe((4, 4, 2), **{k: v for k, v in SMALL.items() if cases.takes(recipe, k)}, context_dim=context_dim)
        for recipe in (pf.glow, pf.real_nvp_image, pf.tarflow)
        for context_dim in (0, cases.CONTEXT)
    ]
    estimated = [pf.ContractiveResidual(3, exact=False), pf.NeuralODE(3, hidden=(8, 8, 8), exact=False)]
    batched = [pf.Batched(pf.Coupling(cases.DIM, **cases.NET), batch=(3,))]
    bases = [b(cases.DIM) for b in cases.public(pf.Base)]
    every = [*cases.ALL, *cases.OTHERS, *cases.recipes(), *image_recipes, *estimated, *batched, *bases]
    return list(dict.fromkeys(every))


def main() -> None:
    folder = HERE / f"format_{files.FORMAT}"
    folder.mkdir()
    expected = {}
    for i, made in enumerate(written()):
        name = f"{i:03d}_{type(made).__name__}"
        params = map_params(lambda _, a: np.asarray(a, np.float32), cases.perturbed(made))
        files.save(folder / f"{name}.safetensors", made, params)
        y = (
            cases.targets(made, ROWS)
            if isinstance(made, pf.Bijection)
            else np.random.default_rng(5).normal(size=(ROWS, made.dim))
        )
        if getattr(made, "batch_shape", ()):
            y = np.repeat(y[:, None], made.batch_shape[0], axis=1)
        context = cases.context(made, ROWS) if isinstance(made, pf.Bijection) else None
        expected[name] = {
            "repr": repr(made),
            "y": y.tolist(),
            "context": None if context is None else context.tolist(),
            "log_density": log_density(made, params, y, context).tolist(),
        }
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
