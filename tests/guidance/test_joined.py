"""Texts of several encoders as one sequence: words stand at all their places, and losses read just these."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import pytest
import torch
from heedful.guidance import GuidanceError, TokenNotFoundError, losses
from heedful.guidance.encoding import OTHER_TEXT, PADDING, encode
from heedful.guidance.groups import Group
from heedful.guidance.joined import JoinedTokenizer, Stretch
from heedful.guidance.maps import AttentionMaps
from heedful.guidance.parts import parts_of
from heedful.guidance.tokens import Span, find_spans, own_tokens, spans_from_indices
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import BOXES, GROUPS, LAST, SPANS, previous, random_maps
from tiny import START, WORDS, tiny_tokenizer
from tiny_transformers import tiny_t5_tokenizer

CLIP, T5 = tiny_tokenizer(), tiny_t5_tokenizer()
PROMPT = "a cat, and a backpack"
NORMALISED = (
    "attend_and_excite",
    "total_variation",
    "overlap",
    "nt_xent",
    "symmetric_kl_binding",
    "retention",
)
TEXTS = st.lists(st.sampled_from([*WORDS, "backpack", "elephant", "t-shirt", ",", "."]), max_size=9)


def joined(clip: int = 77, t5: int = 20, other: Collection[str] = ()) -> JoinedTokenizer:
    """`other` are the encoders that are given another text in place of `PROMPT`."""
    texts = [{PROMPT} if encoder in other else () for encoder in ("clip", "t5")]
    return JoinedTokenizer(Stretch(CLIP, clip, texts[0]), Stretch(T5, t5, texts[1]))


def test_a_word_stands_in_every_encoder():
    cat, backpack = find_spans(joined(), PROMPT, ["cat", "backpack"])
    assert cat.indices == (2, 77 + 1)
    assert backpack.indices == (6, 7, 77 + 5, 77 + 6)
    assert own_tokens(joined(), PROMPT) == ((1, 8), (77, 84))


@given(TEXTS.map(" ".join))
def test_each_encoder_has_its_own_tokens_at_its_own_places(text):
    found = joined(30, 40).encoding(text)
    clip, t5 = encode(CLIP, text, 30), encode(T5, text, 40)
    assert found.own == (*clip.own, *(30 + index for index in t5.own))
    for tokens, start in ((clip, 0), (t5, 30)):
        for index in tokens.own:
            assert found.offsets[start + index] == tokens.offsets[index]
            assert found.ids[start + index] == tokens.ids[index]
    assert len(found.ids) == 30 + len(t5.ids)


@given(TEXTS.map(" ".join))
def test_every_position_belongs_to_one_part(text):
    parts = parts_of(joined(30, 40), text, 70)
    assert sorted(index for span in parts.sequence for index in span.indices) == list(range(parts.columns))
    assert len({span.label for span in parts.sequence}) == len(parts.sequence)


def test_the_parts_of_two_texts_are_named():
    parts = parts_of(joined(10, 20), "a backpack", 30)
    assert [span.label for span in parts.sequence] == [
        START, "a", "backpack", "<|endoftext|>", PADDING, "</s>"
    ]  # fmt: skip
    assert parts.sequence[4].indices == (5, 6, 7, 8, 9, 14)
    assert parts.text == (1, 4, 10, 13)


def test_a_word_that_only_one_encoder_cuts_off_is_there():
    (frog,) = find_spans(joined(6), "a cat and a frog", ["frog"])
    assert frog.indices == (6 + 4,)
    with pytest.raises(TokenNotFoundError, match=r"cut off: the text encoder takes 6 tokens"):
        find_spans(joined(6, 4), "a cat and a frog", ["frog"])


def test_an_encoder_that_was_given_another_text_says_nothing():
    (cat,) = find_spans(joined(other=["clip"]), PROMPT, ["cat"])
    assert cat.indices == (78,)
    assert own_tokens(joined(other=["clip"]), PROMPT) == ((77, 84),)
    assert parts_of(joined(other=["clip"]), PROMPT, 97).sequence[0] == Span(OTHER_TEXT, tuple(range(77)))
    (cat,) = find_spans(joined(other=["t5"]), PROMPT, ["cat"])
    assert cat.indices == (2,)
    assert own_tokens(joined(other=["t5"]), PROMPT) == 8
    assert find_spans(joined(other=["clip"]), "a cat", ["cat"])[0].indices == (2, 78)
    with pytest.raises(GuidanceError, match="no text encoder was given the prompt"):
        find_spans(joined(other=["clip", "t5"]), PROMPT, ["cat"])


def test_places_are_counted_in_each_encoder_apart():
    spans = find_spans(joined(), "a dog and a dog", ["dog", "dog#2"])
    assert [span.indices for span in spans] == [(2, 78), (5, 81)]
    assert spans_from_indices(joined(), "a dog and a dog", [(5, 81), 81, (2,)]) == (
        spans[1],
        Span("dog", (81,), 2),
        Span("dog", (2,)),
    )
    with pytest.raises(TokenNotFoundError, match=r"1: a, 2: dog.*77: a, 78: dog"):
        spans_from_indices(joined(), "a dog", [40])


def test_a_sequence_without_a_start_token_is_a_range():
    flux = JoinedTokenizer(Stretch(T5, 20))
    assert own_tokens(flux, "a cat") == ((0, 2),)
    assert find_spans(flux, "cat", ["cat"])[0].indices == (0,)


@pytest.mark.parametrize("stretches", [(), (Stretch(CLIP, 0),)])
def test_tokenizers_are_joined_with_positions(stretches):
    with pytest.raises(GuidanceError, match="at least one position each"):
        JoinedTokenizer(*stretches)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_read_ranges_as_they_read_a_text_in_one_piece(name):
    """A text of two halves, with other tokens before, between and behind, is the text without them."""
    maps, places = random_maps(), [4, 0, 1, 2, 3, 9, 10, 11, 6]  # where each old position goes

    def moved(span: Span) -> Span:
        return dataclasses.replace(span, indices=tuple(places[index] for index in span.indices))

    layers = {}
    for layer, probabilities in maps.layers.items():
        spread = torch.rand(*probabilities.shape[:-1], 14, dtype=torch.float64)
        spread[..., places] = probabilities
        layers[layer] = spread
    apart = AttentionMaps(layers, maps.self_layers)
    groups = [
        tuple(Group(moved(group.noun), tuple(map(moved, group.modifiers))) for group in own) for own in GROUPS
    ]
    last = [((0, 4), (9, 11)), ((0, 4), (9, 12))]
    loss = {losses.LOSSES[name]: 1.0}
    here = {"boxes": BOXES, "previous": previous()}
    expected = losses.weighted_sum(loss, maps, SPANS, last=LAST, groups=GROUPS, **here)
    spans = [[moved(span) for span in own] for own in SPANS]
    found = losses.weighted_sum(loss, apart, spans, last=last, groups=groups, **here)
    torch.testing.assert_close(found, expected)
    if name in NORMALISED:
        other = losses.weighted_sum(loss, apart, spans, last=[((0, 13),)] * 2, groups=groups, **here)
        assert not torch.allclose(other, expected)


@pytest.mark.parametrize("last", [[((0, 4),), ((0, 15),)], [((4, 2),), ((0, 4),)], [((0, 4),)]])
def test_ranges_outside_the_sequence_are_refused(last):
    maps = random_maps(tokens=14)
    with pytest.raises(GuidanceError, match=r"ranges \(first, end\)"):
        losses.subject_maps(maps, [[], []], last=last)


def test_a_span_outside_the_ranges_is_refused():
    maps = random_maps(1, tokens=14)
    with pytest.raises(TokenNotFoundError, match=r"read at 0\.\.3, 9\.\.10"):
        losses.subject_maps(maps, [[Span("end", (4,))]], last=[((0, 4), (9, 11))])
