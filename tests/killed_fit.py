"""A fit that is killed again and again: ``killed_fit.py KIND KILLS FOLDER``, a process of its own.

Every attempt is a process that is killed at another moment by SIGKILL; the last goes to the end, and so does one that
nothing stops. Prints, as JSON, the steps in the file after every kill, and whether the two ends have the same numbers.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from functools import partial

import numpy as np

import ppl_flows as pf

STEPS = 200
COMMON = {
    "steps": STEPS,
    "num_particles": 4,
    "draws": 10,
    "tolerance": None,
    "checkpoint_every": 0,
    "progress": False,
}


def network(dim):
    return pf.iaf(dim, flow_layers=1, hidden=(8, 8))


def fit_in_pyro(checkpoint, callback, auto=None, optimizer=None, **options):
    import pyro
    import torch

    import ppl_flows.pyro as shell

    def model():
        pyro.sample("z", pyro.distributions.MultivariateNormal(torch.tensor([3.0, -3.0]), torch.eye(2) + 0.9))

    pyro.clear_param_store()

    def guide():
        pyro.sample("z", shell.flow("q", pf.Elementwise(2)))

    if auto:
        guide = shell.AutoFlow(model, auto, start="init")
    common = {**COMMON, "checkpoint": checkpoint, "callback": callback, "optimizer": optimizer and optimizer()}
    result = shell.fit(model, guide, **common, **options)
    return [result.losses, *(p.numpy() for p in result.params.values())]


def fit_in_numpyro(checkpoint, callback, auto=None, optimizer=None, **options):
    import jax
    import jax.numpy as jnp
    import numpyro

    import ppl_flows.numpyro as shell

    def model():
        numpyro.sample("z", numpyro.distributions.MultivariateNormal(jnp.array([3.0, -3.0]), jnp.eye(2) + 0.9))

    def guide():
        numpyro.sample("z", shell.flow("q", pf.Elementwise(2)))

    if auto:
        guide = shell.AutoFlow(model, auto, start="init")
    common = {**COMMON, "checkpoint": checkpoint, "callback": callback, "optimizer": optimizer and optimizer()}
    result = shell.fit(model, guide, **common, **options)
    return [result.losses, *map(np.asarray, jax.tree.leaves(result.params))]


def density(shell_name, checkpoint, callback):
    import importlib

    shell = importlib.import_module(f"ppl_flows.{shell_name}")
    data = np.random.default_rng(0).standard_t(3, (300, 2)).astype(np.float32)
    if shell_name == "pyro":
        import torch

        data = torch.from_numpy(data)
    fitted = shell.fit_density(
        pf.maf(2, flow_layers=1, hidden=(8,)),
        data,
        base=pf.StudentT(2),
        steps=STEPS,
        batch_size=50,
        validation=0.2,
        checkpoint=checkpoint,
        checkpoint_every=0,
        callback=callback,
        progress=False,
    )
    leaves = [np.asarray(a) for _, a in pf.core.params.flatten(fitted.params)]
    return [fitted.losses, fitted.validation_losses, *leaves]


def pyro_optim():
    import pyro

    return pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.999})


def torch_optim():
    import torch

    return partial(torch.optim.AdamW, lr=1e-2)


def optax_adam():
    import optax

    return optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))


KINDS = {
    "pyro": fit_in_pyro,
    "pyro jit": partial(fit_in_pyro, auto=network, compile="jit"),
    "pyro pyro.optim": partial(fit_in_pyro, optimizer=pyro_optim),
    "pyro torch.optim": partial(fit_in_pyro, optimizer=torch_optim),
    "pyro density": partial(density, "pyro"),
    "numpyro": fit_in_numpyro,
    "numpyro network": partial(fit_in_numpyro, auto=network, anneal=0.1),
    "numpyro optax": partial(fit_in_numpyro, optimizer=optax_adam),
    "numpyro density": partial(density, "numpyro"),
}


def in_child(fit, checkpoint, results):
    """The id of a process that fits, not too fast to be killed, and then once more, without a file."""
    child = os.fork()
    if child:
        return child
    try:
        np.savez(results[0], *fit(checkpoint, lambda *_: time.sleep(0.03)))
        np.savez(results[1], *fit(None, None))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait_for_write(path, before, child):
    while identity(path) == before:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


def identity(path):
    return os.stat(path).st_ino if os.path.exists(path) else None


def steps_in(path):
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        training = json.loads(file.metadata()["checkpoint"])["training"]["dict"]
        return len(file.get_tensor(dict(training)["losses"]["array"]))


def main(kind, kills, folder):
    language = kind.split()[0]  # imported once, before the first fork; no framework runs anything in this process
    __import__(f"ppl_flows.{language}")
    if language == "pyro":
        import torch._dynamo

        torch.set_num_threads(1)
    fit, path, results = KINDS[kind], f"{folder}/fit.ck", [f"{folder}/resumed.npz", f"{folder}/whole.npz"]
    draws, steps = random.Random(kind), []
    for _ in range(kills):
        before = identity(path)
        child = in_child(fit, path, results)
        wait_for_write(path, before, child)
        time.sleep(draws.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it was at its end before it was killed"
        steps.append(steps_in(path))
    _, status = os.waitpid(in_child(fit, path, results), 0)
    assert status == 0, status
    with np.load(results[0]) as a, np.load(results[1]) as b:
        same = a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)
    print(json.dumps({"steps": steps, "same": same}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
