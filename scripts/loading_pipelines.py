"""Loads someone's pipeline, of whatever class guidance knows, and says which of these draw from a prompt."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from transformers.utils import cached_file

from .. import pipelines
from ..guidance.hosts import HOSTS
from ..pipelines.mixin import AttendAndExciteMixin
from .machine import one_line
from .settings import UsageError

_INDEX: Final = diffusers.DiffusionPipeline.config_name
_NEEDED: Final = {"prompt", "height", "guidance_scale"}
_MORE_THAN_A_PROMPT: Final = {"image", "control_image"}


def load_pipeline(name: str | None, device: str | None, dtype: torch.dtype) -> Any:
    """The pipeline of a folder or a hub id, of the class that its `model_index.json` names; None is embedded.

    A pipeline that was saved as one that guides itself comes back as what it stands on.

    Raises:
        UsageError: a model that is not there or not in safetensors, or a pipeline that guidance does not know
            or that needs more than a prompt.
    """
    try:
        if name is None:
            from ..emoji import load_pipeline as load_embedded

            return load_embedded(device=device, dtype=dtype)
        kind = _pipeline_class(name)
        return kind.from_pretrained(name, dtype=dtype, use_safetensors=True).to(device)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as problem:
        known = "the embedded model" if name is None else f'the model "{name}"'
        raise UsageError(
            f"cannot load {known}: {one_line(problem)}; --model takes the folder or the hub id of a pipeline "
            f"in safetensors that draws from a prompt: {', '.join(_drawing())}"
        ) from problem


def _pipeline_class(name: str) -> Any:
    if Path(name).is_dir() and not (Path(name) / _INDEX).is_file():
        raise ValueError(f"the folder has no {_INDEX}")
    index = json.loads(Path(cached_file(name, _INDEX)).read_text(encoding="utf-8"))
    named = str(index.get("_class_name"))
    kind: Any = getattr(pipelines, named, None) or getattr(diffusers, named, None)
    hosts = [base for base in getattr(kind, "__mro__", ()) if base.__name__ in HOSTS]
    if not hosts:
        raise ValueError(f"{named} is no pipeline that guidance knows")
    if issubclass(kind, AttendAndExciteMixin):
        kind = hosts[0]
    if not _draws_from_a_prompt(kind):
        raise ValueError(f"{named} needs more than a prompt; guide(pipe, ...) serves it in Python")
    return kind


def _drawing() -> list[str]:
    """The names of pipelines that guidance knows and that draw from a prompt alone."""
    kinds = {name: getattr(diffusers, name, None) for name in HOSTS}
    return [name for name, kind in kinds.items() if kind is not None and _draws_from_a_prompt(kind)]


def _draws_from_a_prompt(kind: Any) -> bool:
    takes = inspect.signature(kind.__call__).parameters
    return takes.keys() >= _NEEDED and not takes.keys() & _MORE_THAN_A_PROMPT
