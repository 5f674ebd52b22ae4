"""What imports what: the layers of DESIGN, and no framework that was not asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ppl_flows"
FRAMEWORKS = {"torch", "pyro", "jax", "numpyro", "optax"}
LAYERS = ["core", "transformers", "bijections", "bases", "flows"]


def imports(path: Path) -> set[str]:
    """Dotted names of all modules a file imports at its top level or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_layers_below_it_and_no_framework(layer):
    allowed = {f"ppl_flows.{name}" for name in LAYERS[: LAYERS.index(layer) + 1]}
    for path in (ROOT / layer).rglob("*.py"):
        for name in imports(path):
            if name.startswith("ppl_flows"):
                assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path} imports {name}"
            driver = layer == "core" and path.stem.endswith(("_torch", "_jax"))
            assert driver or name.partition(".")[0] not in FRAMEWORKS, f"{path} imports {name}"


@pytest.mark.parametrize(("shell", "foreign"), [("pyro", {"jax", "numpyro"}), ("numpyro", {"torch", "pyro"})])
def test_a_shell_imports_only_its_own_language(shell, foreign):
    for path in (ROOT / shell).rglob("*.py"):
        for name in imports(path):
            assert name.partition(".")[0] not in foreign
            assert not name.startswith(f"ppl_flows.{'numpyro' if shell == 'pyro' else 'pyro'}")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("ppl_flows", ["torch", "jax"]),
        ("ppl_flows.pyro", ["jax", "numpyro"]),
        ("ppl_flows.numpyro", ["torch", "pyro"]),
    ],
)
def test_importing_loads_no_framework_that_was_not_asked_for(module, absent):
    code = f"import sys, {module}; assert not [m for m in {absent} if m in sys.modules]"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_the_shells_have_the_same_files_and_the_same_names():
    shells = [importlib.import_module(f"ppl_flows.{name}") for name in ("pyro", "numpyro")]
    assert shells[0].__all__ == shells[1].__all__
    assert shells[0].transforms.__all__ == shells[1].transforms.__all__
    files = [{p.name for p in (ROOT / name).glob("*.py")} for name in ("pyro", "numpyro")]
    # only Pyro keeps parameters in modules and in a store; the two have nothing in common where steps are compiled
    steps = {"capture.py", "compiled.py", "eager.py", "graph_step.py", "measure.py"}
    assert files[0] - files[1] <= {"params.py", *steps}
    assert files[1] - files[0] == {"compile_once.py"}


def test_no_file_is_over_300_lines():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path
