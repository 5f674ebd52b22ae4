"""What a fit shows while it works: a bar of its steps, and a line of words for what it does besides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm


def steps_bar(steps: int, num_particles: int, *, progress: bool) -> Any:
    """A bar of so many steps, with the time that is left, from the first of them on; in a terminal or notebook."""
    words = "fit" if num_particles == 1 else f"fit, {num_particles} draws a step"
    return tqdm(total=steps, disable=None if progress else True, desc=words)


@contextmanager
def stage(words: str, *, progress: bool) -> Iterator[None]:
    """A line with the time, for as long as it takes."""
    words = f"fit: {words}"
    with tqdm(total=1, disable=None if progress else True, desc=words, bar_format="{desc} [{elapsed}]", leave=False):
        yield
