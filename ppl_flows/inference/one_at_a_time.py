"""One thread at a time runs models: both hosts keep one stack of handlers, and one parameter store, per process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_lock = threading.RLock()
P = ParamSpec("P")
R = TypeVar("R")


def one_at_a_time(f: Callable[P, R]) -> Callable[P, R]:
    """f, which waits until no other thread is in a function made by this."""

    @wraps(f)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with _lock:
            return f(*args, **kwargs)

    return locked
