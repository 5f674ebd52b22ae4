"""Runs a selection of the quick tests in environments of several Pythons and dependencies: ``make test-matrix``.

    python tests/matrix.py 3.11-oldest 3.12-newest

An environment is ``.venvs/NAME``. Prints a table of versions and outcomes; fails if a test failed, or if none ran.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "pyro-ppl", "jax", "numpyro", "arviz", "numpy")
# the laws of the core on three backends, files, both languages from a model to a posterior, ArviZ
TESTS = (
    "test_backend.py",
    "test_files.py",
    "test_golden.py",
    "test_parity.py",
    "test_plain_flows.py",
    "test_handlers.py",
    "test_guide_life.py",
    "test_guide_sites.py",
    "test_density.py",
    "test_arviz.py",
    "test_transformers.py",
)
VERSIONS = """
import json, platform
from importlib.metadata import version
print(json.dumps([platform.python_version(), *map(version, {packages})]))
"""


def run(cell: str) -> tuple[list[str], str, float, int]:
    """(versions, pytest's last line, seconds, exit status) of one environment."""
    python = ROOT / ".venvs" / cell / "bin" / "python"
    code = VERSIONS.format(packages=PACKAGES)
    versions = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    start = time.monotonic()
    tests = [f"tests/{name}" for name in TESTS]
    command = [python, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *tests]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    seconds = time.monotonic() - start
    outcome = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "no test ran")
    return versions, re.sub(r" in [\d.]+s.*", "", outcome.strip("= \n")), seconds, process.returncode


def main(cells: list[str]) -> int:
    results = {}
    for cell in cells:
        print(f"== {cell}", flush=True)
        results[cell] = run(cell)
    print("\n| cell | Python | " + " | ".join(PACKAGES) + " | tests | seconds |")
    print("|---" * (len(PACKAGES) + 4) + "|")
    for cell, (versions, outcome, seconds, _) in results.items():
        print(f"| {cell} | " + " | ".join(versions) + f" | {outcome} | {seconds:.0f} |")
    return int(not cells or any(status for *_, status in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
