"""Warnings that show the user's line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

PACKAGE = f"{Path(__file__).parents[1]}/"


def warn_user(message: str) -> None:
    """A UserWarning at the line outside of this package that has led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
