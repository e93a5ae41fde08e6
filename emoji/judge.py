"""Says what an image of the emoji world shows, whatever its prompt was, so that neglect can be counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import ViTForImageClassification

from .models import default_device, default_dtype, model_folder
from .vocabulary import SUBJECTS

__all__ = ["Judge", "Sighting", "load_judge", "to_tensor"]

SIDE: Final = 64
_ARTICLES: Final = ("a", "an", "the", "one")


@dataclass(frozen=True)
class Sighting:
    """What the judge saw in one image."""

    scores: Mapping[str, float]
    """The probability, 0 to 1, of each label: the 24 subjects and the 132 coloured objects ("red bow")."""
    threshold: float = 0.5

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are seen, subjects before coloured objects."""
        return tuple(label for label, score in self.scores.items() if score > self.threshold)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects that are seen, colours apart."""
        return tuple(label for label in self.labels if label in SUBJECTS)

    def sees(self, word: str) -> bool:
        """Whether a label is seen: "frog", "bow" in whatever colour, or "red bow"; an article is ignored.

        Raises `ValueError` for a word that is no label, naming the labels.
        """
        return self.scores[self._label(word)] > self.threshold

    def sees_all(self, words: Iterable[str]) -> bool:
        """Whether each of these is seen."""
        return all(self.verdicts(words).values())

    def verdicts(self, words: Iterable[str]) -> dict[str, bool]:
        """Each of these words with whether it is seen, in their order."""
        return {word: self.sees(word) for word in words}

    def _label(self, word: str) -> str:
        parts = word.lower().split()
        label = " ".join(parts[1:] if len(parts) > 1 and parts[0] in _ARTICLES else parts)
        if label not in self.scores:
            single = ", ".join(name for name in self.scores if " " not in name)
            raise ValueError(
                f'the judge has no label "{word}"; it knows {single}, '
                'and the objects in a colour, as in "red bow"'
            )
        return label


class Judge:
    """A `ViTForImageClassification` with a sigmoid for each label (Dosovitskiy et al. 2021; multi-label).

    It was trained on clean scenes of all pairs of subjects, and shares no weight with the diffusion model and
    the CLIP.
    """

    def __init__(self, model: ViTForImageClassification, threshold: float = 0.5) -> None:
        """`threshold`: the probability, 0 to 1 exclusive, above which a label counts as seen."""
        if not 0.0 < threshold < 1.0:
            raise ValueError(f"threshold is a probability between 0 and 1, got {threshold}")
        self.model = model.eval()
        self.threshold = threshold

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order of the model's outputs."""
        names = self.model.config.id2label
        return tuple(names[index] for index in range(len(names)))

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], batch_size: int = 64) -> list[Sighting]:
        """Judge each image; sizes may differ, each is brought to 64 x 64.

        Raises `TypeError` for what is no PIL image, or for an image that is not in a list.
        """
        pixels = to_tensor(images, side=self.model.config.image_size)
        scores: list[list[float]] = []
        for part in pixels.split(batch_size) if len(pixels) else ():
            logits = self.model(pixel_values=part.to(self.model.device, self.model.dtype)).logits
            scores += logits.float().sigmoid().tolist()
        return [Sighting(dict(zip(self.labels, row, strict=True)), self.threshold) for row in scores]


def load_judge(device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Judge:
    """The embedded judge.

    Args:
        device: where it goes; None is CUDA where there is one, else the CPU.
        dtype: None takes float16 on CUDA and float32 elsewhere.
    """
    dtype = dtype or default_dtype(device)
    model = ViTForImageClassification.from_pretrained(
        model_folder("judge"), dtype=dtype, local_files_only=True
    )
    return Judge(model.to(default_device(device)))


def to_tensor(images: Sequence[Image.Image], side: int = SIDE) -> Float[Tensor, "image 3 side side"]:
    """PIL images as the embedded ViT and CLIP models take them: RGB, `side` x `side` pixels, from -1 to 1.

    The same as the `preprocessor_config.json` in their folders says: mean and deviation .5, bilinear.
    Raises `TypeError` for what is no list of PIL images.
    """
    if isinstance(images, Image.Image):
        raise TypeError("wanted a list of images, got a single one; put it into a list: [image]")
    rows = []
    for image in images:
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"wanted PIL images, got {type(image).__name__}; Image.fromarray makes one of an array"
            )
        image = image.convert("RGB")
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        rows.append(np.asarray(image))
    if not rows:
        return torch.zeros(0, 3, side, side)
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
