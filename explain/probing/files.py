"""Results of probes on disk: tensors in one safetensors file, and what is told of them as JSON beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError


def write(path: str | Path, format: str, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Write tensors with what is told of them; `format` names the kind of result, and its version."""
    from safetensors.torch import save_file

    whole = {name: found.detach().cpu().contiguous() for name, found in tensors.items()}
    save_file(whole, str(path), metadata={"format": format, "record": json.dumps(dict(told), default=str)})


def read(path: str | Path, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        InputError: for a file that is not there, is damaged, or holds another kind of result.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise InputError(f"cannot read {path}: {reason}") from problem
    if about.get("format") != format:
        raise InputError(f'{path} holds "{about.get("format")}", wanted is "{format}"')
    try:
        return tensors, dict(json.loads(about["record"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(f"what {path} tells of its numbers is damaged: {problem}") from problem
