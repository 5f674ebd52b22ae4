"""Saves that are killed, that meet one another and that find no room: ``python tests/faults_of_saving.py``.

A process of its own, without torch and JAX: it forks, and it lowers its limits.
"""

import argparse
import os
import random
import resource
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

import ppl_flows as pf

FLOW = pf.LULinear(250)  # half a megabyte
PARAMS = FLOW.init(np.random.default_rng(0))


def save(path: Path, value: float) -> None:
    pf.save(path, FLOW, {name: np.full_like(a, value) for name, a in PARAMS.items()})


def value(path: Path) -> float:
    """What was saved; raises unless all of it came from one save."""
    params = pf.load(path)[1]
    found = {float(v) for a in params.values() for v in np.unique(a)}
    (only,) = found
    return only


def leftovers(folder: Path) -> int:
    return len(list(folder.iterdir())) - 1


def in_child(run) -> int:
    """Runs it in a forked process; its id."""
    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    return child


def kills(folder: Path, times: int) -> str:
    """Kill -9 of a process that saves all the time: the file is there whole, and a save leaves nothing of another."""
    path, rng, most, left = folder / "flow.safetensors", random.Random(0), 0, 0
    save(path, -1.0)

    def forever() -> None:
        while True:
            save(path, float(i))

    for i in range(times):
        child = in_child(forever)
        time.sleep(rng.uniform(0.005, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert value(path) in range(-1, i + 1)
        most, left = max(most, leftovers(folder)), left + leftovers(folder)
        assert most <= 1
    save(path, -2.0)
    assert value(path) == -2.0
    assert leftovers(folder) == 0
    return f"{times} kills: the file loaded after each; {left} partial files, never two at once; the next save: none"


def processes(folder: Path, times: int) -> str:
    """Two processes that save to one path at once."""
    path = folder / "flow.safetensors"
    save(path, -1.0)
    children = [in_child(lambda n=n: [save(path, float(n)) for _ in range(times)]) for n in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0]
    assert value(path) in (0.0, 1.0)
    assert leftovers(folder) == 0
    return f"2 processes x {times} saves: none failed, the file is whole, no partial file"


def no_room(folder: Path, times: int) -> str:
    """A limit to the size of files, which the new one exceeds."""
    path = folder / "flow.safetensors"
    save(path, -1.0)
    for n in range(times):
        resource.setrlimit(resource.RLIMIT_FSIZE, (random.Random(n).randrange(400_000), resource.RLIM_INFINITY))
        try:
            save(path, 1.0)
        except OSError:
            pass
        else:
            raise AssertionError("saved beyond the limit")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert value(path) == -1.0
        assert leftovers(folder) == 0
    return f"{times} saves beyond a limit of the size of files: an OSError each, the old file is kept, no partial file"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=400)
    args = parser.parse_args()
    for fault in (kills, processes, no_room):
        with tempfile.TemporaryDirectory() as folder:
            print(fault(Path(folder), args.times))


if __name__ == "__main__":
    main()
