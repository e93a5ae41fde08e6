"""What captions claim, and which of their words make it true: known, so that explanations can be tested."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from .captions import Named, write_caption
from .vocabulary import ANIMALS, COLOURS, OBJECTS, SUBJECTS, article

CLAIMS: Final[tuple[str, ...]] = (
    *(f"{article(colour)} {colour} thing" for colour in COLOURS),
    "an animal",
    "an object",
    "two animals",
    "two objects",
    "an animal and an object",
)
"""What a caption may name; any number of these holds. "two" means two or more."""
_NEEDS: Final[dict[str, tuple[int, int]]] = {
    "an animal": (1, 0),
    "an object": (0, 1),
    "two animals": (2, 0),
    "two objects": (0, 2),
    "an animal and an object": (1, 1),
}
"""How many animals and how many objects each of the later claims needs."""
Span = tuple[int, int]


def deciding_words(text: str, claim: str) -> tuple[Span, ...]:
    """Where in `text`, first and one past the last character, the words stand that make the claim true.

    All of them: of three animals each is among the words for "two animals". Empty where the claim is false.
    A word that is hidden ("[MASK]") decides nothing.

    Raises:
        ValueError: no such claim; names those that there are.
    """
    if claim not in CLAIMS:
        raise ValueError(f'no claim "{claim}"; the claims are: {", ".join(CLAIMS)}')
    words = [(found.group(), found.span()) for found in re.finditer("[a-z]+", text)]
    if claim not in _NEEDS:
        return tuple(span for word, span in words if word == claim.split()[1])
    animals = tuple(span for word, span in words if word in ANIMALS)
    objects = tuple(span for word, span in words if word in OBJECTS)
    needed = _NEEDS[claim]
    if len(animals) < needed[0] or len(objects) < needed[1]:
        return ()
    return tuple(sorted((animals if needed[0] else ()) + (objects if needed[1] else ())))


def true_claims(text: str) -> tuple[bool, ...]:
    """Which of `CLAIMS` hold."""
    return tuple(bool(deciding_words(text, claim)) for claim in CLAIMS)


def draw_caption(rng: np.random.Generator, coloured: float = 0.5) -> str:
    """A caption of one to three subjects, of any pairs; an object's colour is named with this probability."""
    names = rng.choice(SUBJECTS, size=int(rng.choice([1, 2, 3], p=[0.25, 0.4, 0.35])), replace=False)
    named: list[Named] = []
    for name in names.tolist():
        has = name in OBJECTS and rng.random() < coloured
        named.append((name, str(rng.choice(COLOURS)) if has else None))
    return write_caption(named, rng)
