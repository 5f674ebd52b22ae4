"""What a notebook shows of flows and guides, in one line."""

from __future__ import annotations

from typing import Any


def flow_repr(flow: Any) -> str:
    """Of a ``Flow``: its bijection, and what is not as it is by default."""
    parts = [str(t.bijection) for t in flow.transforms if hasattr(t, "bijection")]
    parts += [f"support={t.codomain}" for t in flow.transforms if not hasattr(t, "bijection")]
    base = _innermost(flow.base_dist)
    if type(base).__name__ != "Normal":
        parts.append(f"base={getattr(base, 'base', type(base).__name__)}")
    if flow.batch_shape:
        parts.append(f"batch_shape={tuple(flow.batch_shape)}")
    return f"Flow({', '.join(parts)})"


def guide_repr(
    name: str, latents: str, start: str, quality: str, *bijections: Any, informed: tuple[str, ...] = ()
) -> str:
    """Of a guide that is set up."""
    words = [latents, *map(str, bijections), f"start={start!r}", f"quality={quality!r}"]
    return f"{name}({', '.join(words + ([f'informed={list(informed)}'] if informed else []))})"


def unset_guide_repr(name: str, quality: str) -> str:
    """Of a guide before its first call."""
    return f"{name}(not set up yet, which its first call or fit does, quality={quality!r})"


def _innermost(distribution: Any) -> Any:
    """The distribution below all wrappers, such as ``Independent``."""
    while type(distribution).__name__ != "Flow" and hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution
