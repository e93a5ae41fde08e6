"""VisualBERT: which words and which regions of an image an answer rests on, in one stream of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InputError
from ..wiring import Segment
from .common import Answer, check_call
from .family import Target
from .inputs import check_regions, region_segment, word_segment
from .registry import register
from .targets import entries
from .text import Encoder


class VisualBertReasoning(Encoder):
    """VisualBERT (Li et al. 2019) as it judges a sentence about images (NLVR2): it reads [CLS] by the pooler.

    One stream, "joint": the words, then the regions of the user's own detector.

    Target: a class by its number or label, a function of the outputs, or None for the predicted class.
    """

    name = "VisualBERT, visual reasoning"
    classes = ("VisualBertForVisualReasoning",)
    stream = "joint"
    tower = "visual_bert"

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Refuse an empty text, and regions of a wrong size."""
        check_call(model, inputs, "input_ids", "visual_embeds")
        super().check(model, inputs)
        check_regions(inputs, "visual_embeds", model.config.visual_embedding_dim)
        if model.config.bypass_transformer:
            raise InputError(
                "config.bypass_transformer sends the regions past the encoder: only a model without it can "
                "be explained"
            )

    def segments(self, model: Any, inputs: Mapping[str, Any], rows: int) -> tuple[Segment, ...]:
        """The words, then the regions."""
        start, count = inputs["input_ids"].shape[1], inputs["visual_embeds"].shape[1]
        return (
            word_segment(self.stream, inputs, model.config.pad_token_id, rows),
            region_segment(self.stream, slice(start, start + count), inputs, rows),
        )

    def head(
        self, model: Any, inputs: Mapping[str, Any], hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch label"]:
        """Pooler and classifier."""
        return model.cls(model.visual_bert.pooler(hidden))


class VisualBert(VisualBertReasoning):
    """VisualBERT (Li et al. 2019) as it answers questions (VQA).

    It reads not [CLS] but the last word before the closing [SEP], which it finds by the sum of
    `attention_mask`: the mask is needed, and padding has to be on the right.
    """

    name = "VisualBERT"
    classes = ("VisualBertForQuestionAnswering",)

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Refuse, besides, a text that is not padded on the right."""
        check_call(model, inputs, "input_ids", "visual_embeds", "attention_mask")
        super().check(model, inputs)
        mask = inputs["attention_mask"].bool()
        if (mask[:, 1:] & ~mask[:, :-1]).any() or not mask[:, 0].all():
            raise InputError("attention_mask must be ones, then zeros: have the tokenizer pad on the right")

    def ask(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, target: Target
    ) -> tuple[Answer, Tensor]:
        """Answers, read from the last word of their question."""
        answer, places = super().ask(model, inputs, outputs, target)
        last = self._last_word(inputs)
        return answer, last[entries(len(places), len(last)).to(last.device)]

    def head(
        self, model: Any, inputs: Mapping[str, Any], hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch label"]:
        """The classifier on the last word."""
        rows = torch.arange(len(hidden), device=hidden.device)
        return model.cls(hidden[rows, self._last_word(inputs)])

    def _last_word(self, inputs: Mapping[str, Any]) -> Int[Tensor, "batch"]:
        return inputs["attention_mask"].long().sum(1) - 2


register(VisualBertReasoning())
register(VisualBert())
