"""Fits in NumPyro over several devices: the numbers of one device, and work that is divided."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.sharding import Mesh

import ppl_flows as pf
from ppl_flows.numpyro import AutoFlow, fit, fit_density

WORKER = str(Path(__file__).parent / "mesh_worker.py")
SECONDS = 600  # that all processes of a launch may take
FITS = ["particles", "uneven", "plate", "local", "data", "both"]
DENSITIES = ["density", "density_of_divided", "encoded", "amortized"]
SETTINGS = {  # processes, devices of each, and what they fit
    "two": (1, 2, [*FITS, *DENSITIES]),
    "four": (1, 4, ["particles", "uneven", "plate", "data", "both", "density"]),
    "processes": (2, 1, [*FITS, *DENSITIES]),
    "processes of two": (2, 2, ["particles", "both", "density_of_divided"]),
}


def launch(processes, devices, folder, *cases, hash_seeds=("0", "0")):
    """The exit codes and outputs of so many processes that run these cases with so many devices each."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    if processes > 1:
        variables |= {"MESH_RANKS": str(processes), "MESH_PORT": str(free_port())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, WORKER, str(folder), str(devices), *cases]
    started = [
        subprocess.Popen(command, env=variables | {"MESH_RANK": str(rank), "PYTHONHASHSEED": hash_seeds[rank]}, **pipes)
        for rank in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], outputs


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def run(processes, devices, folder, *cases):
    codes, outputs = launch(processes, devices, folder, *cases)
    assert not any(codes), outputs


def numbers(folder, case, rank=0):
    with np.load(folder / f"{case}.{rank}.npz") as file:
        return dict(file)


def check_same(expected, got):
    """Losses of the same noise, which fell; in double precision, in which sums in another order differ by 1e-15."""
    for name in expected.keys() - {"flops", "whole"}:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-8)
    assert np.mean(got["losses"][-5:]) < np.mean(got["losses"][:5]) - 0.1


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A folder with the numbers of one device."""
    folder = tmp_path_factory.mktemp("one")
    run(1, 1, folder, *FITS, *DENSITIES, "goes_on")
    return folder


def test_a_mesh_of_two_devices_gives_the_losses_of_one_and_halves_the_work(tmp_path):
    run(1, 2, tmp_path, "plain")
    found = numbers(tmp_path, "plain")
    np.testing.assert_allclose(found["mesh"], found["one"], rtol=1e-5)
    assert np.mean(found["one"][-5:]) < np.mean(found["one"][:5]) - 1
    whole, half = found["each"]
    assert half < 0.6 * whole


@pytest.mark.distributed
@pytest.mark.parametrize("setting", SETTINGS)
def test_fits_over_devices_and_processes_are_those_of_one_device(one, tmp_path, setting):
    processes, devices, cases = SETTINGS[setting]
    run(processes, devices, tmp_path, *cases)
    for case in cases:
        expected = numbers(one, case)
        for rank in range(processes):
            got = numbers(tmp_path, case, rank)
            check_same(expected, got)
            if case != "both":  # which on one device is "data", and compiles nothing
                # where rows are divided, each device runs the flow of all particles; all have the optimiser
                share = 1.0 if case in ("plate", "local", "data") else {2: 0.8, 4: 0.65}[processes * devices]
                assert got["flops"] < share * expected["flops"], case
        assert case != "density_of_divided" or not got["whole"], "a device has all rows at once"


@pytest.mark.distributed
def test_the_same_mesh_compiles_nothing_and_another_one_its_own_programs(tmp_path):
    run(1, 2, tmp_path, "cache")
    found = numbers(tmp_path, "cache")
    assert found["counts"][0] > 2
    assert list(found["counts"][[1, 3, 4]]) == [0, 0, 0], "the last is of the mesh of jax.set_mesh"
    assert found["counts"][2] > 0
    for losses in found["all"]:
        np.testing.assert_allclose(losses, found["all"][0], rtol=1e-12)


@pytest.mark.distributed
@pytest.mark.parametrize(("before", "after"), [((1, 2), (1, 4)), ((2, 1), (1, 1)), ((1, 1), (2, 1))])
def test_a_checkpoint_goes_on_over_other_devices_and_processes(one, tmp_path, before, after):
    run(*before, tmp_path, "ends_early")
    run(*after, tmp_path, "goes_on")
    check_same(numbers(one, "goes_on"), numbers(tmp_path, "goes_on"))


@pytest.mark.distributed
def test_a_process_that_dies_ends_the_other_with_an_error(tmp_path):
    began = time.monotonic()
    codes, outputs = launch(2, 1, tmp_path, "one_dies")
    assert codes[1] == 3, outputs
    assert codes[0] not in (0, None), outputs
    assert "rror" in outputs[0]
    assert time.monotonic() - began < SECONDS


@pytest.mark.distributed
def test_processes_that_trace_other_programs_are_told_so(tmp_path):
    """Else they would add up numbers of different parameters."""
    codes, outputs = launch(2, 1, tmp_path, "local", hash_seeds=("1", "2"))
    assert all(codes), outputs
    for output in outputs:
        assert "start all with PYTHONHASHSEED=0" in output


@pytest.mark.distributed
def test_results_are_on_the_default_device_or_that_of_the_data(tmp_path):
    run(1, 2, tmp_path, "devices")
    found = numbers(tmp_path, "devices")
    assert set(found["found"]) == {int(found["second"])}
    np.testing.assert_allclose(found["losses"], found["alone"], rtol=1e-5)


@pytest.mark.distributed
def test_what_a_mesh_cannot_divide_is_refused(tmp_path):
    run(1, 2, tmp_path, "refused")
    single, other, density = numbers(tmp_path, "refused")["words"]
    assert "num_particles=1 cannot be divided" in single
    assert "use one mesh for both" in other
    assert "use one mesh for both" in density


# --- in this process of one device


def normal(y=None):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.distributed
def test_a_mesh_of_one_device_is_no_other_fit():
    mesh = Mesh(np.array(jax.devices()[:1]), ("particles",))
    options = {"steps": 20, "num_particles": 4, "draws": 50, "progress": False, "check_modes": False}
    alone, over = (
        fit(normal, AutoFlow(normal, pf.TriangularAffine, start="init"), 1.0, mesh=given, **options)
        for given in (None, mesh)
    )
    np.testing.assert_allclose(over.losses, alone.losses, rtol=1e-5)  # float32


def test_what_is_no_mesh_is_refused():
    with pytest.raises(TypeError, match="mesh must be a jax"):
        fit(normal, AutoFlow(normal), 1.0, mesh=jax.devices())
    with pytest.raises(TypeError, match="mesh must be a jax"):
        fit_density(pf.TriangularAffine(2), np.zeros((10, 2)), mesh=2)
