"""A file from a stranger loads, or is a ``FileFormatError`` that names it: soon, and in little memory."""

import json
import os
import pickle
import time
import tracemalloc
import warnings
from dataclasses import dataclass
from pathlib import Path

import fuzz_files
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save as to_bytes

import ppl_flows as pf
from ppl_flows.safe_files import HEADER_BYTES

REVERSE = {"class": "Reverse", "dim": 3}
RESIDUAL = {"class": "ConvNet", "width": 8, "blocks": 10**7}
BIG = 10**9


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.safetensors"


def described(description, arrays=None, version="2") -> bytes:
    text = description if isinstance(description, str) else json.dumps(description)
    return to_bytes(arrays or {}, {"format": version, "bijection": text})


def refused(path, data: bytes, match: str) -> pf.FileFormatError:
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(pf.FileFormatError, match=match) as caught:
        pf.load(path)
    took, memory = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(repr(str(path)))
    assert memory < 200e6
    assert took < 5  # tracing costs some of it; without, it is below 1: fuzz_files.py
    return caught.value


def repeated(part, **kind):
    return {**kind, "part": part}


@pytest.mark.parametrize(
    "description",
    [
        {"class": "ActNorm", "dim": BIG},
        {"class": "Reverse", "dim": BIG},
        {"class": "Permute", "dim": BIG},
        {"class": "DiagonalNormal", "dim": BIG},
        {"class": "LULinear", "dim": 30_000},
        {"class": "Householder", "dim": 1000, "reflections": 10**6},
        {"class": "Invertible1x1Conv", "shape": [2, 2, 5000], "dense": True},
        {"class": "BlockNeuralAutoregressive", "dim": 1000, "hidden_factor": 1000},
        {"class": "Coupling", "dim": 4, "conditioner": {"class": "MLP", "hidden": [BIG, BIG]}},
        {"class": "MaskedAutoregressive", "dim": 4, "conditioner": {"class": "MLP", "hidden": [10**5, 10**5]}},
        {"class": "Coupling", "dim": [4, 4, 2], "conditioner": RESIDUAL},
        {"class": "Coupling", "dim": 4, "transformer": {"class": "DeepDenseSigmoidal", "layers": 10**6}},
        {"class": "PerPixel", "part": {"class": "ActNorm", "dim": 1}, "height": 10**6, "width": 10**6},
        {"class": "Reshape", "shape": [BIG, BIG]},
        {"class": "Squeeze", "shape": [2, 2, 1], "factor": 0},
        repeated(REVERSE, **{"class": "Repeat", "times": BIG}),
        repeated({"class": "ActNorm", "dim": 1}, **{"class": "Repeat", "times": 10**6}),
        repeated({"class": "Planar", "dim": 2}, **{"class": "Repeat", "times": 10**6}),
        repeated(REVERSE, **{"class": "Batched", "batch": [BIG]}),
        repeated({"class": "Coupling", "dim": 3}, **{"class": "Batched", "batch": [1000, 1000]}),
    ],
    ids=lambda d: f"{d['class']}-{max(map(str, d.values()), key=len)[:30]}",
)
def test_sizes_far_above_what_the_file_holds_are_refused(path, description):
    refused(path, described(description), "far (above|more than) the 0 numbers|cannot be made")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"class": "Chain", "parts": [REVERSE] * 10**5}, "more than 65536 objects"),
        ({"class": "Chain", "parts": [REVERSE] * 30_000}, "far above the 0 numbers"),
        ("[" * 10**5, "more than 65536 objects"),
        ("[" * 50_000 + "]" * 50_000, "nested more than 128 levels deep"),
        ('{"class":"Inverse","part":' * 200 + json.dumps(REVERSE) + "}" * 200, "nested more than 128 levels deep"),
        ("{", "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("x" * 5 * 10**6, "5000000 characters"),
        ("null", "describes a NoneType"),
        ({"class": "MLP"}, "describes a MLP"),
        ({"class": ["Reverse"]}, "unknown class"),
        ({"class": "Reverse"}, "missing 1 required positional argument"),
        ({"class": "Inverse", "part": 3}, "Inverse takes bijections"),
        ({"class": "Reverse", "dim": "x" * 10**6}, "must be a whole number, got 'xxx"),
        ({"class": "Partial", "part": REVERSE, "dim": 4, "index": None}, "cannot be made"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_descriptions_that_are_none_are_refused(path, description, message):
    error = refused(path, described(description), message)
    assert len(str(error)) < 1500


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "a.b"), "'a' is an array and a group|lies in a group that is an array"),
        (("a.b", "a"), "'a' is an array and a group|lies in a group that is an array"),
        ((".".join("a" * 10**5),), "more than 128 dots"),
        (("",), "'' should have shape None"),
    ],
)
def test_names_that_cannot_be_params_are_refused(path, names, message):
    refused(path, described(REVERSE, {name: np.zeros(1) for name in names}), message)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"class": "Chain", "parts": 3}, "'int' object is not iterable"),
        ({"class": "Frozen"}, "lacks its field 'part'"),
        ({"class": "ImageCoupling", "mask": [], "shape": 1}, "unhashable"),
        ({"class": "PatchAutoregressive", "shape": [4, 4, 1], "patch": 0}, "ZeroDivisionError"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_format_1_is_read_with_the_same_care(path, description, message):
    refused(path, described(description, version="1"), message)


def header(text: str, arrays: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + arrays


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"not a \.safetensors file"),
        (b"\x01", r"not a \.safetensors file"),
        (described(REVERSE)[:-3], r"not a \.safetensors file"),
        (described(REVERSE) + b"x", r"not a \.safetensors file"),
        ((HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "its header would take"),
        ((2**63).to_bytes(8, "little"), "its header would take"),
        (header("[" * 10**6), r"not a \.safetensors file"),
        (header("{}"), "expected a ppl_flows file of format"),
        (to_bytes({}, {"format": "3"}), "got '3'; a newer ppl_flows may read it"),
        (to_bytes({}, {"format": "2"}), "describes a NoneType"),
        (header('{"__metadata__":{"format":2}}'), r"not a \.safetensors file"),
        (
            header(
                '{"__metadata__":{"format":"2","bijection":"{}"},"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}',
                b"00",
            ),
            "'x' is of dtype BF16, which NumPy lacks",
        ),
        (
            header(
                '{"__metadata__":{"format":"2"},"x":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4]}}',
                b"0" * 4,
            ),
            r"not a \.safetensors file",
        ),
    ],
    ids=range(13),
)
def test_files_that_are_no_files_of_ours_are_refused(path, data, message):
    refused(path, data, message)


