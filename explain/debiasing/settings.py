"""How a model is debiased, as one frozen value; the published numbers are the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from ..errors import InputError

Method = Literal["relevance", "gradmask", "rrr"]
METHODS: Final[tuple[Method, ...]] = ("relevance", "gradmask", "rrr")
PUBLISHED_RATES: Final[Mapping[str, float]] = MappingProxyType(
    {
        "google/vit-base-patch16-224": 3e-6,
        "google/vit-large-patch16-224": 9e-7,
        "AugReg-S": 2e-6,
        "AugReg-B": 6e-7,
        "AugReg-L": 9e-7,
        "facebook/deit-small-patch16-224": 1e-6,
        "facebook/deit-base-patch16-224": 8e-7,
    }
)
"""Learning rates of the published runs, by model; DeiT's temperatures were 0.55 (small) and 0.65 (base)."""


@dataclass(frozen=True)
class DebiasSettings:
    """What is minimised, and how. Defaults are those of RobustViT (Chefer et al. 2022) for ViT-B.

    The method "relevance" minimises

        relevance_weight (background_weight L_bg + foreground_weight L_fg) + confidence_weight L_confidence

    of `debiasing.losses`. The baselines minimise cross-entropy against labels, plus `penalty` times
    `gradient_outside` ("gradmask") or `reasons_outside` ("rrr").

    Attributes:
        method: one of `METHODS`.
        second_order: differentiate the attention's gradient, too; "relevance" only.
        relevance_weight, background_weight, foreground_weight, confidence_weight: 0 or more.
        temperature: of the confidence loss, above 0.
        penalty: of the baselines, 0 or more.
        rate: AdamW's learning rate; made for large pretrained models, small ones need more.
        keep, every: the rate is multiplied by `keep`, above 0 to 1, each `every` epochs.
        decay: AdamW's weight decay.
        batch: images a step, over all processes together.
        epochs: at most.
        patience: epochs without a lower validation loss after which training ends.
        augment: enlarge by 8/7, crop at random, mirror half of the images, as published (256 to 224 pixels).
        seed: of order and augmentation.

    Raises:
        InputError: a value outside its range.
    """

    method: Method = "relevance"
    second_order: bool = False
    relevance_weight: float = 0.8
    background_weight: float = 2.0
    foreground_weight: float = 0.3
    confidence_weight: float = 0.2
    temperature: float = 1.0
    penalty: float = 1.0
    rate: float = 3e-6
    keep: float = 0.85
    every: int = 2
    decay: float = 1e-4
    batch: int = 8
    epochs: int = 50
    patience: int = 10
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f'method must be one of {", ".join(METHODS)}; got "{self.method}"')
        if self.second_order and self.method != "relevance":
            raise InputError(
                f'second_order is for the method "relevance"; "{self.method}" always differentiates twice'
            )
        for name in ("relevance_weight", "background_weight", "foreground_weight", "confidence_weight",
                     "penalty", "decay", "seed"):  # fmt: skip
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("temperature", "rate", "keep", "every", "batch", "epochs", "patience"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.keep > 1:
            raise InputError(f"keep is a share of the rate, above 0 to 1, got {self.keep}")

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.rate * self.keep ** (epoch // self.every)
