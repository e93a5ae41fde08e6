"""Tiny models with random weights for `check`, and a processor that reads any words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from explain_tiny import END, PAD, START, tiny
from heedful.guidance import AttendAndExcite
from PIL import Image
from torch import Tensor, nn

OTHERS = ("cat", "dog", "cow", "apple", "hat")


@dataclass(frozen=True)
class Hasty(AttendAndExcite):
    """Attend-and-Excite that refines once where it should: a random model never reaches the thresholds."""

    max_refinements: int = 1


class Processor:
    """Words as numbers, and images of 32 x 32: what a processor of transformers gives, in small."""

    def __init__(self, siglip: bool = False) -> None:
        self.siglip = siglip

    def __call__(
        self, text: list[str] | None = None, images: list[Image.Image] | None = None, **options: Any
    ) -> dict[str, Tensor]:
        if images is not None:
            arrays = [np.asarray(image.resize((32, 32))) for image in images]
            return {"pixel_values": torch.tensor(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1}
        rows = [[2 + zlib.crc32(word.encode()) % 35 for word in one.split()] for one in text or []]
        if self.siglip:
            assert options["padding"] == "max_length"
            length = max(options["max_length"], *map(len, rows))
            return {"input_ids": torch.tensor([row + [PAD] * (length - len(row)) for row in rows])}
        length = max(map(len, rows)) + 2
        ids = torch.tensor([[START, *row, *[END] * (length - 1 - len(row))] for row in rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def two_towers(name: str) -> tuple[nn.Module, Processor]:
    """A tiny "clip" or "siglip" and its processor."""
    return tiny(name)[0], Processor(siglip=name == "siglip")


def noise(size: tuple[int, int] = (40, 24), seed: int = 0) -> Image.Image:
    """An image of nothing, (width, height)."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def scene(*names: str, seed: int = 3) -> Image.Image:
    """An image of the emoji world with these subjects."""
    from heedful.emoji.world import scene as draw

    return Image.fromarray(draw(seed, named=tuple((name, None) for name in names)).image)


def logits_of(
    model: nn.Module, processor: Processor, image: Image.Image, texts: Sequence[str]
) -> list[float]:
    """The model's own forward of an image and texts, one text at a time."""
    found = []
    with torch.no_grad():
        for text in texts:
            length = model.config.text_config.max_position_embeddings
            options = {"padding": "max_length", "max_length": length} if processor.siglip else {}
            inputs = {**processor(text=[text], **options), **processor(images=[image])}
            found.append(float(model(**inputs).logits_per_image))
    return found
