import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two test processes share two cores
# The tests compile much and run little, and most of what compiling takes goes to emitters that fuse loops: without them
# a program takes a quarter of the time. XLA ends the process at a flag that it does not know, as other versions do not.
if version("jaxlib").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"

import jax
import pyro
import pytest
import torch

collect_ignore = [
    "memory_of_a_process.py",
    "mesh_worker.py",
    "fits_twice.py",
]  # scripts that take arguments, and a plugin

jax.config.update("jax_enable_x64", True)  # laws are checked in float64; float32 arrays stay float32
jax.config.update("jax_disable_most_optimizations", True)
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that NumPyro compiles for long are slow there; their twins in Pyro run what both share."""
    for item in items:
        if item.get_closest_marker("slow_in_numpyro") and "numpyro" in item.callspec.id.split("-"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _fresh_pyro():
    """Pyro's parameter store is global: a test that inherits one may train nothing and still pass."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture
def float64():
    """torch's default dtype is float64 during the test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=["pyro", "numpyro"])
def lang(request, float64):
    """One language after the other, as in ``languages``, in float64."""
    from languages import LANGUAGES

    return LANGUAGES[request.param]
