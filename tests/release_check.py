"""Looks into the sdist, installs the wheel with each extra in an environment of its own, and runs a little of it.

    python tests/release_check.py none pyro numpyro

``make release-check`` builds ``dist`` before. The versions are those of ``constraints.txt``.
"""

import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
IN_THE_SDIST = (
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "constraints.txt",
    "constraints-oldest.txt",
    "constraints-newest.txt",
    "docs/index.md",
    "docs/conf.py",
    "docs/eight_schools.png",
    "examples/eight_schools.py",
    "tests/conftest.py",
    "ppl_flows/py.typed",
)


def only(pattern: str) -> Path:
    """The one file of ``dist`` that fits."""
    found = sorted((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        raise ValueError(
            f"expected one {pattern} in dist, got {[path.name for path in found]}; run `make release-check`"
        )
    return found[0]


def check_contents(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    missing = [name for name in IN_THE_SDIST if name not in names]
    assert not missing, f"the sdist lacks {missing}"
    built = [name for name in names if name.startswith(("docs/_build", "docs/api", "out/", ".venv"))]
    assert not built, f"the sdist has what is made from it: {built[:5]}"
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
        assert "ppl_flows/py.typed" in archive.namelist(), "the wheel has no types"
    assert folders == {"ppl_flows", wheel.name.split("-py3")[0] + ".dist-info"}, folders
    print(f"{sdist.name}: {len(names)} files; {wheel.name}: ppl_flows and its metadata", flush=True)


def check_extra(extra: str, wheel: Path) -> None:
    """Installs the wheel with an extra, ``none`` for no extra, and runs ``tests/smoke.py`` away from the checkout."""
    start = time.monotonic()
    folder = ROOT / "out" / "release" / extra
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    requirement = str(wheel) if extra == "none" else f"{wheel}[{extra}]"
    subprocess.run([*install, requirement], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    smoke = (ROOT / "tests" / "smoke.py").read_text()
    subprocess.run([python, "-c", smoke, extra], check=True, cwd=folder)  # -c: nor is the checkout's tests/ on the path
    print(f"[{extra}] installed and ran in {time.monotonic() - start:.0f} s", flush=True)


def main(extras: list[str]) -> None:
    wheel = only("*.whl")
    check_contents(only("*.tar.gz"), wheel)
    for extra in extras:
        check_extra(extra, wheel)
    print(f"release-check passed: {', '.join(extras)}")


if __name__ == "__main__":
    main(sys.argv[1:])
