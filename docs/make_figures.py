"""Runs the code of ``docs/plots.md`` and keeps each figure that the page shows."""

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import torch
from PIL import Image

PAGE = Path(__file__).with_name("plots.md")
DOTS, COLOURS = 90, 160  # per inch; a palette keeps the files small


def draw(folder: Path, *, most_steps: int | None = None) -> list[Path]:
    """The figures of the page, written to a folder: each is what the code block above it leaves.

    Args:
        most_steps: of every training, for a quick look; None: as on the page.
    """
    torch.set_num_threads(1)  # the same sums everywhere
    names: dict = {}
    paths = []
    for block, name in re.findall(
        r"```python\n(.*?)```(?:\n\n!\[[^\]]*\]\(figures/(\w+\.png)\))?", PAGE.read_text(), re.S
    ):
        code = block if most_steps is None else re.sub(r"steps=\d+", f"steps={most_steps}", block)
        torch.manual_seed(0)
        exec(code, names)
        if name:
            paths.append(folder / name)
            plt.gcf().savefig(paths[-1], dpi=DOTS)
            Image.open(paths[-1]).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
                paths[-1], optimize=True
            )
        plt.close("all")
    return paths


if __name__ == "__main__":
    figures = PAGE.with_name("figures")
    figures.mkdir(exist_ok=True)
    for path in draw(figures):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
