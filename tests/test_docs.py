"""What is generated from the code says what the code says, and what a page shows runs."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_table_of_layers_is_up_to_date():
    assert script("make_layers").document() == (DOCS / "layers.md").read_text(), "run `make docs`"


@pytest.mark.parametrize("shell", ["pyro", "numpyro"])
def test_the_stubs_of_the_transforms_are_up_to_date(shell):
    make_stubs = script("make_stubs")
    assert make_stubs.document(shell) == make_stubs.path(shell).read_text(), "run `make docs`"


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("section", ["Pyro", "NumPyro"])
def test_the_blocks_of_a_host_run_one_after_the_other(section):
    page = (DOCS / "hosts.md").read_text()
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE).group(1)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ArviZ's, of Pareto tails
def test_the_blocks_of_the_page_on_arviz_run():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "arviz.md").read_text(), re.DOTALL)
    assert all(sum(map(bool, block.splitlines())) <= 12 for block in blocks), "without the blank ones"
    in_numpyro, *in_pyro = blocks
    for some in ([in_numpyro], in_pyro):
        names = {}
        for block in some:
            exec(block, names)
        assert names["data"]["posterior"]["theta"].dims == ("chain", "draw", "school")
