"""What a release says of itself in several files is the same in all of them."""

import re
import tomllib
from pathlib import Path

import pytest

import ppl_flows as pf

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
CITATION = (ROOT / "CITATION.cff").read_text()


def pythons_of_the_matrix() -> list[str]:
    return re.search(r"^PYTHONS = (.*)$", MAKEFILE, re.MULTILINE).group(1).split()


def pins(name: str, python: str) -> dict[str, str]:
    """Of a file of constraints, {package: version} for one Python, as 3.12."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if match := re.fullmatch(r'([\w-]+)==([\w.]+)(?:; python_version (<|>=) "3\.(\d+)")?', line):
            package, version, compare, minor = match.groups()
            ours = int(python.split(".")[1])
            if compare is None or (ours < int(minor) if compare == "<" else ours >= int(minor)):
                assert package not in found, f"{package} is pinned twice for Python {python}"
                found[package] = version
        else:
            assert line.startswith("#"), line
    return found


def floors() -> dict[str, str]:
    """{package: lowest version}, of the dependencies and of the extras that the matrix installs."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["pyro"], *extras["numpyro"], *extras["arviz"], *extras["ode"]]
    return dict(requirement.split(">=") for requirement in wanted if ">=" in requirement)


def test_version_and_date_are_the_same_everywhere():
    newest, date = re.search(
        r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    ).groups()
    assert newest == pf.__version__
    assert f"version: {pf.__version__}\ndate-released: {date}\n" in CITATION
    assert all(author["name"] in CITATION for author in PROJECT["authors"])
    assert PROJECT["urls"]["Repository"] in CITATION


def test_classifiers_and_workflow_name_the_pythons_of_the_matrix():
    pythons = pythons_of_the_matrix()
    named = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert named == pythons
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", WORKFLOW).group(1)) == pythons
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    cells = re.findall(r"\$\(version\)-(\w+)", re.search(r"^CELLS = .*$", MAKEFILE, re.MULTILINE).group())
    assert re.search(r"dependencies: \[(.*)\]", WORKFLOW).group(1).split(", ") == cells
    assert all((ROOT / f"constraints-{cell}.txt").exists() for cell in cells)


def test_the_workflow_only_calls_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.MULTILINE))
    commands = re.findall(r"run: *(.*)", WORKFLOW)
    listed = re.search(r"target: \[(.*)\]", WORKFLOW).group(1).split(", ")
    called = [command.split()[1] for command in commands if "matrix.target" not in command]
    assert len(commands) >= 3
    assert all(command.startswith("make ") for command in commands)
    assert {*listed, *called} <= targets


@pytest.mark.parametrize("python", pythons_of_the_matrix())
def test_a_floor_is_what_the_matrix_tests(python):
    oldest = pins("constraints-oldest.txt", python)
    first = pins("constraints-oldest.txt", pythons_of_the_matrix()[0])
    for package, version in floors().items():
        assert first[package] == version or first[package].startswith(f"{version}."), "the first Python has the floor"
        assert package in oldest, package
        assert package in pins("constraints-newest.txt", python), package


def test_addresses_of_the_readme_lead_to_files_of_this_repository():
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", readme)
    repository = PROJECT["urls"]["Repository"]
    places = [f"{repository}/blob/main/", f"{repository.replace('github.com', 'raw.githubusercontent.com')}/main/"]
    assert len(links) > 10
    for link in links:
        within = [link.removeprefix(place).split("#")[0] for place in places if link.startswith(place)]
        assert within, f"{link}: a package index shows no relative ones"
        assert (ROOT / within[0]).is_file(), link
    assert len(readme.splitlines()) <= 120, "the rest is in docs/"
