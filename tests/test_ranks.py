"""Fits in Pyro over several processes: the numbers of one process, and no process that ends alone."""

import os
import random
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rank_worker import CASES, TROUBLE, run

WORKER = str(Path(__file__).parent / "rank_worker.py")
SECONDS = 400  # that all processes of a launch may take, on a busy machine
STEPS = 40


def launch(count, folder, *cases, torchrun=False, **variables):
    """The exit codes and outputs of so many processes that run these cases."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables  # a torchrun has one
    environment = {name: value for name, value in environment.items() if name not in ("RANK", "WORLD_SIZE")}
    options, own = [sys.executable, "-W", "ignore"], [WORKER, str(folder), *cases]
    if torchrun:
        runs = [([*options, "-m", "torch.distributed.run", f"--nproc-per-node={count}", *own], {})]
    elif count == 1:
        runs = [([*options, *own], {})]
    else:
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
        runs = [([*options, *own], {"RANK": str(rank), **group}) for rank in range(count)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(run, env=environment | more, **pipes) for run, more in runs]
    try:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def ran(*launched):
    codes, outputs = launched
    assert not any(codes), outputs


def numbers(folder, case, rank=0):
    with np.load(folder / f"{case}.{rank}.npz") as file:
        return [file[name] for name in file.files]


def error(folder, case, rank):
    return (folder / f"{case}.{rank}.txt").read_text()


def check_same(one, folder, case, count):
    """As in one process, and to the bit in all of several."""
    alone, shared = numbers(one, case), numbers(folder, case)
    losses = alone[0]
    assert len(losses) == len(shared[0])
    # single precision, in which gradients are added up in another order
    np.testing.assert_allclose(shared[0], losses, rtol=1e-5, atol=1e-5)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) or case == "particles"  # which starts at the posterior
    for rank in range(1, count):
        for a, b in zip(numbers(folder, case, rank), shared, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A folder with the numbers of one process."""
    folder = tmp_path_factory.mktemp("one")
    ran(*launch(1, folder, *CASES, "never killed"))
    return folder


def test_two_processes_take_the_steps_of_one(tmp_path, monkeypatch):
    """A sub-sampled plate in shares that are not equal, started as users do."""
    ran(*launch(2, tmp_path, "plate", torchrun=True))
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    run("plate")
    check_same(tmp_path / "one", tmp_path, "plate", 2)


@pytest.mark.distributed
@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_has_the_losses_of_one(count, one, tmp_path):
    """Particles and rows, vectorised or not, noise of several kinds, other losses and optimisers, and early ends."""
    ran(*launch(count, tmp_path, *CASES))
    for case in CASES:
        check_same(one, tmp_path, case, count)
    assert len(numbers(one, "early")[0]) < 600


ERRORS = {  # of both processes, or of the others where one failed
    "model": "process 1 of 2 failed, so this one ends, too. OwnError: this process alone",
    "first step": "process 1 of 2 failed",
    "start": "process 1 of 2 failed",
    "callback": "process 1 of 2 failed",
    "seeds": "RankError: all processes of a group make the same call.*seed was 0, is 1",
    "data": "RankError: .*data has other values",
    "hidden data": "ValueError: the loss of the first step is",
    "nan": "FitError: the loss or its gradient is not finite since step",
    "branches": "RankError: the random generators of the processes are not the same",
    "dependent": "ValueError: random numbers by torch's 'bernoulli' depend on values",
    "nothing to share": "ValueError: there is nothing to share among 2 processes: 3 particles are fewer than 4",
    "too few rows": "ValueError: plate 'rows' has 1 rows in a step, too few for 2 processes",
    "batch statistics": "ValueError: the loss of the first step is",
    "no mean": "ValueError: loss=RenyiELBO",
    "modes": "ValueError: fit: an AutoFlow with several modes",
    "strict": "CompileError: .*several processes",
}
ALONE = ("model", "first step", "start", "callback")


@pytest.mark.distributed
def test_an_error_in_one_process_is_one_in_all(tmp_path):
    """And they go on together afterwards."""
    assert set(TROUBLE) - set(ERRORS) == {"afterwards", "killed", "never killed", "interrupted", "no group"}
    ran(*launch(2, tmp_path, *ERRORS, "afterwards"))
    for case, text in ERRORS.items():
        for rank in (0,) if case in ALONE else (0, 1):
            found = error(tmp_path, case, rank)
            assert re.search(text, found), (case, rank, found)
        if case in ALONE:
            assert error(tmp_path, case, 1) == "OwnError: this process alone"
    np.testing.assert_array_equal(numbers(tmp_path, "afterwards")[0], numbers(tmp_path, "afterwards", 1)[0])


@pytest.mark.distributed
@pytest.mark.parametrize("counts", [(2, 4), (4, 1)])
def test_a_killed_process_ends_all_and_another_number_goes_on(counts, one, tmp_path):
    """At a random step: the fit of the resumed is that of one process that nothing stopped."""
    kill_at = random.Random(str(counts)).randrange(15, STEPS)
    codes, _ = launch(counts[0], tmp_path, "killed", KILL_AT=str(kill_at))
    assert codes[1] == -9
    for rank in (0, *range(2, counts[0])):
        assert "has lost another one, which ended" in error(tmp_path, "killed", rank)
    assert (tmp_path / "fit.ck").exists()
    ran(*launch(counts[1], tmp_path, "killed"))
    for a, b in zip(numbers(tmp_path, "killed"), numbers(one, "never killed"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.distributed
def test_torchrun_ends_with_a_process_that_is_killed(tmp_path):
    codes, outputs = launch(2, tmp_path, "killed", torchrun=True, KILL_AT="20")
    assert codes[0]
    assert "SIGKILL" in outputs[0]


@pytest.mark.distributed
def test_the_script_of_the_page_runs(tmp_path):
    page = Path(__file__).parent.parent / "docs" / "many_processes.md"
    script = tmp_path / "script.py"
    script.write_text(re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL).group(1))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout.count("FitResult") == 1


@pytest.mark.distributed
def test_an_interrupt_of_one_process_ends_all_after_the_same_step(tmp_path):
    ran(*launch(2, tmp_path, "interrupted"))
    (first, measure, *_), (second, *_) = (numbers(tmp_path, "interrupted", rank) for rank in (0, 1))
    assert len(first) == 21  # one step after the callback
    assert measure[-1] == 1, "the result says so"
    np.testing.assert_array_equal(first, second)


@pytest.mark.distributed
def test_without_a_group_each_process_fits_by_itself_and_says_so(tmp_path):
    folder = tmp_path
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", WORKER, str(folder), "no group"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert "put torch.distributed.init_process_group() before it" in done.stderr
    np.testing.assert_array_equal(numbers(folder, "no group")[0], numbers(folder, "no group", 1)[0])
