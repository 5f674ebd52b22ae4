"""Memory and time of one gradient of a deep stack of affine couplings under each ``remat``; prints markdown tables.

``python tests/benchmarks/memory.py``: D = 64, batch 4,096, hidden 128 x 128, float32, the scoring direction. Each line
is a process of its own. "kept" is what the forward pass leaves for the backward one, parameters not counted: in torch
the bytes that saved-tensor hooks see, in JAX the compiler's temporary buffers. "peak" is the resident memory of the
whole process at its highest, "before" the same before the first step: library, parameters and data. Parameters and
their gradients grow with depth under any remat. Times are CPU seconds over those of "none" in one process, interleaved.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

from timing import one_core

one_core()

import numpy as np

import ppl_flows as pf
from ppl_flows.combinators.stack import REMAT
from ppl_flows.core.params import flatten, map_params

DIM, BATCH, DEEP = 64, 4_096, 128
ROUNDS = 3


def stack(layers: int, remat: str) -> pf.Bijection:
    """A Chain in torch would do as well; a Repeat is what JAX compiles in constant time."""
    pair = pf.real_nvp(DIM, flow_layers=2, mask="halves", hidden=(128, 128))
    return pf.Repeat(pair, times=layers // 2, remat=remat)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Torch:
    def __init__(self, layers: int, remat: str) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.flow = torch, stack(layers, remat)
        params = self.flow.init(np.random.default_rng(0))
        self.params = map_params(lambda _, a: torch.tensor(a, dtype=torch.float32, requires_grad=True), params)
        self.y = torch.tensor(np.random.default_rng(1).standard_normal((BATCH, DIM)), dtype=torch.float32)

    def kept(self) -> float:
        """Of the forward pass, and the loss with its gradient is then taken from it."""
        own = {a.untyped_storage().data_ptr() for _, a in flatten(self.params)}
        sizes: dict[int, int] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with self.torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        loss.backward()
        return sum(sizes.values()) / 2**20

    def loss(self):
        x, log_det = self.flow.inverse(self.params, self.y)
        return (0.5 * (x * x).sum(-1) - log_det).mean()

    def step(self) -> None:
        for _, a in flatten(self.params):
            a.grad = None
        self.loss().backward()


class Jax:
    def __init__(self, layers: int, remat: str) -> None:
        import jax
        import jax.numpy as jnp

        self.jax, flow = jax, stack(layers, remat)
        params = flow.init(np.random.default_rng(0))
        self.params = map_params(lambda _, a: jnp.asarray(a, dtype=jnp.float32), params)
        self.y = jnp.asarray(np.random.default_rng(1).standard_normal((BATCH, DIM)), dtype=jnp.float32)

        def loss(params, y):
            x, log_det = flow.inverse(params, y)
            return jnp.mean(0.5 * jnp.sum(x * x, axis=-1) - log_det)

        self.compiled = jax.jit(jax.grad(loss)).lower(self.params, self.y).compile()

    def kept(self) -> float:
        self.step()
        return self.compiled.memory_analysis().temp_size_in_bytes / 2**20

    def step(self) -> None:
        self.jax.block_until_ready(self.compiled(self.params, self.y))


def child(language: str, layers: int, remat: str) -> dict[str, float]:
    one = {"torch": Torch, "jax": Jax}[language](layers, remat)
    before = megabytes()
    return {"kept": one.kept(), "before": before, "peak": megabytes()}


def measured(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def times(language: str) -> dict[str, float]:
    made = {remat: {"torch": Torch, "jax": Jax}[language](DEEP, remat) for remat in REMAT}
    seconds: dict[str, list[float]] = {remat: [] for remat in REMAT}
    for round_ in range(ROUNDS + 1):
        for remat, one in made.items():
            start = time.process_time()
            one.step()
            if round_:
                seconds[remat].append(time.process_time() - start)
    return {remat: float(np.median(np.divide(s, seconds["none"]))) for remat, s in seconds.items()}


def main() -> None:
    print("| language | layers | remat | kept (MiB) | before (MiB) | peak (MiB) | time, none = 1 |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for language in ("torch", "jax"):
        ratios = measured(language, "times")
        for layers in (8, DEEP):
            for remat in REMAT:
                row = measured(language, str(layers), remat)
                ratio = f"{ratios[remat]:.2f}" if layers == DEEP else ""
                cells = (language, layers, remat, f"{row['kept']:.1f}", f"{row['before']:.0f}", f"{row['peak']:.0f}")
                print("|", " | ".join(map(str, (*cells, ratio))), "|", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case [language, "times"]:
            print(json.dumps(times(language)))
        case [language, layers, remat]:
            print(json.dumps(child(language, int(layers), remat)))
