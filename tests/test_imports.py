"""What imports what: the layers of DESIGN, and no framework that was not asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ppl_flows"
FRAMEWORKS = {"torch", "pyro", "jax", "numpyro", "optax", "torchdiffeq", "diffrax", "functorch"}
# each may import those before it, and those beside it
LAYERS = [
    {"core", "safe_files"},
    {"transformers", "conditioners", "numerics", "backends"},
    {"bijections", "combinators", "bases"},
    {"encoders", "recipes"},
    {"inference"},
    {"plots", "torch", "jax"},
    {"pyro", "numpyro"},
]
# the namespace finds by name the backend of an array, when the first one arrives, and the flows that a bijection makes
BY_NAME = {
    ("core/namespace.py", "ppl_flows.backends.{}.ops"),
    ("core/namespace.py", "ppl_flows.{}"),
    ("core/bijection.py", "ppl_flows.torch.flow"),  # for types
    ("core/bijection.py", "ppl_flows.jax.flow"),
}


def imports(path: Path, *, types: bool = True) -> set[str]:
    """Dotted names of all modules that a file imports: anywhere, and by name too; with or without those for types."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}")}
            found.update(inner or {module})
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found.add("".join("{}" if isinstance(v, ast.FormattedValue) else v.value for v in parts_of(node.args[0])))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def parts_of(name: ast.AST) -> list:
    return name.values if isinstance(name, ast.JoinedStr) else [name]


def is_module(name: str) -> bool:
    path = ROOT.parent / name.replace(".", "/")
    return name.startswith("ppl_flows") and (path.is_dir() or path.with_suffix(".py").exists())


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def layer_of(module: str) -> int | None:
    """The place of a module in ``LAYERS``; None for those of the package itself, such as files."""
    folder = module.split(".")[1] if module.count(".") else ""
    return next((i for i, layer in enumerate(LAYERS) if folder in layer), None)


def shell_of(path: Path) -> bool:
    """Whether it belongs to a shell, which may import what lies beside the folders, too."""
    return path.parts[0] in ("torch", "jax", "pyro", "numpyro")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_layers_below_it_and_no_framework(path):
    here = path.relative_to(ROOT)
    own = layer_of("ppl_flows." + ".".join(here.with_suffix("").parts))
    for name in imports(path):
        if (str(here), name) in BY_NAME:
            continue
        other = layer_of(name)
        if name.startswith("ppl_flows") and own is not None and not (shell_of(here) and other is None):
            assert own >= (len(LAYERS) if other is None else other), f"{here} imports {name}"
        driver = here.parts[0] == "backends" and here.parts[1] in FRAMEWORKS
        assert driver or shell_of(here) or name.partition(".")[0] not in FRAMEWORKS, f"{here} imports {name}"


def test_no_imports_run_in_a_circle():
    """Of modules, those for types apart."""
    graph = {}
    for path in files():
        name = "ppl_flows." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found = {n for n in imports(path, types=False) if n.startswith("ppl_flows.") and n != name}
        graph[name.removesuffix(".__init__")] = found
    open_, closed = [], set()

    def visit(module: str) -> None:
        assert module not in open_, " -> ".join([*open_[open_.index(module) :], module])
        if module in closed or module not in graph:
            return
        open_.append(module)
        for other in sorted(graph[module]):
            visit(other)
        closed.add(open_.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize(
    ("shell", "foreign"),
    [
        ("torch", {"jax", "numpyro", "pyro"}),
        ("jax", {"torch", "pyro", "numpyro"}),
        ("pyro", {"jax", "numpyro"}),
        ("numpyro", {"torch", "pyro"}),
    ],
)
def test_a_shell_imports_only_its_own_language(shell, foreign):
    for path in (ROOT / shell).rglob("*.py"):
        for name in imports(path):
            assert name.partition(".")[0] not in foreign
            assert name.removeprefix("ppl_flows.").partition(".")[0] not in foreign


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("ppl_flows", ["torch", "jax", "matplotlib"]),
        ("ppl_flows.plots", ["torch", "jax", "matplotlib", "scipy.stats"]),
        ("ppl_flows.torch", ["jax", "pyro"]),
        ("ppl_flows.jax", ["torch", "numpyro"]),
        ("ppl_flows.pyro", ["jax", "numpyro", "matplotlib"]),
        ("ppl_flows.numpyro", ["torch", "pyro", "matplotlib"]),
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
    # only Pyro keeps parameters in modules and in a store, and has processes that add up their gradients; the two have
    # nothing in common where steps are compiled
    steps = {"adam.py", "batches.py", "eager_step.py", "importance.py", "enumeration.py", "run_size.py"}
    ranks = {"ranks.py", "rank_steps.py", "shared_draws.py"}
    assert files[0] - files[1] <= {"params.py", *steps, *ranks}
    compiled = {"compile_once.py", "compiled_steps.py", "compiler_effort.py", "scanned_flow.py", "see_model.py"}
    devices = {"mesh.py", "placement.py"}  # that JAX divides arrays over
    assert files[1] - files[0] == compiled | devices


def test_no_file_is_over_300_lines():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path
