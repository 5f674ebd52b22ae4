"""The same rows, on disk and from iterables, in all the ways that ``fit_density`` takes them."""

from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import h5py
import numpy as np
import torch

import ppl_flows as pf

FLOW = pf.maf(3, flow_layers=1, hidden=(8,))
SHORT = {"steps": 60, "batch_size": 50, "lr": 2e-2, "progress": False}


def table(n, seed=0):
    z = np.random.default_rng(seed).standard_normal((n, 3)).astype(np.float32)
    return np.stack([z[:, 0], z[:, 1] * 0.3 + z[:, 0], 5 + 2 * z[:, 2]], -1)


ROWS = table(1_000)


class Dataset:
    """Map-style, without torch; it notes which rows were asked for."""

    def __init__(self, *arrays):
        self.arrays, self.asked = arrays, []

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, i):
        self.asked.append(i)
        row = tuple(a[i] for a in self.arrays)
        return row if len(row) > 1 else row[0]


class Batches:
    """Iterated again and again, in batches of uneven sizes, one of them without rows."""

    def __init__(self, *arrays):
        self.arrays, self.passes = arrays, 0

    def __iter__(self):
        self.passes += 1
        ends = np.cumsum([7, 0, 150, 1, 90] * 1_000)
        for first, last in zip([0, *ends], ends, strict=False):
            batch = tuple(a[first:last] for a in self.arrays)
            yield batch if len(batch) > 1 else batch[0]
            if last >= len(self.arrays[0]):
                return


def memory_map(array, path):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def in_hdf5(array, path):
    with h5py.File(path, "w") as file:
        file["rows"] = array
    return h5py.File(path, "r")["rows"]


def raw_memory_map(array, path):
    array.tofile(path)
    return np.memmap(path, array.dtype, "r", shape=array.shape)


def loader(*arrays, **options):
    tensors = torch.utils.data.TensorDataset(*map(torch.as_tensor, arrays))
    return torch.utils.data.DataLoader(tensors, **{"batch_size": 33} | options)


NUMBERED = {
    "raw memory map": raw_memory_map,
    "HDF5": in_hdf5,
    "own dataset": lambda array, _: Dataset(array),
    "torch dataset": lambda array, _: torch.utils.data.TensorDataset(torch.as_tensor(array)),
}
ITERATED = {
    "torch loader": loader,
    "function": lambda array: lambda: iter(Batches(array)),
    "generator": lambda array: iter(Batches(np.concatenate([array] * 40))),
    "loader of an iterable dataset": lambda array: torch.utils.data.DataLoader(Streamed(array), batch_size=20),
}


class Streamed(torch.utils.data.IterableDataset):
    def __init__(self, array):
        self.array = array

    def __iter__(self):
        return iter(self.array)


def anonymous_memory():
    """MiB of this process that are no pages of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


@contextmanager
def peak_of_memory():
    """A list that in the end has how many MiB more there were at some time than at first."""
    start, done, found = anonymous_memory(), Event(), []

    def look():
        peak = start
        while not done.wait(0.005):
            peak = max(peak, anonymous_memory())
        found.append(peak - start)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join(timeout=60)
