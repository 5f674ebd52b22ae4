"""What is generated from the code says what the code says, and what a page shows runs."""

import importlib.util
import re
from pathlib import Path

import pytest

import ppl_flows as pf

DOCS = Path(__file__).parent.parent / "docs"
COMING_FROM = (DOCS / "coming_from.md").read_text()


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.slow
def test_the_block_on_building_a_flow_runs():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "choosing_a_flow.md").read_text(), re.DOTALL):
        exec(block, names)
    assert names["flow"].event_shape == (4,)


PREPARE = {
    "Pyro": """
import pyro, torch, pyro.distributions.transforms as T
from pyro.infer.autoguide import AutoIAFNormal, AutoNormalizingFlow
from ppl_flows.pyro import AutoFlow, FlowTransform, transforms
model = lambda: pyro.sample("x", pyro.distributions.Normal(torch.zeros(4), 1.0).to_event(1))
""",
    "NumPyro": """
import jax.numpy as jnp, numpyro
from numpyro.distributions import flows, transforms as T
from numpyro.infer.autoguide import AutoBNAFNormal, AutoIAFNormal
from ppl_flows.numpyro import AutoFlow, FlowTransform, transforms
network = lambda x: (x, x)
model = lambda: numpyro.sample("x", numpyro.distributions.Normal(jnp.zeros(4), 1.0).to_event(1))
""",
    "zuko": "import torch, zuko; x = torch.zeros(5, 3)",
    "FlowJAX": """
import jax, jax.numpy as jnp, flowjax.train
from flowjax.distributions import Normal
from flowjax.flows import block_neural_autoregressive_flow, coupling_flow, masked_autoregressive_flow, planar_flow
from flowjax.bijections import Chain, Exp, Flip, Indexed, Invert, RationalQuadraticSpline, Scan, Vmap
key, normal = jax.random.key(0), Normal(jnp.zeros(3))
""",
    "nflows": """
from nflows import transforms as N
from nflows.nn.nets import ResidualNet
network = lambda inputs, outputs: ResidualNet(inputs, outputs, hidden_features=8)
""",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the other libraries'
@pytest.mark.parametrize("library", PREPARE)
def test_the_lines_for_those_who_come_from_another_library_run(library):
    if library == "nflows":
        pytest.importorskip("nflows", reason="the extra bench has it")
    tables = re.findall(rf"^\| {library} \| ppl_flows \|\n\|---\|---\|\n((?:\|.*\n)+)", COMING_FROM, re.MULTILINE)
    rows = [row.strip("| ").split(" | ") for table in tables for row in table.splitlines()]
    names = {"pf": pf}
    exec(PREPARE[library], names)
    assert len(rows) >= 5
    for cell in (cell for row in rows for cell in row):
        for code in re.findall("`([^`]+)`", cell):
            if not code.startswith(("fit_density", "flowjax.train", "ppl_flows")):
                assert eval(code, names) is not None, code
