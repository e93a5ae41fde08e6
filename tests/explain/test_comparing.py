"""The features of a word are what the model's own logits of the sentences say, by plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from checking import OTHERS, Processor, logits_of, noise, two_towers
from explain_tiny import tiny
from heedful.explain import InputError, UnknownFamilyError
from heedful.explain.comparing import Comparer, Question, _shown, compare
from heedful.explain.sentences import listed
from hypothesis import given
from hypothesis import strategies as st

LOGITS = st.lists(st.floats(-30, 30), min_size=3, max_size=6)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_features_are_those_of_the_models_own_forward(name: str) -> None:
    model, processor = two_towers(name)
    words, image = ("frog", "bow"), noise()
    comparer = Comparer(model, processor, OTHERS)
    (embed,) = comparer.images([image])

    for word, measured in zip(words, Question(comparer, words).measure(embed), strict=True):
        rest = [one for one in words if one != word]

        def scores(*texts: str) -> np.ndarray:
            return np.array(logits_of(model, processor, image, texts))

        both, alone, others = (
            scores(listed(words)),
            scores(listed([word])),
            scores(*(listed([one]) for one in OTHERS)),
        )
        without = scores(listed(rest), listed([]))
        swapped = scores(*(listed([other if one == word else one for one in words]) for other in OTHERS))
        odds = np.logaddexp(both[0], alone[0]) - np.logaddexp(*without)
        expected = (odds, both[0] - swapped.max(), (alone[0] - others.mean()) / others.std())
        assert measured.features == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert measured.score == pytest.approx(both[0], rel=1e-4)
        assert measured.controls[listed(rest)] == pytest.approx(without[0], rel=1e-4)
        assert len(measured.controls) == 4
        assert max(score for text, score in measured.controls.items() if text != listed(rest)) == (
            pytest.approx(swapped.max(), rel=1e-4)
        )


@given(LOGITS, LOGITS, LOGITS, st.floats(-30, 30), st.floats(-20, 20))
def test_compare_looks_at_differences_alone(
    one: list[float], other: list[float], rest: list[float], whole: float, shift: float
) -> None:
    plain = compare(one, other, whole, rest, whole, rest)
    moved = compare(
        [value + shift for value in one],
        [value + shift for value in other],
        whole + shift,
        [value + shift for value in rest],
        whole + shift,
        [value + shift for value in rest],
    )
    turned = compare(other, one, whole, rest, whole, rest)

    assert moved[:2] == pytest.approx(plain[:2], abs=1e-6)
    if np.std(rest) > 1e-2:
        assert moved[2] == pytest.approx(plain[2], rel=1e-4, abs=1e-4)
    assert turned[0] == pytest.approx(-plain[0], abs=1e-9)


def test_of_few_words_every_combination_is_asked_of_many_a_few() -> None:
    counts = {}
    for count in (3, 5, 12):
        words = tuple(f"w{index}" for index in range(count))
        counts[count] = len(_shown(words))
        assert all(sorted(shown + gone) == sorted(words) for shown, gone in _shown(words).items())

    assert counts == {3: 8, 5: 32, 12: 1 + 12 + math.comb(12, 2) + 12 + 1}


def test_colours_are_exchanged_too() -> None:
    model, processor = two_towers("clip")

    swaps = Question(Comparer(model, processor, OTHERS), ["red bow"]).swaps["red bow"]

    assert {"a red hat", "a blue bow", "a yellow bow"} <= set(swaps)
    assert "a red bow" not in swaps


def test_what_is_asked_about_is_no_control() -> None:
    model, processor = two_towers("clip")

    question = Question(Comparer(model, processor, OTHERS), ["Cat", "red hat"])

    assert question.others == ["dog", "cow", "apple"]


def test_a_prompt_that_is_too_long_gives_way_to_its_words() -> None:
    model, processor = two_towers("clip")
    comparer = Comparer(model, processor, OTHERS)

    long = Question(comparer, ["frog"], "a frog " + "very " * 20 + "green")
    short = Question(comparer, ["frog"], "one green frog")

    assert (long.prompt, short.prompt) == ("a frog", "one green frog")
    with pytest.raises(InputError, match="ask for fewer words"):
        Question(comparer, [f"w{index}" for index in range(6)])


@pytest.mark.parametrize(
    ("name", "processor", "others", "wrong"),
    [
        ("vit", Processor(), OTHERS, "CLIPModel or SiglipModel"),
        ("clip", None, OTHERS, "AutoProcessor"),
        ("clip", Processor(), OTHERS[:2], "at least 3 others"),
    ],
)
def test_refuses(name: str, processor: Processor | None, others: tuple[str, ...], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        Comparer(tiny(name)[0], processor, others)
    with pytest.raises(UnknownFamilyError):
        Comparer(torch.nn.Linear(2, 2), Processor())
