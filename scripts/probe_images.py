"""The images of `heedful probe`: the user's own, or fresh emoji scenes; and how a model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .explain import open_image
from .machine import one_line
from .settings import UsageError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def probe_images(paths: Sequence[Path], count: int, seed: int) -> list[Image.Image]:
    """The images of these files and folders; without any, `count` scenes of one subject from this seed.

    Raises:
        UsageError: a file that is no image, a folder without any, or more images than `count`.
    """
    if not paths:
        from ..emoji.world import scenes

        return [Image.fromarray(one.image) for one in scenes(seed + 1, count, subjects=1)]
    files = [file for path in paths for file in (_inside(path) if path.is_dir() else [path])]
    if len(files) > count:
        raise UsageError(f"{len(files)} images are more than --count {count}: raise it, or name fewer")
    return [open_image(file) for file in files]


def _inside(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not found:
        raise UsageError(f"no image in the folder {folder}: wanted files ending in {', '.join(SUFFIXES)}")
    return found


def pixels_of(processor: Any, images: Sequence[Image.Image]) -> Float[Tensor, "image colour height width"]:
    """What a model's image processor makes of the images.

    Raises:
        UsageError: images that it refuses, or makes of different sizes.
    """
    try:
        found = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return torch.as_tensor(found)
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as problem:
        raise UsageError(
            f"the model's processor refused these images: {one_line(problem)}; it has to make them one size"
        ) from problem


def seen_images(processor: Any, pixels: Float[Tensor, "image colour height width"]) -> list[Image.Image]:
    """The images as the model sees them, resized and cropped, in colours that a person sees."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
    levels = ((pixels.float().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(one) for one in levels.permute(0, 2, 3, 1).numpy()]