def test_what_is_no_regular_file_is_refused_and_what_is_not_there_is_the_systems_error(tmp_path):
    with pytest.raises(pf.FileFormatError, match="no regular file"):
        pf.load(tmp_path)
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    with pytest.raises(pf.FileFormatError, match="no regular file"):
        pf.load(tmp_path / "fifo")
    with pytest.raises(FileNotFoundError):
        pf.load(tmp_path / "absent")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        pf.load(tmp_path / "loop")


def test_the_error_is_a_value_error_that_pickles(path):
    error = refused(path, b"", "not a")
    assert isinstance(error, ValueError)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.path, copy.reason) == (type(error), str(error), error.path, error.reason)


@dataclass(frozen=True)
class Wide(pf.Bijection):
    """A class of one's own."""

    dim: int
    width: int
    seed: int = 0

    def init(self, rng):
        return {"w": rng.normal(0, 1, size=(self.dim, self.width)), "u": rng.uniform(size=self.width)}

    def _forward(self, params, x, context):
        return x, 0 * x.sum(-1)

    _inverse = _forward


def test_registered_classes_are_measured_too(path):
    pf.register(Wide)
    made = Wide(3, 4, seed=10**15)
    pf.save(path, made, made.init(np.random.default_rng(0)))
    assert pf.load(path)[0] == made
    refused(path, described({"class": "Wide", "dim": 10**5, "width": 10**5}), "far more than the 0 numbers")
    refused(path, described({"class": "Wide", "dim": 3, "width": BIG}), "sizes up to the file's Wide are far above")


