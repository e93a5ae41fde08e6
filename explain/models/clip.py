"""CLIP: an image read at [CLS] against a text read at its end token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InputError
from ..wiring import Readout
from .registry import register
from .targets import one_hot
from .towers import TwoTowers, attended

LEGACY_END: Final = 2
"""Older configs name this id as the end token; the models then read the highest id, whatever it is."""


class CLIP(TwoTowers):
    """Radford et al. 2021. The text tower is causal; tokens after the end token are never seen by it.

    Words are what stands between the start token, the first one that is attended to, and the end token.
    """

    name = "CLIP"
    classes = ("CLIPModel",)

    def embeddings(self, model: Any) -> Mapping[str, str]:
        """Patches and [CLS] behind the norm that comes before the first layer; words with positions."""
        return {"image": "vision_model.pre_layrnorm", "text": "text_model.embeddings"}

    def check_ends(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """An end token in every text: without one the model silently reads the first token."""
        end = model.text_model.eos_token_id
        if end == LEGACY_END:
            return
        for number, has_end in enumerate((inputs["input_ids"] == end).any(dim=1).tolist()):
            if not has_end:
                raise InputError(
                    f"text {number} has no end token ({end}), from which CLIP reads it: tokenize it with "
                    "special tokens, and truncate it there if it is too long"
                )

    def ends(self, model: Any, inputs: Mapping[str, Any]) -> Int[Tensor, "text"]:
        """The first end token; with a legacy config the first token of the highest id, as the model does."""
        ids, end = inputs["input_ids"].int(), model.text_model.eos_token_id
        return (ids if end == LEGACY_END else (ids == end).int()).argmax(dim=-1)

    def words(self, model: Any, inputs: Mapping[str, Any]) -> Bool[Tensor, "text token"]:
        """Tokens between start and end."""
        seen = attended(inputs)
        positions = torch.arange(seen.shape[1], device=seen.device)
        start = seen.int().argmax(dim=-1, keepdim=True)
        return seen & (positions > start) & (positions < self.ends(model, inputs)[:, None])

    def readouts(self, model: Any, inputs: Mapping[str, Any], rows: int) -> tuple[Readout, ...]:
        """[CLS] of the image, the end token of the text."""
        ends = self.ends(model, inputs)
        image, text = self._segments(model, inputs, rows)
        first = torch.zeros_like(ends[:1])
        return (
            Readout("image", one_hot(first, image.positions.stop).expand(rows, -1)),
            Readout("text", one_hot(ends, text.positions.stop).expand(rows, -1)),
        )

    def specials(self) -> int:
        """[CLS]."""
        return 1

    def embed_image(
        self, model: Any, hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch embedding"]:
        """[CLS], normed and projected."""
        return model.visual_projection(model.vision_model.post_layernorm(hidden[:, 0]))

    def embed_text(
        self, model: Any, hidden: Float[Tensor, "batch token channel"], ends: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch embedding"]:
        """The end token, normed and projected."""
        read = hidden[torch.arange(len(hidden), device=hidden.device), ends]
        return model.text_projection(model.text_model.final_layer_norm(read))

    def compare(self, model: Any, cosines: Float[Tensor, "text image"]) -> Float[Tensor, "text image"]:
        """Cosines over the temperature."""
        return cosines * model.logit_scale.exp()


register(CLIP())
