"""Asks about scenes in a fixed language with fixed answers, and knows what each answer rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .vocabulary import ANIMALS, COLOURS, OBJECTS, SUBJECTS, label
from .vocabulary import article as article_of

COUNTS: Final = ("zero", "one", "two", "three")
ANSWERS: Final[tuple[str, ...]] = ("yes", "no", "nothing", *COUNTS, *COLOURS, *SUBJECTS)
"""All answers there are, in the order of the models' outputs."""
SIDES: Final[dict[str, tuple[int, int]]] = {
    "left of": (0, -1),
    "right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}
"""The axis, 0 across and 1 down, and the direction along it."""
CLEAR: Final = 6.0
"""Pixels between two centres along an axis from which on one of them is clearly on a side of the other."""
GROUPS: Final[dict[str, tuple[str, ...]]] = {"animals": ANIMALS, "objects": OBJECTS, "things": SUBJECTS}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shown:
    """A subject as questions see it."""

    name: str
    colour: str | None
    box: Box


@dataclass(frozen=True)
class Question:
    """A question on a scene, its answer, and what decides it."""

    text: str
    answer: str
    """One of `ANSWERS`."""
    kind: str
    """One of `KINDS`."""
    words: tuple[str, ...]
    """The words of `text` that say what is asked: were one another, another answer might be right."""
    subjects: tuple[int, ...]
    """Which of the scene's subjects the answer rests on; none where it rests on something's absence."""


def ask(shown: Sequence[Shown], rng: np.random.Generator) -> Question:
    """A question on these subjects, of a kind drawn evenly from those that they allow.

    Raises:
        ValueError: nothing is shown.
    """
    if not shown:
        raise ValueError("a question needs at least one subject in the scene, got none")
    for name in rng.permutation(list(KINDS)):
        question = KINDS[str(name)](shown, rng)
        if question is not None:
            return question
    raise AssertionError("whether something is there can always be asked")


def ask_colour(shown: Sequence[Shown], rng: np.random.Generator) -> Question | None:
    """ "what colour is the bow?" """
    index = _pick([at for at, one in enumerate(shown) if one.colour], rng)
    if index is None:
        return None
    name, colour = shown[index].name, shown[index].colour
    assert colour is not None
    text = _either(rng, f"what colour is the {name}?", f"which colour does the {name} have?")
    return Question(text, colour, "colour", ("colour", name), (index,))


def ask_presence(shown: Sequence[Shown], rng: np.random.Generator) -> Question:
    """ "is there a frog?": yes as often as no."""
    if rng.random() < 0.5:
        index = int(rng.integers(len(shown)))
        return _is_there(shown[index].name, "yes", "presence", (index,), rng)
    absent = [name for name in SUBJECTS if name not in {one.name for one in shown}]
    return _is_there(str(rng.choice(absent)), "no", "presence", (), rng)


def ask_coloured(shown: Sequence[Shown], rng: np.random.Generator) -> Question | None:
    """ "is there a red bow?": yes as often as no; where no, there is a bow, but it is of another colour."""
    index = _pick([at for at, one in enumerate(shown) if one.colour], rng)
    if index is None:
        return None
    colour, yes = shown[index].colour, rng.random() < 0.5
    if not yes:
        # Half of the time a colour that another subject has: what is asked for is there, but in two pieces.
        near = [one.colour for one in shown if one.colour not in (colour, None)]
        far = [other for other in COLOURS if other != colour]
        colour = str(rng.choice(near if near and rng.random() < 0.5 else far))
    answer = "yes" if yes else "no"
    return _is_there(label(shown[index].name, colour), answer, "coloured", (index,), rng)


def ask_side(shown: Sequence[Shown], rng: np.random.Generator) -> Question | None:
    """ "what is left of the cat?": where every other subject clearly is, or is not, and one at most is."""
    possible = []
    for index in range(len(shown)):
        for side in SIDES:
            found = on_side(shown, index, side)
            if len(shown) > 1 and found is not None and len(found) <= 1:
                possible.append((index, side, found))
    # As often something as nothing, wherever both can be asked.
    wanted = rng.random() < 0.5
    possible = [one for one in possible if bool(one[2]) == wanted] or possible
    if not possible:
        return None
    index, side, found = possible[int(rng.integers(len(possible)))]
    text = f"what is {side} the {shown[index].name}?"
    if side.endswith("of"):
        text = _either(rng, text, f"what is to the {side} the {shown[index].name}?")
    answer = shown[found[0]].name if found else "nothing"
    rests = (index, *found) if found else tuple(range(len(shown)))
    return Question(text, answer, "side", (side.split()[0], shown[index].name), rests)


def ask_count(shown: Sequence[Shown], rng: np.random.Generator) -> Question:
    """ "how many animals are there?" """
    group = str(rng.choice(list(GROUPS)))
    counted = tuple(at for at, one in enumerate(shown) if one.name in GROUPS[group])
    text = _either(rng, f"how many {group} are there?", f"how many {group} do you see?")
    return Question(text, COUNTS[len(counted)], "count", ("many", group), counted)


def ask_which(shown: Sequence[Shown], rng: np.random.Generator) -> Question | None:
    """ "what is red?": of a colour that one subject alone has."""
    colours = [one.colour for one in shown]
    index = _pick([at for at, one in enumerate(colours) if one and colours.count(one) == 1], rng)
    if index is None:
        return None
    text = _either(rng, f"what is {colours[index]}?", f"which thing is {colours[index]}?")
    return Question(text, shown[index].name, "which", (str(colours[index]),), (index,))


Ask = Callable[[Sequence[Shown], np.random.Generator], "Question | None"]
KINDS: Final[dict[str, Ask]] = {
    "colour": ask_colour,
    "presence": ask_presence,
    "coloured": ask_coloured,
    "side": ask_side,
    "count": ask_count,
    "which": ask_which,
}


def on_side(shown: Sequence[Shown], index: int, side: str) -> tuple[int, ...] | None:
    """Which subjects are on this side of that one; None where one of them is not clearly anywhere."""
    axis, direction = SIDES[side]
    offsets = [direction * (_centre(one.box, axis) - _centre(shown[index].box, axis)) for one in shown]
    others = [at for at in range(len(shown)) if at != index]
    if any(abs(offsets[at]) < CLEAR for at in others):
        return None
    return tuple(at for at in others if offsets[at] > 0)


def every_word() -> tuple[str, ...]:
    """Every word of the questions, subjects and colours apart, each once."""
    words = (
        "what which colour is the does have there do you see left right of above below to how many are thing"
    )
    return tuple(dict.fromkeys([*words.split(), *GROUPS, "a", "an"]))


def _is_there(
    words: str, answer: str, kind: str, subjects: tuple[int, ...], rng: np.random.Generator
) -> Question:
    named = f"{article_of(words)} {words}"
    text = _either(rng, f"is there {named}?", f"do you see {named}?")
    return Question(text, answer, kind, tuple(words.split()), subjects)


def _pick(choices: list[int], rng: np.random.Generator) -> int | None:
    return choices[int(rng.integers(len(choices)))] if choices else None


def _either(rng: np.random.Generator, first: str, second: str) -> str:
    return first if rng.random() < 0.5 else second


def _centre(box: Box, axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2