@pytest.mark.parametrize(
    "made",
    [
        pf.Chain([pf.Reverse(1000), pf.Permute(1000)] * 100),
        pf.Chain([pf.Planar(2)] * 2000),
        pf.Repeat(pf.ActNorm(1), times=100_000),
        pf.Batched(pf.ActNorm(1), batch=(300, 300)),
        pf.Repeat(pf.Repeat(pf.Chain([pf.Householder(3), pf.Shuffle(3)]), times=20), times=30),
        pf.Permute(100_000),
        pf.Elementwise(500_000, pf.Sigmoid()),
        pf.Coupling((1024, 1024, 3), conditioner=pf.ConvNet(width=32, blocks=1)),
        pf.Partial(pf.Elementwise(2, pf.Affine()), dim=200_000, index=(3, 1)),
    ],
    ids=lambda made: type(made).__name__,
)
def test_honest_extremes_come_back(path, made):
    params = made.init(np.random.default_rng(0))
    pf.save(path, made, params)
    assert pf.load(path)[0] == made


def test_what_load_would_refuse_is_not_saved(path):
    made = pf.Reverse(2 * 10**6)
    with pytest.raises(ValueError, match="far above the 0 numbers"):
        pf.save(path, made, {})
    assert not list(path.parent.iterdir())


INFORMED = (Path(__file__).parent / "golden" / "fits_2" / "informed.safetensors").read_bytes()


def informed(change) -> bytes:
    """A fit whose prior places a site, with a change of what JSON holds of it, and its arrays."""
    whole, arrays = safetensors.deserialize(INFORMED), {}
    for name, array in whole:
        arrays[name] = np.frombuffer(array["data"], "float32" if array["dtype"] == "F32" else "float64").reshape(
            array["shape"]
        )
    metadata = fuzz_files.taken_apart(INFORMED)[0]["__metadata__"]
    document = json.loads(metadata["fit"])
    change(document, arrays)
    return to_bytes(arrays, metadata | {"fit": json.dumps(document)})


MAP = ("log_precision", "value", "state.precision", "state.value", "state.unit")


def test_an_informed_fit_comes_back(path):
    path.write_bytes(informed(lambda document, arrays: None))
    assert pf.load(path).placed == ("theta",)


@pytest.mark.parametrize("name", MAP)
def test_arrays_of_a_map_are_those_of_its_sites(path, name):
    def resized(document, arrays):
        arrays[f"informed.{name}"] = np.zeros(3)

    refused(path, informed(resized), "parameters of its map are not those of sites it has")
    refused(path, informed(lambda document, arrays: arrays.pop(f"informed.{name}")), f"informed.{name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"placed": ["other"]}, "parameters of its map are not those of sites it has"),
        ({"placed": ["theta", "theta"]}, "parameters of its map are not those of sites it has"),
        ({"placed": ["scale"]}, "parameters of its map are not those of sites it has"),
        ({"placed": []}, "its guide needs 'model' to draw"),
        ({"placed": 3}, "not iterable"),
        ({"placed": [BIG] * 10**4}, "parameters of its map are not those of sites it has"),
        ({"needs": None}, "its guide needs None to draw"),
        ({"needs": "more"}, "its guide needs 'more' to draw; a newer ppl_flows may read it"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_what_a_fit_places_are_its_sites(path, change, message):
    refused(path, informed(lambda document, arrays: document.update(change)), message)


def test_mutated_files_load_or_are_refused(path):
    """10,000 of them by ``make fuzz``."""
    before = fuzz_files.peak_megabytes()
    with warnings.catch_warnings(action="error"):
        outcomes, longest, slowest = fuzz_files.fuzz(path, cases=300, seed=1)
    assert set(outcomes) == {"loaded", "refused"}
    assert longest < fuzz_files.SECONDS, slowest
    assert fuzz_files.peak_megabytes() - before < fuzz_files.MEGABYTES
