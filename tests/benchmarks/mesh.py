"""What each device does in a step of a fit over 1, 2 and 4 devices, counted in the compiled programs.

``python tests/benchmarks/mesh.py`` prints, for every kind of division, the floating point operations of one step on one
device, and the bytes that one step sends through collectives. Nothing is timed: the devices are one machine's cores.
"""

import os
import re

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import ppl_flows as pf
from ppl_flows.numpyro import AutoFlow, compile_once, fit, fit_density

ROWS, DIM = 8_192, 16
COLLECTIVE = re.compile(r"= (.*) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(")
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}
programs, compile_with = [], compile_once.compile_with
x = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
y = (x.sum(-1) > 0).astype(np.float32)


def model(x, y, batch=None):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(DIM), 1.0).to_event(1))
    with numpyro.plate("rows", ROWS, subsample_size=batch) as i:
        x, y = (x, y) if batch is None else (jnp.asarray(x)[i], jnp.asarray(y)[i])
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def train(mesh, x, y, **options):
    guide = AutoFlow(model, start="init")
    fit(model, guide, x, y, mesh=mesh, steps=20, draws=64, check_modes=False, tolerance=None, progress=False, **options)


def particles(devices):
    train(Mesh(devices, ("particles",)), x, y, num_particles=64)


def data(devices):
    mesh = Mesh(devices, ("rows",))
    placed = [jax.device_put(array, NamedSharding(mesh, PartitionSpec("rows"))) for array in (x, y)]
    train(mesh, *placed, num_particles=64)


def plate(devices):
    train(Mesh(devices, ("rows",)), x, y, batch=4_096, num_particles=4)


def density(devices):
    fit_density(pf.nsf(DIM), x, batch_size=1_024, mesh=Mesh(devices, ("rows",)), steps=20, progress=False)


def keep(lowered, options):
    programs.append(compile_with(lowered, options))
    return programs[-1]


def sent(program):
    """Bytes of all results of collectives; those of a loop's body once."""
    shapes = [
        shape for kind in COLLECTIVE.findall(program.as_text()) for shape in re.findall(r"(\w+)\[([\d,]*)\]", kind)
    ]
    return sum(BYTES[kind] * int(np.prod([int(n) for n in sizes.split(",") if n])) for kind, sizes in shapes)


if __name__ == "__main__":
    compile_once.compile_with = keep
    print("| | devices | million operations of a step, each device | of one | KB through collectives |")
    print("|---|---|---|---|---|")
    for case in (particles, data, plate, density):
        alone = 0.0
        for count in (1, 2, 4):
            programs.clear()
            case(np.array(jax.devices()[:count]))
            step = max(programs, key=lambda program: program.cost_analysis()["flops"])
            flops, moved = step.cost_analysis()["flops"], sent(step)
            alone = alone or flops
            print(f"| {case.__name__} | {count} | {flops / 1e6:.2f} | {flops / alone:.0%} | {moved / 1e3:.1f} |")
