"""Writes results of tensors and words into one safetensors file each, and reads them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError


def write(path: str | Path, kind: str, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Write tensors, and beside them what can be told as JSON; `kind` names the format."""
    from safetensors.torch import save_file

    whole = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    save_file(whole, str(path), metadata={"format": kind, "record": json.dumps(dict(told), default=str)})


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote of this kind.

    Raises:
        InputError: for a file that is not there, is damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        told = json.loads(about.get("record", "{}"))
    except (OSError, SafetensorError, ValueError) as problem:
        raise InputError(f"cannot read {path}: {str(problem).splitlines()[0]}") from problem
    if about.get("format") != kind:
        raise InputError(f'{path} holds "{about.get("format")}"; wanted is "{kind}"')
    return tensors, told
