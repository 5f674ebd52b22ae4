"""Fits of test_mesh.py, in a process that has several devices, alone or with others.

``python mesh_worker.py folder devices case ...`` writes ``{case}.{rank}.npz``; with MESH_RANK, MESH_RANKS and MESH_PORT
it is one of several processes, each with so many devices. With one device in all there is no mesh.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

folder, count, cases = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
rank, ranks = int(os.environ.get("MESH_RANK", "0")), int(os.environ.get("MESH_RANKS", "1"))
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)  # what Adam makes of rounding grows with every step
if ranks > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{os.environ['MESH_PORT']}", ranks, rank, heartbeat_timeout_seconds=10)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import ppl_flows as pf  # noqa: E402
from ppl_flows.numpyro import AutoFlow, AutoLocalFlow, compile_once, fit, fit_amortized, fit_density  # noqa: E402

DEVICES, ROWS = np.array(jax.devices()), 120
OPTIONS = {"steps": 40, "draws": 300, "check_modes": False, "progress": False, "tolerance": None}
DENSITY = {"steps": 60, "batch_size": 25, "lr": 0.03, "progress": False}
programs, compile_with = [], compile_once.compile_with
x = np.random.default_rng(0).normal(size=(ROWS, 3))
y = (x.sum(-1) > 0.3).astype(float)
table = np.stack([x[:, 0] + x[:, 1] + 0.1 * x[:, 2], x[:, 0], x[:, 1]], axis=-1)  # of dependent columns


def logistic(x, y, batch=None):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    with numpyro.plate("rows", ROWS, subsample_size=batch) as i:
        x, y = (x, y) if batch is None else (jnp.asarray(x)[i], jnp.asarray(y)[i])
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def intercepts(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    with numpyro.plate("rows", ROWS, subsample_size=20) as i:
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Bernoulli(logits=jnp.asarray(x)[i] @ w + a), obs=jnp.asarray(y)[i])


def simulator(y):
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(z, jnp.exp(-2 * z)).to_event(1), obs=y)


class StoppedError(Exception):
    """By a callback."""


def over(*names):
    """A mesh of all devices with these axes, two of the second; None, if there is but one."""
    shape = (-1,) if len(names) == 1 else (-1, 2)
    return Mesh(DEVICES.reshape(shape), names) if len(DEVICES) > 1 else None


def divided(array, mesh, axis):
    if mesh is None:
        return array
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, PartitionSpec(axis)), lambda i: array[i])


def of_fit(result):
    draws = result.sample(50)["w"]
    assert len(draws[0].devices()) == 1, "what a result gives is an array of this process"
    moved = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(result.params)]
    return {"losses": result.losses, "elbo": result.elbo.mean, "draws": draws, "params": np.concatenate(moved)}


def of_density(result):
    held = {} if result.validation_losses is None else {"held": result.validation_losses}
    return {"losses": result.losses, "scores": result.flow.log_prob(table[:5]), **held}


def train(mesh, *data, batch=None, num_particles=8, flow=pf.TriangularAffine, **options):
    guide = AutoFlow(logistic, flow, start="init")
    return fit(logistic, guide, *data, batch=batch, num_particles=num_particles, mesh=mesh, **OPTIONS, **options)


def particles():
    return of_fit(train(over("particles"), x, y, flow=lambda dim: pf.maf(dim, flow_layers=1, hidden=(8,))))


def uneven():
    return of_fit(train(over("particles"), x, y, num_particles=7))


def plate():
    return of_fit(train(over("rows"), x, y, batch=21, num_particles=2))


def local():
    guide = AutoLocalFlow(intercepts, "rows")
    return {"losses": fit(intercepts, guide, x, y, num_particles=1, mesh=over("rows"), **OPTIONS).losses}


def data():
    """Divided over all devices, and no mesh but theirs."""
    mesh = over("x")
    return of_fit(train(None, divided(x, mesh, "x"), divided(y, mesh, "x")))


def both():
    """Particles over one axis, data over the other."""
    mesh = over("particles", "x")
    return of_fit(train(mesh, divided(x, mesh, "x"), divided(y, mesh, "x")))


def density():
    return of_density(
        fit_density(pf.maf(3, flow_layers=1, hidden=(8,)), table[:101], mesh=over("rows"), validation=0.2, **DENSITY)
    )


def density_of_divided():
    return of_density(fit_density(pf.maf(3, flow_layers=1, hidden=(8,)), divided(table, over("x"), "x"), **DENSITY))


def encoded():
    def encoder(rows):
        return rows @ numpyro.param("encoder", jnp.ones((2, 2)))

    flow = pf.maf(1, context_dim=2, flow_layers=1, hidden=(8,))
    result = fit_density(flow, table[:101, :1], context=table[:101, 1:], encoder=encoder, mesh=over("rows"), **DENSITY)
    return {"losses": result.losses}


def amortized():
    options = {"simulations": None, "steps": 60, "batch_size": 100, "lr": 0.02, "progress": False, "flow": pf.maf}
    return {"losses": fit_amortized(simulator, np.zeros(2), mesh=over("rows"), **options).density.losses}


def ends_early():
    """A training that stops after three blocks, and leaves its file."""

    def stop(step, *_):
        if step == 6:
            raise StoppedError

    with suppress(StoppedError):
        train(over("particles"), x, y, checkpoint=folder / "training", checkpoint_every=0.0, callback=stop)
    return {}


def goes_on():
    return of_fit(train(over("particles"), x, y, checkpoint=folder / "training"))


def one_dies():
    def die(step, *_):
        if step == 6 and rank == 1:
            os._exit(3)

    train(over("particles"), x, y, callback=die)
    return {}


def cache():
    """Programs that were compiled, by fits on this mesh, again, on one of other devices, and again on the first."""
    first, other = over("particles"), Mesh(DEVICES[::-1], ("particles",))
    counts, losses = [], []
    for mesh in (first, first, other, first):
        programs.clear()
        losses.append(train(mesh, x, y).losses)
        counts.append(len(programs))
    with jax.set_mesh(first):
        programs.clear()
        losses.append(train(None, x, y).losses)
        counts.append(len(programs))
    return {"counts": counts, "all": losses}


def devices():
    """Where results are: of a second device by default, and of data on one."""
    second, found = jax.devices()[1], []
    for place, data in ((second, x), (None, jax.device_put(x, second))):
        with jax.default_device(place):
            result = train(None, data, jax.numpy.asarray(y))
            density = fit_density(pf.TriangularAffine(3), data[:40], **DENSITY)
            arrays = result.params, result.sample(3), density.params, density.flow.sample(jax.random.key(0), (3,))
            found += [device.id for leaf in jax.tree.leaves(arrays) for device in leaf.devices()]
    alone = train(None, x, y).losses
    return {"found": found, "second": second.id, "losses": result.losses, "alone": alone}


def refused():
    """What a mesh cannot divide, by the words of the errors."""
    words = []
    calls = [
        lambda: train(over("particles"), x, y, num_particles=1),
        lambda: train(over("particles"), divided(x, over("x"), "x"), y),
        lambda: fit_density(pf.TriangularAffine(3), divided(x, over("x"), "x"), mesh=over("rows"), **DENSITY),
    ]
    for call in calls:
        try:
            call()
        except ValueError as error:
            words.append(str(error))
    return {"words": words}


def plain():
    """The same fit with a mesh and without, and the flops that each device has of a step."""
    losses, flops = [], []
    for mesh in (None, over("particles")):
        programs.clear()
        losses.append(train(mesh, x, y).losses)
        flops.append(most_flops())
    return {"one": losses[0], "mesh": losses[1], "each": flops}


def most_flops():
    """Of the programs that were compiled, which are those of a step: of the loops' bodies, and of one device."""
    return max(map(flops_of, programs), default=0.0)


def flops_of(program):
    return program.cost_analysis()["flops"]


def keep(lowered, options):
    programs.append(compile_with(lowered, options))
    return programs[-1]


if __name__ == "__main__":
    compile_once.compile_with = keep
    for case in cases:
        programs.clear()
        numbers = globals()[case]()
        step = max(programs, key=flops_of, default=None)
        whole = step is not None and f"f64[{ROWS},3]" in step.as_text()  # whether it has all rows of the data at once
        np.savez(folder / f"{case}.{rank}.npz", flops=most_flops(), whole=whole, **numbers)
