"""Files of every format that was ever written load, and their densities are what they were."""

import json
from pathlib import Path

import foreign_flows  # noqa: F401  registers its classes, some of which are in files
import numpy as np
import pytest
import torch
from golden.write_fits import HIERARCHY_Y, log_densities_of_hierarchy, pyro_hierarchy, summary

import ppl_flows as pf
import ppl_flows.pyro
from ppl_flows.core.params import map_params

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = {
    (folder.name, name): value
    for folder in sorted(GOLDEN.glob("format_*"))
    for name, value in json.loads((folder / "expected.json").read_text()).items()
}


@pytest.mark.parametrize(("folder", "name"), EXPECTED)
def test_a_golden_file_loads_and_gives_its_log_densities(folder, name):
    expected = EXPECTED[folder, name]
    made, params = pf.load(GOLDEN / folder / f"{name}.safetensors")
    context = None if expected["context"] is None else np.array(expected["context"])
    found = log_density(made, params, np.array(expected["y"]), context)
    # float64 throughout; inverses found by iteration agree to some hundred units of rounding
    np.testing.assert_allclose(found, expected["log_density"], rtol=1e-9, atol=1e-9)


def test_every_golden_file_is_checked():
    files = {(path.parent.name, path.stem) for path in GOLDEN.glob("format_*/*.safetensors")}
    assert files == EXPECTED.keys()
    assert len(files) > 150


FITS = json.loads((GOLDEN / "fits_2" / "expected.json").read_text())


@pytest.mark.parametrize("name", FITS)
def test_a_golden_fit_loads_and_is_what_it_was(name):
    saved = pf.load(GOLDEN / "fits_2" / f"{name}.safetensors")
    np.testing.assert_allclose(summary(saved), FITS[name], rtol=1e-6)  # weights in float32
    if name == "prior":
        assert [(site.name, site.support["name"]) for site in saved.sites] == [("p", "simplex"), ("scale", "positive")]
    if name == "likelihood":
        assert [(site.name, site.support["name"]) for site in saved.sites] == [("scale", "positive"), ("p", "simplex")]
        assert saved.row.support == {"name": "real"}
    if name.startswith("amortized"):
        assert saved.shapes == ({"y": ()} if name == "amortized_with_shapes" else None)
    if name.startswith("fit_"):
        assert [site.name for site in saved.sites] == ["scale", "p"]
        assert saved.verdict


def test_a_golden_informed_fit_places_its_sites_as_it_did():
    path = GOLDEN / "fits_2" / "informed.safetensors"
    expected = json.loads(path.with_suffix(".json").read_text())
    assert pf.load(path).placed == ("theta",)
    np.testing.assert_allclose(log_densities_of_hierarchy(path), expected, rtol=1e-5)
    guide, _ = ppl_flows.pyro.AutoFlow.load(path, pyro_hierarchy, torch.tensor(HIERARCHY_Y, dtype=torch.float32))
    found = guide.get_posterior().log_prob(torch.linspace(-1, 1, 6).reshape(2, 3))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4)


def log_density(made, params, y: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    """Of a base; or of a bijection under the formula of a standard normal, whatever its domain. In float64."""
    params = map_params(lambda _, a: np.asarray(a, np.float64), params)
    if isinstance(made, pf.Base):
        return made.log_prob(params, y)
    x, log_det = made.inverse(params, y, context)
    axes = tuple(range(-len(made.event_shape), 0))
    return log_det - 0.5 * np.sum(x**2 + np.log(2 * np.pi), axis=axes)
