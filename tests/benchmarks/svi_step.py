"""One SVI step of ``AutoFlow(iaf)`` on eight schools, relative to the host's AutoIAFNormal with networks of its size.

Both guides: three affine autoregressive layers, two hidden layers of 10 units, one particle, Adam of the host.
"""

from timing import one_core, ratios

one_core()

import jax
import jax.numpy as jnp
import numpyro
import optax
import pyro
import torch
from numpyro.infer.autoguide import AutoIAFNormal as NumPyroIAF
from pyro.infer.autoguide import AutoIAFNormal as PyroIAF

import ppl_flows as pf
from ppl_flows.numpyro import AutoFlow as NumPyroFlow
from ppl_flows.pyro import AutoFlow as PyroFlow

Y = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
SIGMA = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
STEPS = 50


def recipe(dim: int) -> pf.Bijection:
    return pf.iaf(dim, flow_layers=3, hidden=(dim, dim), activation="relu")


def in_pyro() -> dict[str, float]:
    import pyro.distributions as dist

    y, sigma = torch.tensor(Y), torch.tensor(SIGMA)

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    def steps(guide):
        adam = pyro.optim.Adam({"lr": 1e-3})
        svi = pyro.infer.SVI(model, guide, adam, pyro.infer.Trace_ELBO())
        return lambda: [svi.step() for _ in range(STEPS)]

    host = PyroIAF(model, hidden_dim=[10, 10], num_transforms=3)
    return ratios({"AutoIAFNormal": steps(host), "AutoFlow(iaf)": steps(PyroFlow(model, recipe))})


def in_numpyro() -> dict[str, float]:
    import numpyro.distributions as dist

    y, sigma = jnp.array(Y), jnp.array(SIGMA)

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    def steps(guide):
        svi = numpyro.infer.SVI(model, guide, optax.adam(1e-3), numpyro.infer.Trace_ELBO())
        state = svi.init(jax.random.key(0))
        run = jax.jit(lambda s: jax.lax.scan(lambda s, _: svi.update(s), s, length=20 * STEPS))
        return lambda: jax.block_until_ready(run(state))

    host = NumPyroIAF(model, num_flows=3, hidden_dims=[10, 10], nonlinearity=numpyro_relu())
    return ratios({"AutoIAFNormal": steps(host), "AutoFlow(iaf)": steps(NumPyroFlow(model, recipe))})


def numpyro_relu():
    from jax.example_libraries import stax

    return stax.Relu


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, run in (("Pyro", in_pyro), ("NumPyro", in_numpyro)):
        rows = run()
        print(f"{name:8}", "   ".join(f"{guide} {ratio:.2f}" for guide, ratio in rows.items()), flush=True)
