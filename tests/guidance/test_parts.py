"""A prompt's sequence is cut into parts without gaps: every position belongs to exactly one of them."""

from __future__ import annotations

import pytest
from heedful.guidance.parts import PADDING, parts_of
from hypothesis import given
from hypothesis import strategies as st
from tiny import START, WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXTS = st.lists(st.sampled_from([*WORDS, "backpack", "elephant", "t-shirt", ",", ".", "\N{FROG FACE}"]))


def covered(parts):
    return sorted(index for span in parts.sequence for index in span.indices)


@given(TEXTS.map(" ".join))
def test_every_position_belongs_to_one_part(text):
    parts = parts_of(TOKENIZER, text, 77)
    assert covered(parts) == list(range(parts.columns))
    assert len({(span.text, span.occurrence) for span in parts.sequence}) == len(parts.sequence)
    assert set(parts.words) <= set(parts.sequence)


def test_the_parts_of_a_prompt_are_named():
    parts = parts_of(TOKENIZER, "a cat, a backpack", 77)
    assert [span.label for span in parts.words] == ["a", "cat", "a#2", "backpack"]
    assert parts.words[3].indices == (5, 6)
    labels = [span.label for span in parts.sequence]
    assert labels == [START, "a", "cat", ",", "a#2", "backpack", "<|endoftext|>", PADDING]
    assert parts.text == (1, 7)
    assert parts.columns == 9
    assert parts.left_out == ()


def test_a_word_that_stands_apart_twice_keeps_its_places():
    words = parts_of(TOKENIZER, "dog and dog", 77).words
    assert [(span.label, span.indices) for span in words] == [("dog", (1,)), ("and", (2,)), ("dog#2", (3,))]


def test_an_empty_prompt_has_no_words():
    parts = parts_of(TOKENIZER, "", 77)
    assert parts.words == ()
    assert [span.label for span in parts.sequence] == [START, "<|endoftext|>", PADDING]


def test_what_the_encoder_cuts_off_is_told():
    text = " ".join(["cat"] * 74 + ["frog", "lion", "bear"])
    parts = parts_of(TOKENIZER, text, 77)
    assert [span.text for span in parts.words] == ["cat"] * 74 + ["frog"]
    assert parts.left_out == ("lion", "bear")
    assert parts.columns == 77  # no padding left
    assert covered(parts) == list(range(77))
    assert parts.sequence[-1].text == "<|endoftext|>"


def test_without_a_prompt_every_position_is_its_own_word():
    parts = parts_of(TOKENIZER, None, 5)
    assert [span.label for span in parts.sequence] == [f"token {index}" for index in range(5)]
    assert [span.indices for span in parts.words] == [(1,), (2,), (3,), (4,)]
    assert parts.columns == 5


@pytest.mark.parametrize("length", [20, 77])
def test_a_shorter_sequence_has_less_padding(length):
    parts = parts_of(tiny_tokenizer(length), "a cat", length)
    assert parts.columns == 5
    assert parts.sequence[-1].indices == (4,)
