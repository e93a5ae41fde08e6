"""Captions are right English, name what they must, and share no word that attention could settle on."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from heedful.emoji.captions import caption_for, phrase, write_caption
from heedful.emoji.vocabulary import ANIMALS, COLOURS, OBJECTS, article, label
from heedful.emoji.world import scenes
from hypothesis import given
from hypothesis import strategies as st

ANY_SUBJECT = st.one_of(
    st.tuples(st.sampled_from(ANIMALS), st.none()),
    st.tuples(st.sampled_from(OBJECTS), st.one_of(st.none(), st.sampled_from(COLOURS))),
)


def test_the_benchmark_s_three_templates() -> None:
    assert caption_for([("cat", None), ("dog", None)]) == "a cat and a dog"
    assert caption_for([("cat", None), ("bow", "red")], linker=" with ") == "a cat with a red bow"
    assert caption_for([("chair", "green"), ("car", "yellow")]) == "a green chair and a yellow car"


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (("elephant", None), "an elephant"),
        (("apple", None), "an apple"),
        (("apple", "red"), "a red apple"),
        (("bow", "orange"), "an orange bow"),
        (("frog", None), "a frog"),
    ],
)
def test_articles_follow_the_next_word(subject: tuple[str, str | None], expected: str) -> None:
    assert phrase(subject) == expected


@given(st.lists(ANY_SUBJECT, min_size=1, max_size=3), st.integers(0, 10**9))
def test_every_caption_names_its_subjects_in_order_with_right_articles(
    named: list[tuple[str, str | None]], seed: int
) -> None:
    caption = write_caption(named, np.random.default_rng(seed))
    at = 0
    for subject in named:
        at = caption.index(label(*subject), at) + 1
    words = caption.replace(",", "").split()
    for word, following in pairwise(words):
        if word in ("a", "an"):
            assert word == article(following)
    assert "  " not in caption


def test_no_word_is_in_nearly_all_captions() -> None:
    """One constant word becomes a sink of attention, and what guidance reads is then flat."""
    captions = [found.caption.replace(",", " ,").split() for found in scenes(8, 400, subjects=2)]
    counts = Counter(word for caption in captions for word in set(caption))
    assert counts.most_common(1)[0][1] < 0.75 * len(captions)
    firsts = Counter(caption[0] for caption in captions)
    assert firsts.most_common(1)[0][1] < 0.7 * len(captions)


def test_the_templates_are_a_minority() -> None:
    found = list(scenes(9, 300, subjects=2))
    as_benchmark = sum(
        scene.caption in (caption_for(scene.named), caption_for(scene.named, linker=" with "))
        for scene in found
    )
    assert 0.1 * len(found) < as_benchmark < 0.5 * len(found)


def test_nothing_named_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        caption_for([])
