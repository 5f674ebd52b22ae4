"""Files of every format that was ever written load, and their densities are what they were."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.write import log_density

import ppl_flows as pf

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = {
    (folder.name, name): value
    for folder in sorted(GOLDEN.glob("format_*"))
    for name, value in json.loads((folder / "expected.json").read_text()).items()
}


@pytest.mark.parametrize(("folder", "name"), EXPECTED, ids="-".join)
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
