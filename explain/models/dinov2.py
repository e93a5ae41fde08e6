"""DINOv2, with and without registers: a classifier that reads [CLS] and the mean of the patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .registry import register
from .vit import ImageClassifier


class DINOv2(ImageClassifier):
    """Oquab et al. 2023, and Darcet et al. 2023 with registers: [CLS], registers, then the patches.

    The head is linear in [CLS] beside the mean of the patches. Weights are shares of what it reads, so half
    lies on [CLS] and half is spread evenly over the patches; the registers, which it does not read, have
    none.
    Positions always fit the image, so its size is free.
    """

    name = "DINOv2"
    classes = ("Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification")
    blocks = "encoder.layer"

    def interpolates(self, inputs: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def specials(self, model: Any) -> int:
        """[CLS] and the registers."""
        return 1 + getattr(model.config, "num_register_tokens", 0)

    def weights(self, model: Any, patches: int) -> Float[Tensor, "token"]:
        """Half on [CLS], half over the patches."""
        weights = torch.zeros(self.specials(model) + patches)
        weights[0] = 0.5
        weights[self.specials(model) :] = 0.5 / patches
        return weights

    def head(self, model: Any, normed: Float[Tensor, "batch token channel"]) -> dict[str, Tensor]:
        """The logits of [CLS] beside the mean of the patches."""
        mean = normed[:, self.specials(model) :].mean(dim=1)
        return {"logits": model.classifier(torch.cat([normed[:, 0], mean], dim=1))}


register(DINOv2())
