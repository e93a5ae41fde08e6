"""Prompts with words left out or exchanged stay sentences, and words are found as people write them."""

from __future__ import annotations

import pytest
from heedful.emoji.captions import caption_for
from heedful.emoji.vocabulary import SUBJECTS
from heedful.explain import InputError
from heedful.explain.sentences import EMPTY, Sentence, alone, listed, numbered
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("prompt", "words", "gone", "left"),
    [
        ("a cat and a frog", ["cat", "frog"], ["cat"], "a frog"),
        ("a cat and a frog", ["cat", "frog"], ["frog"], "a cat"),
        ("a cat and a frog", ["cat", "frog"], ["cat", "frog"], EMPTY),
        ("a cat and a frog", ["cat", "frog"], [], "a cat and a frog"),
        ("a photo of a cat, a red bow and the frog", ["cat", "bow", "frog"], ["cat"],
         "a photo of a red bow and the frog"),
        ("a photo of a cat, a red bow and the frog", ["cat", "bow", "frog"], ["bow"],
         "a photo of a cat and the frog"),
        ("a photo of a cat, a red bow and the frog", ["cat", "bow", "frog"], ["cat", "frog"],
         "a photo of a red bow"),
        ("a monkey with a red bow", ["monkey", "bow"], ["bow"], "a monkey"),
        ("a monkey with a red bow", ["monkey", "red bow"], ["red bow"], "a monkey"),
        ("a frog wearing a crown on a table", ["frog", "crown", "table"], ["crown"], "a frog on a table"),
        ("there is cat next to one apple plus black chair", ["cat", "apple"], ["apple"],
         "there is cat plus black chair"),
        ("a dog and a dog", ["dog", "dog#2"], ["dog#2"], "a dog"),
        ("A Dog's t-shirt, and a red-bow", ["dog", "t-shirt", "red bow"], ["red bow"], "A Dog's t-shirt"),
        ("A Dog's t-shirt, and a red-bow", ["dog", "t-shirt", "red bow"], ["t-shirt"],
         "A Dog, and a red-bow"),
        ("a \U0001f431 and a \U0001f438", ["\U0001f431", "\U0001f438"], ["\U0001f431"], "a \U0001f438"),
        ("a photo of a dog", ["dog"], ["dog"], "a photo"),
    ],
)  # fmt: skip
def test_without(prompt: str, words: list[str], gone: list[str], left: str) -> None:
    assert Sentence(prompt, words).without(gone) == left


@pytest.mark.parametrize(
    ("prompt", "word", "other", "found"),
    [
        ("a cat and a frog", "cat", "elephant", "an elephant and a frog"),
        ("an apple, a frog", "apple", "cat", "a cat, a frog"),
        ("the cat and a frog", "cat", "apple", "the apple and a frog"),
        ("a monkey with a red bow", "red bow", "blue bow", "a monkey with a blue bow"),
        ("a dog and a dog", "dog#2", "cat", "a dog and a cat"),
        ("cafe\u0301 au lait", "caf\u00e9", "tea", "tea au lait"),
    ],
)
def test_exchanged(prompt: str, word: str, other: str, found: str) -> None:
    assert Sentence(prompt, [word]).exchanged(word, other) == found


@given(st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=4, unique=True), st.data())
def test_what_remains_of_the_benchmarks_form_is_its_form_of_what_remains(
    names: list[str], data: st.DataObject
) -> None:
    gone = data.draw(st.lists(st.sampled_from(names), unique=True))
    sentence = Sentence(caption_for([(name, None) for name in names]), names)

    kept = [name for name in names if name not in gone]

    assert sentence.without(gone) == (listed(kept) if kept else EMPTY)


@given(st.text(max_size=60))
def test_a_word_is_found_beside_any_text(text: str) -> None:
    prompt = f"{text} frog {text}"

    sentence = Sentence(prompt, ["frog"])

    assert "frog" in sentence.without([]).casefold()
    assert "otter" in sentence.exchanged("frog", "otter")


@pytest.mark.parametrize("word", ["catt", "ca", "dog#2", "", "#", "frog cat"])
def test_a_word_that_is_not_there_is_named(word: str) -> None:
    with pytest.raises(InputError, match=r"its words are: a, cat, and, dog, frog"):
        Sentence("a cat and a dog, a frog", [word])


def test_small_parts() -> None:
    assert alone("apple") == "an apple"
    assert numbered("dog#2") == ("dog", 2)
    assert numbered("dog") == ("dog", 1)
    assert listed([]) == EMPTY
    assert listed(["dog", "dog#2"]) == "a dog and a dog"
