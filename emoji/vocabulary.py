"""The words of the emoji world, apart from its drawing: the tokenizer and the judges need them alone."""

from __future__ import annotations

from typing import Final

ANIMALS: Final[tuple[str, ...]] = (
    "bear", "bird", "cat", "dog", "elephant", "frog", "horse", "lion", "monkey", "rabbit", "rat", "turtle",
)  # fmt: skip
OBJECTS: Final[tuple[str, ...]] = (
    "apple", "backpack", "balloon", "bow", "bowl", "car",
    "chair", "clock", "couch", "crown", "glasses", "suitcase",
)  # fmt: skip
COLOURS: Final[tuple[str, ...]] = (
    "black", "blue", "brown", "gray", "green", "orange", "pink", "purple", "red", "white", "yellow",
)  # fmt: skip
SUBJECTS: Final[tuple[str, ...]] = ANIMALS + OBJECTS
COLOURED_OBJECTS: Final[tuple[str, ...]] = tuple(
    f"{colour} {thing}" for thing in OBJECTS for colour in COLOURS
)
LABELS: Final[tuple[str, ...]] = SUBJECTS + COLOURED_OBJECTS
"""What a judge answers for: the 24 subjects, then the 132 coloured objects."""

# Everybody is in two to four of these pairs, so that each subject is seen with at least 19 of the 23 others.
_HELD_OUT_TEXT: Final = """
bear+frog bear+rabbit bird+elephant bird+monkey cat+horse cat+rat dog+lion dog+turtle
elephant+rat frog+monkey horse+lion horse+turtle lion+turtle rabbit+monkey
bear+crown bird+bowl cat+balloon dog+clock elephant+car frog+backpack horse+suitcase lion+glasses
monkey+bow rabbit+chair rat+apple turtle+couch cat+suitcase bird+backpack
apple+clock backpack+chair balloon+car bow+couch bowl+crown glasses+suitcase chair+balloon crown+apple
"""
HELD_OUT: Final[frozenset[frozenset[str]]] = frozenset(
    frozenset(pair.split("+")) for pair in _HELD_OUT_TEXT.split()
)
"""The 36 pairs of subjects that no scene shows and no caption names on which the pipeline is trained.

14 animal with animal, 14 animal with object, 8 object with object; "a cat and a frog" is a seen pair.
"""


def label(name: str, colour: str | None = None) -> str:
    """`"bow"` or `"red bow"`: the label of a subject as captions and judges write it."""
    return name if colour is None else f"{colour} {name}"


def article(word: str) -> str:
    """`"an"` before a vowel, else `"a"`; right for every word of this world."""
    return "an" if word[0] in "aeiou" else "a"


def is_seen(names: tuple[str, ...]) -> bool:
    """Whether none of the pairs among `names` is held out."""
    chosen = set(names)
    return not any(pair <= chosen for pair in HELD_OUT)
