"""Fresh captions: with a claim that holds and the words that make it true, and with images that they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer

from .captions import Named
from .claims import CLAIMS, deciding_words, draw_caption, true_claims
from .wordpieces import tokens_at
from .world import Scene, scene

SEED: Final = 7_131
GALLERY_SEED: Final = 7_132
"""Captions and scenes of these seeds are drawn for testing explanations alone."""


@dataclass(frozen=True)
class ClaimSample:
    """A caption, and one of the claims that it makes true."""

    text: str
    claim: int
    """Index into `CLAIMS`."""


def claim_samples(items: Sequence[int], seed: int = SEED) -> tuple[ClaimSample, ...]:
    """The caption of each item; its claim is drawn evenly from those that hold."""
    found = []
    for item in items:
        rng = np.random.default_rng([seed, item])
        text = draw_caption(rng)
        found.append(ClaimSample(text, int(rng.choice(np.flatnonzero(true_claims(text))))))
    return tuple(found)


def claim_tokens(tokenizer: BertTokenizer, samples: Sequence[ClaimSample]) -> Bool[Tensor, "caption token"]:
    """Which tokens of the captions, padded to the longest, are of the words that make their claim true."""
    texts = [one.text for one in samples]
    return tokens_at(tokenizer, texts, [deciding_words(one.text, CLAIMS[one.claim]) for one in samples])


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images to find by caption."""

    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    fits: Bool[Tensor, "caption image"]
    """Which images show all that a caption names, each in the colour that it names, if it names one."""


def gallery(count: int, seed: int = GALLERY_SEED) -> Gallery:
    """`count` scenes of two subjects and their captions; the i-th caption is the i-th image's."""
    drawn = [scene(seed * 1_000_000 + item, subjects=2, pairs="any") for item in range(count)]
    fits = [[_shows(other, one.named) for other in drawn] for one in drawn]
    images = tuple(Image.fromarray(one.image) for one in drawn)
    return Gallery(images, tuple(one.caption for one in drawn), torch.tensor(fits))


def _shows(drawn: Scene, named: Sequence[Named]) -> bool:
    there = {(one.name, colour) for one in drawn.subjects for colour in (one.colour, None)}
    return set(named) <= there
