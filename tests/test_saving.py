"""A file is written whole or not at all, whoever else writes it, and whatever happens on the way."""

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ppl_flows as pf

FLOW = pf.LULinear(30)
HERE = Path(__file__).parent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.safetensors"


def save(path, value):
    pf.save(path, FLOW, {"lu": np.full((30, 30), value), "b": np.full(30, value)})


def value(path):
    """What was saved; fails unless all of it came from one save."""
    found = {float(v) for a in pf.load(path)[1].values() for v in np.unique(a)}
    assert len(found) == 1
    return found.pop()


def test_of_threads_that_save_to_one_path_the_last_one_wins_and_none_fails(path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: save(path, float(n)), range(100)))
    assert value(path) in range(100)
    assert os.listdir(path.parent) == [path.name]


def test_saves_survive_kills_other_processes_and_limits():
    """400 of each by ``python tests/faults_of_saving.py``."""
    command = [sys.executable, HERE / "faults_of_saving.py", "--times", "20"]
    here = os.environ | {"PYTHONPATH": str(HERE.parent)}  # the package beside these tests
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
    assert done.returncode == 0, done.stderr
    assert "20 kills: the file loaded after each" in done.stdout


def test_on_a_full_disk_the_old_file_is_kept(path, monkeypatch):
    save(path, 1.0)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # where systems that write late say so
    with pytest.raises(OSError, match="No space left"):
        save(path, 2.0)
    assert value(path) == 1.0
    assert os.listdir(path.parent) == [path.name]


def test_what_was_left_behind_goes_and_what_is_in_use_stays(path):
    save(path, 1.0)
    prefix = next(name for name in names_while_saving(path) if name != path.name)
    left, others = path.parent / prefix, path.parent / ".other.safetensors.00000000.1.partial"
    left.write_bytes(b"half")
    others.write_bytes(b"of another path")
    save(path, 2.0)
    assert sorted(os.listdir(path.parent)) == sorted([path.name, others.name])


def names_while_saving(path):
    """What lies beside the file in the middle of a save."""
    found = []
    original = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (found.extend(os.listdir(path.parent)), original(descriptor)))
        save(path, 1.5)
    return found


def test_a_save_in_the_middle_of_another_leaves_its_file_alone(path, monkeypatch):
    original, inside = os.fsync, []

    def fsync(descriptor):
        if not inside:
            inside.append(True)
            save(path, 2.0)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save(path, 1.0)
    assert value(path) == 1.0  # which ends last


def test_the_mode_follows_the_umask(path):
    old = os.umask(0o027)
    try:
        save(path, 1.0)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_long_names_and_missing_folders(path):
    long = path.parent / ("é" * 120 + ".safetensors")
    save(long, 1.0)
    assert value(long) == 1.0
    with pytest.raises(FileNotFoundError):
        save(path.parent / "absent" / "flow.safetensors", 1.0)
