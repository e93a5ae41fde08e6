"""Writes and reads an AttentionRecord as one safetensors file, so that it can be passed on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from .errors import GuidanceError
from .records import AttentionRecord
from .tokens import Span

FORMAT: Final = "heedful.attention/1"
"""What a saved file says of itself."""
_TOLD: Final = ("prompts", "spans", "tokens", "text", "steps", "layers", "settings", "versions")


def save(record: AttentionRecord, path: Path) -> None:
    """Write a record: maps as tensors, all else as JSON in the metadata."""
    from safetensors.torch import save_file

    told = {name: getattr(record, name) for name in _TOLD}
    told |= {"resolved": sorted(record.layer_maps)}
    text = json.dumps(told, default=lambda value: asdict(value) if isinstance(value, Span) else str(value))
    tensors = {name: found.contiguous() for name, found in _tensors(record).items()}
    save_file(tensors, str(path), metadata={"format": FORMAT, "record": text})


def load(path: Path) -> AttentionRecord:
    """Read a record.

    Raises:
        GuidanceError: a file that is not there, is no record, or is damaged.
    """
    tensors, text = _opened(path)
    try:
        return _read(tensors, json.loads(text))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise GuidanceError(f"the attention record {path} is damaged: {_first_line(problem)}") from problem


def _tensors(record: AttentionRecord) -> dict[str, Tensor]:
    """Every tensor by a name that tells its place: kind, image, layer."""
    found: dict[str, Tensor] = {}
    for kind in ("attention", "maps", "step_maps"):
        found |= {f"{kind}/{image}": one for image, one in enumerate(getattr(record, kind))}
    for layer, images in record.layer_maps.items():
        found |= {f"layer_maps/{image}/{layer}": one for image, one in enumerate(images)}
    return found


def _read(tensors: Mapping[str, Tensor], told: dict[str, Any]) -> AttentionRecord:
    images = range(len(told["spans"]))
    for kind in ("spans", "tokens"):
        told[kind] = tuple(tuple(_span(one) for one in image) for image in told[kind])
    told |= {kind: tuple(told[kind]) for kind in ("prompts", "steps", "layers")}
    told["text"] = tuple(tuple(int(end) for end in ends) for ends in told["text"])
    for kind in ("attention", "maps"):
        told[kind] = tuple(tensors[f"{kind}/{image}"] for image in images)
    if "step_maps/0" in tensors:
        told["step_maps"] = tuple(tensors[f"step_maps/{image}"] for image in images)
    layers = told.pop("resolved")
    told["layer_maps"] = {
        name: tuple(tensors[f"layer_maps/{image}/{name}"] for image in images) for name in layers
    }
    return AttentionRecord(**told)


def _span(told: Mapping[str, Any]) -> Span:
    return Span(told["text"], tuple(told["indices"]), told["occurrence"])


def _opened(path: Path) -> tuple[dict[str, Tensor], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as problem:
        raise GuidanceError(f"cannot read the attention record {path}: {_first_line(problem)}") from problem
    if about.get("format") != FORMAT:
        raise GuidanceError(
            f'{path} is no attention record of this version: wanted format "{FORMAT}", '
            f'got "{about.get("format")}"; AttentionRecord.save writes one'
        )
    return tensors, about.get("record", "")


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
