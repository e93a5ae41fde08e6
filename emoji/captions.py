"""Writes captions in many forms: only the start token is in all, so attention must tell words apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from .vocabulary import ANIMALS, article, label

Named = tuple[str, str | None]
"""A subject as a caption names it: its name, and its colour or None."""

OPENINGS: Final = (
    "a photo of", "a picture of", "an emoji of", "an image of",
    "there is", "this is", "image of", "picture of", "here is",
)  # fmt: skip
LINKERS: Final = (" and ", " with ", " next to ", ", ", " beside ", " plus ")
DETERMINERS: Final = ("a", "the", "one", "")
_LINKER_SHARES: Final = (0.4, 0.17, 0.13, 0.14, 0.08, 0.08)
_DETERMINER_SHARES: Final = (0.45, 0.17, 0.1, 0.28)
OPENING_SHARE: Final = 0.4
TEMPLATE_SHARE: Final = 0.2


def phrase(subject: Named, determiner: str = "a") -> str:
    """`("apple", "red")` to `"a red apple"`; the determiner `"a"` becomes `"an"` where English says so."""
    words = label(*subject)
    if determiner == "a":
        determiner = article(words)
    return f"{determiner} {words}".strip()


def caption_for(named: Sequence[Named], *, linker: str = " and ") -> str:
    """The caption in the form of the Attend-and-Excite benchmark (Chefer et al. 2023, section 4.1).

    `"a cat and a dog"`, `"a cat and a red bow"` or, with `linker=" with "`, `"a cat with a red bow"`.
    Raises `ValueError` when nothing is named.
    """
    if not named:
        raise ValueError("a caption needs at least one (name, colour) to name, got none")
    return linker.join(phrase(subject) for subject in named)


def write_caption(named: Sequence[Named], rng: np.random.Generator) -> str:
    """One of many forms of a caption of these subjects, in this order; a fifth are the benchmark's."""
    if rng.random() < TEMPLATE_SHARE:
        mixed = named[0][0] in ANIMALS and named[-1][0] not in ANIMALS
        return caption_for(named, linker=" with " if mixed and rng.random() < 0.5 else " and ")
    words = ""
    for index, subject in enumerate(named):
        if index:
            words += LINKERS[rng.choice(len(LINKERS), p=_LINKER_SHARES)]
        words += phrase(subject, DETERMINERS[rng.choice(len(DETERMINERS), p=_DETERMINER_SHARES)])
    if rng.random() < OPENING_SHARE:
        words = f"{OPENINGS[rng.integers(len(OPENINGS))]} {words}"
    return words
