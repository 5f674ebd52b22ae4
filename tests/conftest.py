import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pyro
import pytest
import torch

jax.config.update("jax_enable_x64", True)  # laws are checked in float64; float32 arrays stay float32
jax.config.update("jax_disable_most_optimizations", True)  # the tests compile much and run little
torch.set_num_threads(1)  # two test processes share two cores


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
