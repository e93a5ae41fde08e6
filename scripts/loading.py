"""Loads someone's model with its processor, and knows what the processor leaves of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from .machine import one_line
from .settings import UsageError

Box = tuple[float, float, float, float]


def embedded(name: str) -> str:
    """The folder of an embedded model."""
    from ..emoji.models import model_folder

    return str(model_folder(name))


def resolved(name: str) -> str:
    """The folder of an embedded model by its name, or the name itself where there is such a folder here."""
    from ..emoji.models import MODELS

    own = MODELS / name
    return str(own) if not Path(name).exists() and "/" not in name and own.is_dir() else name


def load_model(name: str, device: str, dtype: torch.dtype, *, named: bool = True) -> Any:
    """The model of a folder or a hub id, in the class that its config names, ready to be asked.

    Args:
        named: whether the user named it, for the message.

    Raises:
        UsageError: a model that is not there, or is not in safetensors.
    """
    local = Path(name).is_dir()
    try:
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=local)
        kinds = [getattr(transformers, each, None) for each in config.architectures or ()]
        kind = next((each for each in kinds if each is not None), transformers.AutoModel)
        model = kind.from_pretrained(name, dtype=dtype, use_safetensors=True, local_files_only=local)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as problem:
        known = f'the model "{name}"' if named else "the embedded model"
        raise UsageError(
            f"cannot load {known}: {one_line(problem)}; --model takes the folder or the hub id of a model of "
            "transformers in safetensors"
        ) from problem
    return model.to(device).eval()


def load_processor(name: str, *, texts: bool) -> Any:
    """The image processor of a model, or with texts the processor of both.

    Raises:
        UsageError: where there is none.
    """
    kind = transformers.AutoProcessor if texts else transformers.AutoImageProcessor
    try:
        return kind.from_pretrained(name, local_files_only=Path(name).is_dir())
    except (OSError, ValueError, TypeError, KeyError, ImportError) as problem:
        raise UsageError(
            f'cannot load the {"processor" if texts else "image processor"} of "{name}": {one_line(problem)}'
        ) from problem


def seen_box(processor: Any, size: tuple[int, int]) -> Box:
    """What an image processor leaves of an image, (left, top, right, bottom) in the image's own pixels."""
    width, height = size
    if not getattr(processor, "do_center_crop", False):
        return 0.0, 0.0, float(width), float(height)
    wanted, crop = dict(processor.size), dict(processor.crop_size)
    across = down = 1.0
    if getattr(processor, "do_resize", True):
        short = wanted.get("shortest_edge")
        across = short / min(size) if short else wanted["width"] / width
        down = short / min(size) if short else wanted["height"] / height
    half_width = min(width, crop["width"] / across) / 2
    half_height = min(height, crop["height"] / down) / 2
    return width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height
