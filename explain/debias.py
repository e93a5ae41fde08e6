"""Makes a vision transformer look at the right thing: fine-tunes it on where its relevance should be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn

from .debiasing.examples import MaskedImages, with_random_masks
from .debiasing.measures import Sight, sight
from .debiasing.objective import Options
from .debiasing.relevance import classifier_family
from .debiasing.settings import METHODS, PUBLISHED_RATES, DebiasSettings
from .debiasing.training import Epoch, Progress, fine_tune
from .errors import InputError
from .relevance import model_name, versions

__all__ = [
    "METHODS", "PUBLISHED_RATES", "DebiasSettings", "Debiased", "Epoch", "MaskedImages", "Sight", "debias",
    "sight", "with_random_masks",
]  # fmt: skip
RECORD: Final = "debias.json"
"""What `Debiased.save` writes beside the model."""


@dataclass(frozen=True, eq=False)
class Debiased:
    """A fine-tuned model and how it came to be.

    Attributes:
        model: float32, in eval mode; the one with the least validation loss, which can be the one that came.
        history: every epoch; number 0 is the model as it came.
        settings: all of them.
        origin: class and name of the model as it came.
        images, validation: how many of each.
        versions: of heedful and the libraries it stands on.
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    settings: DebiasSettings
    origin: str = ""
    images: int = 0
    validation: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Epoch:
        """The epoch whose weights the model has."""
        return min(self.history, key=lambda epoch: epoch.validation)

    def save(self, folder: str | Path) -> None:
        """Write the model by `save_pretrained`, in safetensors, and `debias.json` with the rest beside it."""
        self.model.save_pretrained(str(folder))  # type: ignore[operator]
        told = {
            "origin": self.origin,
            "settings": asdict(self.settings),
            "images": self.images,
            "validation": self.validation,
            "best": self.best.number,
            "history": [_plain(epoch) for epoch in self.history],
            "versions": dict(self.versions),
        }
        (Path(folder) / RECORD).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def debias(
    model: nn.Module,
    images: MaskedImages,
    validation: MaskedImages,
    settings: DebiasSettings | None = None,
    *,
    options: Options = MappingProxyType({}),
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Debiased:
    """Fine-tune a classifier so that its relevance lies on the subject: RobustViT, Chefer et al. 2022.

    The relevance of the predicted class (the generic rule, stretched from 0 to 1) is drawn towards a mask
    while the prediction is kept; `DebiasSettings` says by which formula. No label is needed. The baselines
    "gradmask" and "rrr" push the input's gradient off the background instead, and need labels.

    Args:
        model: a classifier of transformers that is one tower of self-attention: ViT, DeiT, DINOv2. It is left
            as it was; the result holds a copy.
        images: a few of them, three a class were published, with masks.
        validation: others, on which training stops and the best epoch is chosen.
        settings: None takes the published ones, whose rate is for ViT-B.
        options: what the model takes beside the pixels: `{"interpolate_pos_encoding": True}` for another
            size than its own.
        device: "cpu" or "cuda"; None is CUDA in mixed float16 where there is one, else the CPU in float32.
        progress: called after every epoch.

    Raises:
        InputError: images that do not fit the model, or a baseline without labels.
        UnknownFamilyError, UnsupportedMethodError: a model that is no such classifier.
        CaptureError: attention that cannot be read as it should be.
        TrainingError: a loss that is no number.
    """
    settings = settings or DebiasSettings()
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch module, such as a ViTForImageClassification; got {model!r}")
    family = classifier_family(model)
    for each in (images, validation):
        family.check(model, {**options, "pixel_values": each.pixels})
        _check_labels(model, each, settings)
    made, history = fine_tune(
        model, images, validation, settings, options=options, device=device, progress=progress
    )
    return Debiased(made, history, settings, model_name(model), len(images), len(validation), versions())


def _check_labels(model: Any, images: MaskedImages, settings: DebiasSettings) -> None:
    count = len(model.config.id2label)
    if images.labels is not None and not ((images.labels >= 0) & (images.labels < count)).all():
        raise InputError(
            f"labels must be classes of the model, 0 to {count - 1}; got {images.labels.tolist()}"
        )
    if images.labels is None and settings.method != "relevance":
        raise InputError(f'the method "{settings.method}" learns from labels: give them with the images')


def _plain(epoch: Epoch) -> dict[str, Any]:
    told = asdict(epoch)
    # JSON knows no NaN
    return {name: None if isinstance(one, float) and math.isnan(one) else one for name, one in told.items()}
