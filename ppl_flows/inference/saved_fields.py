"""The fields of a saved fit that JSON holds as they are."""

from __future__ import annotations

from typing import Any

from ppl_flows.inference.evidence import Evidence
from ppl_flows.inference.kl_estimate import ModesSeen

# name, and kind
PLAIN: dict[str, tuple[type, ...]] = {
    "skipped": (int,),
    "interrupted": (bool,),
    "elbo": (list, float),
    "kl": (list, float),
    "khat": (float,),
    "ess": (float,),
    "log_evidence": (Evidence,),
    "missed": (float,),
    "doubt": (str,),
    "modes": (ModesSeen,),
    "verdict": (str,),
    "start": (str,),
    "quality": (str,),
    "seed": (int,),
    "prefix": (str, type(None)),
    "num_particles": (int,),
    "vectorized": (bool,),
    "language": (str,),
    "versions": (dict, str),
}


def as_kind(name: str, value: Any) -> Any:
    """A field as JSON gave it, as what it should be.

    Raises:
        ValueError, TypeError: it is of another kind.
    """
    kind, *inner = PLAIN[name]
    if kind is list:
        first, second = value
        return _float(first), _float(second)
    if kind is float:
        return _float(value)
    if kind is Evidence:
        mean, se, method = value
        return Evidence(_float(mean), _float(se), str(method))
    if kind is ModesSeen:
        words, missed, unclear = value
        return ModesSeen(str(words), _float(missed), unclear=bool(unclear))
    if kind is dict:
        return {str(k): str(v) for k, v in value.items()}
    if not isinstance(value, (kind, *inner)):
        raise ValueError(f"{name} should be of type {kind.__name__}, got {value!r:.100}.")
    return value


def _float(value: Any) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r:.100}.")
    return float(value)
