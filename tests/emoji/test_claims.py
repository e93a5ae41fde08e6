"""What captions claim, checked against what they were written from."""

from __future__ import annotations

import numpy as np
import pytest
from heedful.emoji.captions import write_caption
from heedful.emoji.claims import CLAIMS, deciding_words, draw_caption, true_claims
from heedful.emoji.vocabulary import ANIMALS, COLOURS, OBJECTS, SUBJECTS


def words_at(text: str, claim: str) -> list[str]:
    return [text[begin:end] for begin, end in deciding_words(text, claim)]


def test_the_claims_of_a_caption_are_those_of_what_it_was_written_from() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        names = [str(name) for name in rng.choice(SUBJECTS, size=rng.integers(1, 4), replace=False)]
        named = [(name, str(rng.choice(COLOURS)) if name in OBJECTS else None) for name in names]
        truth = dict(zip(CLAIMS, true_claims(write_caption(named, rng)), strict=True))
        animals = len(set(names) & set(ANIMALS))
        objects = len(names) - animals
        assert truth["an animal"] == (animals > 0)
        assert truth["two objects"] == (objects > 1)
        assert truth["an animal and an object"] == (animals > 0 and objects > 0)
        for colour in COLOURS:
            article = "an" if colour == "orange" else "a"
            assert truth[f"{article} {colour} thing"] == (colour in [one[1] for one in named])


def test_the_deciding_words_are_known() -> None:
    text = "a photo of the cat, a red bow and one turtle"
    assert words_at(text, "a red thing") == ["red"]
    assert words_at(text, "an animal") == ["cat", "turtle"]
    assert words_at(text, "two animals") == ["cat", "turtle"]
    assert words_at(text, "an animal and an object") == ["cat", "bow", "turtle"]
    assert words_at(text, "a blue thing") == []
    assert words_at(text, "two objects") == []


def test_hidden_words_claim_nothing() -> None:
    assert words_at("a [MASK] bow", "a red thing") == []
    assert words_at("a red [MASK]", "an object") == []


def test_a_bowl_is_no_bow_and_an_unknown_claim_is_refused() -> None:
    assert words_at("a bowl and a bow", "two objects") == ["bowl", "bow"]
    with pytest.raises(ValueError, match='no claim "a cat"; the claims are: a black thing'):
        deciding_words("a cat", "a cat")


def test_captions_make_every_claim_true_sometimes_and_false_sometimes() -> None:
    rng = np.random.default_rng(1)
    share = np.mean([true_claims(draw_caption(rng)) for _ in range(600)], 0)
    assert share.min() > 0.02
    assert share.max() < 0.9
