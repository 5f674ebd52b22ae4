"""Mutated files: each loads or is a ``FileFormatError``, soon and in little memory.

``python tests/fuzz_files.py --cases 10000``, or ``make fuzz``.
"""

import argparse
import copy
import faulthandler
import json
import random
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import foreign_flows  # noqa: F401  registers its classes, some of which are in files

import ppl_flows as pf

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*/*.safetensors"))
DESCRIPTIONS = ("bijection", "base", "fit", "density", "amortized", "prior")  # in the metadata
SECONDS, MEGABYTES = 1.0, 200
NUMBERS = (0, -1, 1, 3, 127, 10**4, 10**5, 10**6, 10**7, 10**9, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"))
OTHERS = (
    None,
    True,
    "",
    "halves",
    "x" * 10**5,
    [],
    [[]],
    [10**9] * 3,
    [10**3] * 3,
    list(range(10**4)),
    {},
    {"class": []},
)
NAMES = [name for name in pf.__all__ if name[0].isupper()]


def taken_apart(data: bytes) -> tuple[dict, bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def put_together(header: dict | str, arrays: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + arrays


def places(value, found=None) -> list:
    """Every (container, key) of a description."""
    found = [] if found is None else found
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            places(value[key], found)
    return found


def with_flipped_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    end = len(data) if rng.random() < 0.2 else 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(end)] = rng.randrange(256)
    return bytes(changed)


def with_another_length(data: bytes, rng: random.Random) -> bytes:
    n = rng.choice((0, 1, 7, 8, 9, rng.randrange(len(data)), len(data) - 1))
    return data[:n] if rng.random() < 0.8 else data + bytes(n)


def with_another_array(data: bytes, rng: random.Random) -> bytes:
    header, arrays = taken_apart(data)
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return put_together({**header, "x": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 0]}}, arrays)
    name = rng.choice(names)
    entry = header.pop(name)
    if rng.random() < 0.5:
        name = rng.choice((f"{name}.x", name.split(".")[0], "state", "", "." * 10**4, f"x.{name}", rng.choice(names)))
    else:
        key = rng.choice(("dtype", "shape", "data_offsets"))
        entry[key] = {
            "dtype": rng.choice(("F64", "I32", "BF16", "F8_E4M3", "BOOL", "C64", "x", None)),
            "shape": rng.choice(([], [0, 10**18], [10**9, 10**9], [1] * 100, entry["shape"][::-1], [-1])),
            "data_offsets": rng.choice(([0, 0], [0, 10**12], [4, 0], entry["data_offsets"][:1], [2**64, 0])),
        }[key]
    header[name] = entry
    return put_together(header, arrays)


def with_another_field(data: bytes, rng: random.Random, times: int = 1) -> bytes:
    header, arrays = taken_apart(data)
    which = rng.choice([name for name in DESCRIPTIONS if name in header["__metadata__"]])
    text = header["__metadata__"][which]
    for _ in range(times):
        whole = [json.loads(text)]
        change(whole, rng)
        text = json.dumps(whole[0])
        if len(text) > 10**5:
            break
    header["__metadata__"][which] = text
    return put_together(header, arrays)


def with_other_fields(data: bytes, rng: random.Random) -> bytes:
    return with_another_field(data, rng, times=rng.randrange(2, 6))


def change(description, rng: random.Random) -> None:
    container, key = rng.choice(places(description))
    old = container[key]
    if isinstance(old, bool | int | float) and rng.random() < 0.7:
        container[key] = rng.choice(NUMBERS)
    elif isinstance(old, int | float) and rng.random() < 0.5:
        container[key] = old * rng.choice((2, 1000, 10**6, 10**9))
    elif isinstance(old, list) and old and rng.random() < 0.7:
        container[key] = old * copies(old, rng.choice((2, 30, 1000, 20000)))
    elif isinstance(old, dict) and rng.random() < 0.7:
        container[key] = wrap(old, rng)
    elif key == "class":
        container[key] = rng.choice(NAMES)
    elif isinstance(container, dict) and rng.random() < 0.2:
        del container[key]
    else:
        other, k = rng.choice(places(description))
        container[key] = copy.deepcopy(rng.choice((*OTHERS, *NUMBERS, other[k])))


def copies(value, n: int) -> int:
    """n, or as many as make a description that is just too long."""
    return min(n, 5 * 10**6 // len(json.dumps(value)) + 1)


def wrap(part: dict, rng: random.Random) -> dict:
    n = rng.choice((2, 50, 1000, 10**5, 10**6, 10**9))
    kind = rng.choice(("Inverse", "Frozen", "Chain", "Repeat", "Batched", "Partial", "PerPixel", "MultiScale"))
    fields = {"Repeat": {"times": n}, "Batched": {"batch": [n]}, "PerPixel": {"height": n, "width": n}}
    fields["Partial"] = {"dim": n, "index": list(range(min(n, 3)))}
    if kind in ("Chain", "MultiScale"):
        return {"class": kind, {"Chain": "parts", "MultiScale": "scales"}[kind]: [part] * copies(part, n)}
    for _ in range(rng.choice((1, 1, 1, 10, 60, 300))):
        part = {"class": kind, "part": part, **fields.get(kind, {})}
    return part


MUTATIONS = (with_flipped_bytes, with_another_length, with_another_array, with_another_field, with_other_fields)
WEIGHTS = (1, 1, 2, 4, 2)


def fuzz(path: Path, cases: int, seed: int) -> tuple[Counter, float, str]:
    """Outcomes of so many mutated files, the longest processor time of one in seconds, and which that was.

    Raises:
        Exception: what came through that is no ``FileFormatError``.
    """
    outcomes, longest, slowest = Counter(), 0.0, ""
    for i in range(cases):
        rng = random.Random(f"{seed} {i}")
        golden = rng.choice(GOLDEN)
        mutation = rng.choices(MUTATIONS, WEIGHTS)[0]
        path.write_bytes(mutation(golden.read_bytes(), rng))
        start = time.process_time()
        try:
            pf.load(path)
            outcomes["loaded"] += 1
        except pf.FileFormatError as error:
            outcomes["refused" if error.path == str(path) else "refused without its path"] += 1
        except BaseException as error:
            error.add_note(f"case {i} of seed {seed}: {mutation.__name__} of {golden}, kept as {path}")
            raise
        took = time.process_time() - start
        if took > longest:
            longest, slowest = took, f"case {i}: {mutation.__name__} of {golden.name}"
    return outcomes, longest, slowest


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    faulthandler.dump_traceback_later(1200, exit=True)
    for golden in GOLDEN:  # what honest files need is there before the measurement
        pf.load(golden)
    before, folder = peak_megabytes(), tempfile.mkdtemp()
    outcomes, longest, slowest = fuzz(Path(folder) / "case.safetensors", args.cases, args.seed)
    grown = peak_megabytes() - before
    print(f"{args.cases} files: {dict(outcomes)}; memory grew by {grown:.0f} MB")
    print(f"the slowest took {longest:.2f} s ({slowest})")
    if longest > SECONDS or grown > MEGABYTES:
        raise SystemExit(f"more than {SECONDS} s or {MEGABYTES} MB")


if __name__ == "__main__":
    main()
