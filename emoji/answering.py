"""Puts questions and scenes the way VisualBERT and LXMERT take them, and reads their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import BertTokenizer, LxmertForQuestionAnswering, VisualBertForQuestionAnswering

Answerer: TypeAlias = VisualBertForQuestionAnswering | LxmertForQuestionAnswering


def question_inputs(
    model: Answerer,
    tokenizer: BertTokenizer,
    texts: Sequence[str],
    features: Float[Tensor, "question region channel"],
    places: Float[Tensor, "question region 4"],
) -> dict[str, Tensor]:
    """The arguments of the model's call, on its device and in its type.

    LXMERT takes the places beside the features; VisualBERT has no argument for them, so each region's four
    numbers are appended to its features.

    Args:
        features: of `regions.region_features`.
        places: of `regions.positions`.
    """
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    seen = torch.ones(features.shape[:2], dtype=torch.long)
    regions = {"visual_feats": features, "visual_pos": places}
    if isinstance(model, VisualBertForQuestionAnswering):
        regions = {"visual_embeds": torch.cat([features, places], -1)}
    inputs = {**tokens, **regions, "visual_attention_mask": seen}
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }


def answer_scores(outputs: Any) -> Float[Tensor, "question answer"]:
    """The logits of `questions.ANSWERS`, which the two models call by different names."""
    named: Tensor | None = getattr(outputs, "question_answering_score", None)
    return outputs.logits if named is None else named


@torch.no_grad()
def answer(model: Answerer, inputs: Mapping[str, Tensor]) -> Int64[Tensor, "question"]:
    """The likeliest answer of each question, as an index into `questions.ANSWERS`."""
    return answer_scores(model(**inputs)).argmax(-1).cpu()
