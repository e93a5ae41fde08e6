"""BLIP: both towers and the attention between them, in order; the match read from [CLS]; wide images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_reading import (
    ask,
    assert_equal_attention,
    assert_reads,
    assert_two_are_two_singles,
    before_dropout,
    called_sites,
)
from explain_tiny_more import image, one, tiny_blip
from heedful.explain.errors import InputError, TargetError
from heedful.explain.models import family_of
from heedful.explain.wiring import CrossStep, SelfStep


@pytest.fixture(scope="module")
def blip() -> tuple[Any, dict[str, Any]]:
    return tiny_blip()


def test_every_attention_is_captured_as_the_model_makes_it(blip: Any) -> None:
    model, inputs = blip
    sites = family_of(model).sites(model)
    seen = ask(model, inputs).seen
    assert_equal_attention(seen, before_dropout(model, inputs, {s: f"{s.module}.dropout" for s in sites}))
    with torch.no_grad():
        exposed = model(**inputs, output_attentions=True).attentions
    for layer, maps in enumerate(exposed):
        torch.testing.assert_close(seen.attention[sites[layer]].detach(), maps)


def test_the_steps_are_in_the_order_of_the_forward(blip: Any) -> None:
    model, inputs = blip
    wiring = family_of(model).wiring(model)
    assert list(wiring.sites) == called_sites(model, inputs)
    kinds = [(type(step), step.stream) for step in wiring.flat]
    assert kinds == [(SelfStep, "image")] * 3 + [(SelfStep, "text"), (CrossStep, "text")] * 2
    assert len(wiring.part("image").steps) == 3


def third_word(outputs: Any) -> torch.Tensor:
    """A score that is not the head's."""
    return outputs.question_embeds[:, 3, 0]


@pytest.mark.parametrize(
    ("target", "place"), [(None, 0), (0, 0), ("match", 0), (["no match", 1], 0), (third_word, 3)]
)
def test_the_score_is_read_where_it_is_said_to_be(blip: Any, target: Any, place: int) -> None:
    model, inputs = blip
    target = ["no match", "match"] if isinstance(target, list) else target
    asked = ask(model, inputs, target)
    assert_reads(asked.reading, asked.seen.outputs[asked.family.watches(model)[0]], "text")
    assert asked.reading.readouts[0].weights.argmax(-1).tolist() == [place, place]


def test_nothing_asked_is_the_match(blip: Any) -> None:
    asked = ask(*blip)
    assert torch.equal(asked.reading.scores, asked.outputs.itm_score[:, 1])
    assert asked.reading.targets == ("match", "match")
    reading = asked.family.read(*blip, asked.outputs, asked.seen, ["no match", "match"])
    assert torch.equal(reading.scores, asked.outputs.itm_score[[0, 1], [0, 1]])


def test_both_answers_of_one_pair_share_its_streams(blip: Any) -> None:
    model, inputs = blip
    reading = ask(model, one(inputs, 1), [0, 1]).reading
    assert (reading.shared, reading.targets) == ({"image", "text"}, ("no match", "match"))


def test_patches_and_words(blip: Any) -> None:
    asked = ask(*blip)
    patches, words = asked.reading.segments
    assert (patches.kind, patches.stream, patches.grid) == ("image", "image", (3, 5))
    assert (patches.positions, patches.mask) == (slice(1, 16), None)
    assert (words.kind, words.stream, words.positions) == ("text", "text", slice(0, 7))
    assert words.mask.int().tolist() == [[0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]]
    for step in asked.family.wiring(blip[0]).flat:
        maps = asked.seen.attention[step.site]
        assert maps.shape[-1] == (7 if isinstance(step, SelfStep) and step.stream == "text" else 16)
        if maps.shape[-1] == 7:
            assert not maps[1, ..., 5:].any()


def test_two_are_two_singles(blip: Any) -> None:
    for target in (None, 0):
        assert_two_are_two_singles(*blip, target)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (2, "no class 2"),
        ("cat", 'no label "cat".*match'),
        ([0, 1, 0], "3 targets"),
        (lambda outputs: outputs.last_hidden_state[:, 0, 0], "does not depend"),
    ],
)
def test_targets_that_are_not_there(blip: Any, target: Any, words: str) -> None:
    asked = ask(*blip)
    with pytest.raises(TargetError, match=words):
        asked.family.read(*blip, asked.outputs, asked.seen, target)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel_values": None}, "needs input_ids, pixel_values"),
        ({"interpolate_pos_encoding": False}, "24 x 40 .* 32 x 32"),
        ({"pixel_values": image(2, 24, 40)[:, :2]}, "3 channels"),
        ({"pixel_values": image(1, 24, 40)}, "1 images and 2 texts"),
        ({"use_itm_head": False}, "use_itm_head"),
        ({"input_ids": torch.full((2, 7), 50)}, "between 0 and 49"),
        ({"attention_mask": torch.tensor([[1] * 7, [1, 1, 0, 0, 0, 0, 0]])}, "text 1 is empty"),
    ],
)
def test_inputs_that_are_refused(blip: Any, change: dict[str, Any], words: str) -> None:
    model, inputs = blip
    with pytest.raises(InputError, match=words):
        family_of(model).check(model, {**inputs, **change})
