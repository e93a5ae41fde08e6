"""SigLIP: an image gathered by a pooling attention against a text read at its last token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..wiring import Readout, Site
from .registry import register
from .targets import one_hot
from .towers import TwoTowers, attended

POOL: Final = Site("vision_model.head.attention")


class SigLIP(TwoTowers):
    """Zhai et al. 2023; SigLIP 2 (Tschannen et al. 2025) of a fixed resolution is the same class.

    There is no [CLS]: a learnt query attends to all patches (`Readout.pool`). The text tower is not causal
    and reads the last token, which in texts padded as the model was trained is padding. Words are what comes
    before the last run of one id (the end token, which is also SigLIP's padding), without the config's
    padding id, which is the end token of both vocabularies.
    """

    name = "SigLIP"
    classes = ("SiglipModel",)

    def sites(self, model: Any) -> tuple[Site, ...]:
        """Both towers and the pooling attention."""
        return (*self.wiring(model).sites, POOL)

    def embeddings(self, model: Any) -> Mapping[str, str]:
        """Patches and words with their positions."""
        return {"image": "vision_model.embeddings", "text": "text_model.embeddings"}

    def ends(self, model: Any, inputs: Mapping[str, Any]) -> Int[Tensor, "text"]:
        """The last position of every text."""
        ids = inputs["input_ids"]
        return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)

    def words(self, model: Any, inputs: Mapping[str, Any]) -> Bool[Tensor, "text token"]:
        """Tokens before the end and the padding."""
        ids = inputs["input_ids"]
        last_run = (ids == ids[:, -1:]).int().flip(-1).cumprod(-1).flip(-1).bool()
        return attended(inputs) & ~last_run & (ids != model.config.text_config.pad_token_id)

    def readouts(self, model: Any, inputs: Mapping[str, Any], rows: int) -> tuple[Readout, ...]:
        """The pooling query of the image, the last token of the text."""
        ends = self.ends(model, inputs)
        query = torch.ones(rows, 1, device=ends.device)
        return (
            Readout("image", query, pool=POOL),
            Readout("text", one_hot(ends, inputs["input_ids"].shape[1]).expand(rows, -1)),
        )

    def embed_image(
        self, model: Any, hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch embedding"]:
        """All patches, normed and pooled by the model's head."""
        return model.vision_model.head(model.vision_model.post_layernorm(hidden))

    def embed_text(
        self, model: Any, hidden: Float[Tensor, "batch token channel"], ends: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch embedding"]:
        """The last token, normed and projected."""
        read = hidden[torch.arange(len(hidden), device=hidden.device), ends]
        return model.text_model.head(model.text_model.final_layer_norm(read))

    def compare(self, model: Any, cosines: Float[Tensor, "text image"]) -> Float[Tensor, "text image"]:
        """Cosines over the temperature, with the bias."""
        return cosines * model.logit_scale.exp() + model.logit_bias


register(SigLIP())
