"""One training step (forward, backward, Adam) of ours and of others, as a multiple of the bare matrix products.

    python tests/benchmarks/training_step.py            # everything, about 25 minutes
    python tests/benchmarks/training_step.py --flows maf --dims 8 --languages jax

Maximum likelihood on a batch of 512 in float32, conditioners of 128 x 128 units with ReLU: five MAF layers, five
couplings of rational-quadratic splines (8 bins on [-5, 5]), eight affine couplings. Every variant has a process of its
own on one core and takes its turn of 0.2 s, round after round; numbers are medians of CPU seconds. ``floor``: the
matrix products of the same networks and of their gradients, in the same framework, and nothing else. ``networks``: the
plain networks, trained by the framework's own gradient and Adam, with no flow. ``ppl_flows`` is our log density in the
same loop as the others, ``ppl_flows fit`` are the steps of ``fit_density``.
"""

import argparse
import statistics
import sys
from pathlib import Path

from timing import Contestant, one_core, serve

FLOWS, DIMS, BATCH, HIDDEN, BINS, BOUND = ("maf", "nsf", "rnvp"), (8, 64), 512, (128, 128), 8, 5.0
LAYERS = {"maf": 5, "nsf": 5, "rnvp": 8}
NAMES = {
    "torch": (
        "floor",
        "networks",
        "ppl_flows",
        "ppl_flows fit",
        "ppl_flows fit, jit",
        "ppl_flows fit, inductor",
        "pyro",
        "zuko",
        "zuko, torch.compile",
        "nflows",
        "normflows",
    ),
    "jax": ("floor", "networks", "ppl_flows", "ppl_flows fit", "numpyro", "flowjax", "distrax"),
}
ABSENT = {  # flows that these libraries have not; zuko is compiled where that helps it most
    ("numpyro", "nsf"),
    ("numpyro", "rnvp"),
    ("distrax", "maf"),
    ("zuko, torch.compile", "maf"),
    ("zuko, torch.compile", "rnvp"),
}


def sizes(flow: str, dim: int) -> tuple[int, ...]:
    """Widths of one conditioner, from its input to its output."""
    half = dim // 2
    return {
        "maf": (dim, *HIDDEN, 2 * dim),
        "nsf": (half, *HIDDEN, half * (3 * BINS - 1)),
        "rnvp": (half, *HIDDEN, 2 * half),
    }[flow]


def table(language: str, flow: str, dim: int, names: tuple[str, ...], rounds: int) -> list[str]:
    """Rows of the table of one flow; what is not installed is told on stderr."""
    command = [str(Path(__file__)), "--serve"]
    running = {name: Contestant([*command, language, name, flow, str(dim)]) for name in names}
    first, steps, peak = {}, {name: [] for name in names}, {}
    for name in names:
        answer = running[name].ask()
        if "missing" in answer:
            print(f"{name}: {answer['missing']}", file=sys.stderr)
            running.pop(name).end()
        else:
            first[name] = answer["first"]
    for i in range(rounds):
        for name in list(running)[:: 1 if i % 2 == 0 else -1]:
            answer = running[name].ask()
            steps[name].append(answer["step"])
            peak[name] = answer["peak"]
    for contestant in running.values():
        contestant.end()
    medians = {name: statistics.median(steps[name]) for name in running}
    return [
        f"| {flow} | {dim} | {language} | {name} | {median / medians['floor']:.2f} | {1e3 * median:.1f} | "
        f"{first[name]:.1f} | {peak[name] / 2**20:.0f} |"
        for name, median in medians.items()
    ]


def main(flows: list[str], dims: list[int], languages: list[str], names: list[str] | None, rounds: int) -> None:
    print("| flow | dim | language | | ratio to floor | ms | first step, s | peak, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for flow in flows:
        for dim in dims:
            for language in languages:
                there = [n for n in NAMES[language] if (n, flow) not in ABSENT]
                wanted = tuple(n for n in there if n == "floor" or not names or n in names)
                print("\n".join(table(language, flow, dim, wanted, rounds)), flush=True)


def build(language: str, name: str, flow: str, dim: int):
    if language == "torch":
        import training_step_torch as steps
    else:
        import training_step_jax as steps
    return steps.VARIANTS[name](flow, dim)


if __name__ == "__main__":
    one_core()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", nargs="+", default=FLOWS, choices=FLOWS)
    parser.add_argument("--dims", nargs="+", type=int, default=DIMS)
    parser.add_argument("--languages", nargs="+", default=tuple(NAMES), choices=tuple(NAMES))
    parser.add_argument("--names", nargs="+", help="some variants only; the floor is always there")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    served = options.pop("serve")
    if served:
        language, name, flow, dim = served
        serve(lambda: build(language, name, flow, int(dim)), seconds=0.2)
    else:
        main(**options)
