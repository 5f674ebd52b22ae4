"""The table of layers says what the code says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_layers_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_layers", DOCS / "make_layers.py")
    make_layers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_layers)
    assert make_layers.document() == (DOCS / "layers.md").read_text(), "run `make docs`"
