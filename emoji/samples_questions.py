"""Fresh questions on fresh scenes, and what each answer rests on: they test explanations of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer, ViTForImageClassification

from .questions import ANSWERS, Box, Question, ask
from .regions import REGIONS, choose_regions, positions, region_features, shown
from .wordpieces import spans_of, tokens_at
from .world import scene

SEED: Final = 7_130
"""Scenes of this seed are drawn for testing explanations alone; item i is its scene i."""


@dataclass(frozen=True, eq=False)
class QuestionSamples:
    """One question on each of some scenes."""

    images: tuple[Image.Image, ...]
    questions: tuple[Question, ...]
    boxes: tuple[tuple[Box, ...], ...]
    """The regions of each scene: the true boxes of its subjects, and distractors."""
    features: Float[Tensor, "question region channel"]
    places: Float[Tensor, "question region 4"]
    rests: Bool[Tensor, "question region"]
    """Which regions are of the subjects that the answer rests on; none where it rests on absence."""

    @property
    def texts(self) -> list[str]:
        """The questions as they are asked."""
        return [question.text for question in self.questions]

    @property
    def answers(self) -> Int64[Tensor, "question"]:
        """The right answers, as indices into `questions.ANSWERS`."""
        return torch.tensor([ANSWERS.index(question.answer) for question in self.questions])


def question_samples(
    items: Sequence[int], classifier: ViTForImageClassification, seed: int = SEED
) -> QuestionSamples:
    """The question of each item, on a scene of its own; an item is the same in whatever batch it comes.

    Args:
        items: not negative.
        classifier: the embedded one, which looks at the regions.
    """
    drawn = [scene(seed * 1_000_000 + item, pairs="any") for item in items]
    images = tuple(Image.fromarray(one.image) for one in drawn)
    questions, chosen = [], []
    for item, one in zip(items, drawn, strict=True):
        rng, seen = np.random.default_rng([seed, item, 0x9E]), shown(one)
        chosen.append(choose_regions([subject.box for subject in seen], rng))
        questions.append(ask(seen, rng))
    boxes = tuple(regions.boxes for regions in chosen)
    rests = [
        [at >= 0 and at in question.subjects for at in regions.subjects]
        for question, regions in zip(questions, chosen, strict=True)
    ]
    return QuestionSamples(
        images,
        tuple(questions),
        boxes,
        region_features(classifier, images, boxes),
        positions(boxes),
        torch.tensor(rests, dtype=torch.bool).reshape(len(items), REGIONS),
    )


def deciding_tokens(
    tokenizer: BertTokenizer, questions: Sequence[Question]
) -> Bool[Tensor, "question token"]:
    """Which tokens of the questions, padded to the longest, are of the words that say what is asked."""
    return tokens_at(
        tokenizer,
        [question.text for question in questions],
        [spans_of(question.text, question.words) for question in questions],
    )
