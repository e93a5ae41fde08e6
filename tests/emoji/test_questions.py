"""Questions are answered by what is drawn, in known words, and rest on what they say they rest on."""

from __future__ import annotations

import numpy as np
import pytest
from heedful.emoji.questions import (
    ANSWERS,
    CLEAR,
    KINDS,
    Shown,
    ask,
    ask_coloured,
    ask_side,
    every_word,
    on_side,
)
from heedful.emoji.regions import shown
from heedful.emoji.vocabulary import ANIMALS, COLOURS, OBJECTS, SUBJECTS
from heedful.emoji.wordpieces import spans_of
from heedful.emoji.world import scene

CAT = Shown("cat", None, (2, 20, 22, 40))
BOW = Shown("bow", "red", (40, 22, 60, 42))
CAR = Shown("car", "blue", (24, 2, 34, 12))
COUNTS = ("zero", "one", "two", "three")


def answered(text: str, subjects: tuple[Shown, ...]) -> str:
    """The answer, found again from the question's words alone by other means."""
    words = text.rstrip("?").split()
    by_name = {one.name: one for one in subjects}
    if "many" in words:
        members = {"animals": ANIMALS, "objects": OBJECTS, "things": SUBJECTS}[words[2]]
        return COUNTS[len([one for one in subjects if one.name in members])]
    if words[0] in ("is", "do"):
        *colour, name = (word for word in words if word in SUBJECTS or word in COLOURS)
        there = name in by_name and (not colour or by_name[name].colour == colour[0])
        return "yes" if there else "no"
    if "colour" in words:
        return str(next(by_name[word].colour for word in words if word in by_name))
    side = next((word for word in words if word in ("left", "right", "above", "below")), None)
    if side is None:
        return next(one.name for one in subjects if one.colour == words[-1])
    anchor = by_name[words[-1]]
    axis = side in ("above", "below")

    def centre(one: Shown) -> float:
        return (one.box[axis] + one.box[axis + 2]) / 2

    sign = -1 if side in ("left", "above") else 1
    found = [one.name for one in subjects if sign * (centre(one) - centre(anchor)) > 0]
    return found[0] if found else "nothing"


def test_every_answer_is_right_and_among_the_answers() -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for seed in range(60):
        subjects = shown(scene(seed, pairs="any"))
        for _ in range(4):
            question = ask(subjects, rng)
            assert question.answer in ANSWERS
            assert question.answer == answered(question.text, subjects), question
            assert all(at < len(subjects) for at in question.subjects)
            kinds.add(question.kind)
    assert kinds == set(KINDS)


def test_the_words_that_decide_are_in_the_question() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        question = ask((CAT, BOW, CAR), rng)
        for word, (begin, end) in zip(question.words, spans_of(question.text, question.words), strict=True):
            assert question.text[begin:end] == word
        known = {*every_word(), *SUBJECTS, *COLOURS}
        assert set(question.text.rstrip("?").split()) <= known


def test_a_side_is_asked_where_it_is_clear() -> None:
    assert on_side((CAT, BOW, CAR), 0, "right of") == (1, 2)
    assert on_side((CAT, BOW, CAR), 0, "left of") == ()
    assert on_side((CAT, BOW), 0, "above") is None  # two pixels are too few
    near = Shown("dog", None, (2 + int(CLEAR) - 1, 50, 22 + int(CLEAR) - 1, 60))
    assert on_side((CAT, near), 0, "right of") is None
    assert on_side((CAT, near), 0, "below") == (1,)
    assert ask_side((CAT,), np.random.default_rng(0)) is None


def test_what_a_side_rests_on() -> None:
    rng = np.random.default_rng(2)
    found = {
        question.text: question for question in (ask_side((CAT, BOW), rng) for _ in range(60)) if question
    }
    assert found["what is right of the cat?"].answer == "bow"
    assert set(found["what is right of the cat?"].subjects) == {0, 1}
    assert found["what is left of the cat?"].answer == "nothing"


def test_yes_and_no_are_as_frequent_and_no_is_close() -> None:
    rng = np.random.default_rng(3)
    asked = [ask_coloured((CAT, BOW, CAR), rng) for _ in range(300)]
    yes = np.mean([question is not None and question.answer == "yes" for question in asked])
    assert 0.4 < yes < 0.6
    for question in asked:
        assert question is not None
        name = question.words[1]
        assert name in ("bow", "car")  # the thing is there; only its colour may be another


def test_nothing_to_ask_about_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one subject"):
        ask((), np.random.default_rng(0))
