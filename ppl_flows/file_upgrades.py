"""Files of earlier formats, in today's words: what their classes and fields have become.

Format 1: networks were fields of the layers (``hidden``, ``activation``, ``residual``), and images had layers of their
own, ``ImageCoupling`` and ``PatchAutoregressive``.
"""

from __future__ import annotations

from typing import Any

Description = dict[str, Any]
Tree = dict[str, Any]  # nested params

WITH_MLP = ("Coupling", "Elementwise", "MaskedAutoregressive", "Planar", "Radial", "Sylvester")


def from_format_1(description: Any, params: Tree) -> tuple[Any, Tree]:  # noqa: PLR0911  one for each kind of class
    """The description and the params of a bijection or a base, as format 2 has them."""
    if not isinstance(description, dict):
        return description, params
    fields = dict(description)
    name = fields.get("class")
    if name == "Chain":
        return _in_parts(fields, "parts", params)
    if name == "MultiScale":
        return _in_parts(fields, "scales", params)
    if name == "Frozen":
        fields["part"], state = from_format_1(fields["part"], params.get("state", {}))
        return fields, {"state": state} if state else {}
    if "part" in fields:
        fields["part"], params = from_format_1(fields["part"], params)
        return fields, params
    if name in WITH_MLP:
        return _with_conditioner(fields, "MLP", hidden="hidden", activation="activation", residual="residual"), params
    if name == "ImageCoupling":
        fields = _with_conditioner(fields, "ConvNet", width="hidden", blocks="blocks", activation="activation")
        mask = {"channels": "halves"}.get(fields["mask"], fields["mask"])
        shape = fields.pop("shape")
        return {**fields, "class": "Coupling", "dim": shape, "mask": mask}, params
    if name == "PatchAutoregressive":
        return _patches(fields), {"1": params}
    return fields, params


def _in_parts(fields: Description, key: str, params: Tree) -> tuple[Description, Tree]:
    upgraded = [from_format_1(part, params.get(str(i), {})) for i, part in enumerate(fields[key])]
    named = {str(i): tree for i, (_, tree) in enumerate(upgraded) if tree}
    return {**fields, key: [part for part, _ in upgraded]}, {**params, **named}


def _with_conditioner(fields: Description, network: str, **names: str) -> Description:
    """The fields, those named (network's name = layer's) moved into a conditioner."""
    moved = {new: fields[old] for new, old in names.items() if old in fields}
    kept = {key: value for key, value in fields.items() if key not in names.values()}
    return {**kept, "conditioner": {"class": network, **moved}}


def _patches(fields: Description) -> Description:
    """From image to patches, the autoregressive layer over them, and back."""
    height, width, channels = fields["shape"]
    side = fields["patch"]
    size = channels * side**2
    inner = [height // side, width // side, size]
    length = inner[0] * inner[1]
    to_patches = {
        "class": "Chain",
        "parts": [
            {"class": "Squeeze", "shape": fields["shape"], "factor": side},
            {"class": "Inverse", "part": {"class": "Reshape", "shape": inner}},
            {"class": "Reshape", "shape": [length, size]},
        ],
    }
    network = {"class": "CausalAttention"} | {k: fields[k] for k in ("width", "blocks", "heads", "activation")}
    layer = {
        "class": "MaskedAutoregressive",
        "dim": [length, size],
        "transformer": fields["transformer"],
        "flip": fields["flip"],
        "conditioner": network,
        "context_dim": fields["context_dim"],
    }
    return {"class": "Chain", "parts": [to_patches, layer, {"class": "Inverse", "part": to_patches}]}
