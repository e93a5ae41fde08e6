"""VisualBERT: words and regions in one stream; questions read from their last word, sentences from [CLS]."""

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
from explain_tiny_more import one, tiny_visual_bert, tiny_visual_bert_reasoning
from heedful.explain.errors import InputError, TargetError
from heedful.explain.models import family_of

READ_FROM = {"questions": [5, 2], "reasoning": [0, 0]}


@pytest.fixture(scope="module")
def tiny() -> dict[str, tuple[Any, dict[str, Any]]]:
    return {"questions": tiny_visual_bert(), "reasoning": tiny_visual_bert_reasoning()}


@pytest.mark.parametrize("name", READ_FROM)
def test_every_attention_is_captured_as_the_model_makes_it(tiny: Any, name: str) -> None:
    model, inputs = tiny[name]
    sites = family_of(model).sites(model)
    seen = ask(model, inputs).seen
    assert_equal_attention(seen, before_dropout(model, inputs, {s: f"{s.module}.dropout" for s in sites}))
    assert list(sites) == called_sites(model, inputs)
    assert all(maps.shape == (2, 3, 12, 12) for maps in seen.attention.values())


def second(outputs: Any) -> torch.Tensor:
    """An answer's score, asked for by a function."""
    return outputs.logits[:, 1]


@pytest.mark.parametrize("name", READ_FROM)
@pytest.mark.parametrize("target", [None, 0, "red", [3, 1], second])
def test_the_answer_is_read_from_its_token(tiny: Any, name: str, target: Any) -> None:
    model, inputs = tiny[name]
    asked = ask(model, inputs, target)
    assert_reads(asked.reading, asked.seen.outputs[asked.family.watches(model)[0]], "joint")
    assert asked.reading.readouts[0].weights.argmax(-1).tolist() == READ_FROM[name]


@pytest.mark.parametrize("name", READ_FROM)
def test_targets(tiny: Any, name: str) -> None:
    asked = ask(*tiny[name])
    logits = asked.outputs.logits
    assert torch.equal(asked.reading.scores, logits.max(-1).values)
    reading = asked.family.read(*tiny[name], asked.outputs, asked.seen, ["no", "two"])
    assert torch.equal(reading.scores, logits[[0, 1], [1, 3]])
    for target, words in ((4, "no class 4"), ("blue", 'no label "blue"'), ([0, 1, 2], "3 targets")):
        with pytest.raises(TargetError, match=words):
            asked.family.read(*tiny[name], asked.outputs, asked.seen, target)


def test_several_answers_of_one_question_share_its_stream(tiny: Any) -> None:
    model, inputs = tiny["questions"]
    reading = ask(model, one(inputs, 1), [0, 1, 3]).reading
    assert reading.shared == {"joint"}
    assert reading.readouts[0].weights.argmax(-1).tolist() == [2, 2, 2]
    assert [segment.mask.shape for segment in reading.segments] == [(3, 7), (3, 5)]


@pytest.mark.parametrize("name", READ_FROM)
def test_words_and_regions_with_their_masks(tiny: Any, name: str) -> None:
    asked = ask(*tiny[name])
    words, regions = asked.reading.segments
    assert (words.kind, words.stream, words.positions) == ("text", "joint", slice(0, 7))
    assert (regions.kind, regions.stream, regions.positions) == ("regions", "joint", slice(7, 12))
    assert words.mask.int().tolist() == [[0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0, 0]]
    assert regions.mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    for maps in asked.seen.attention.values():
        assert not maps[1, ..., [4, 5, 6, 10, 11]].any()


@pytest.mark.parametrize("name", READ_FROM)
def test_two_are_two_singles(tiny: Any, name: str) -> None:
    for target in (None, "red"):
        assert_two_are_two_singles(*tiny[name], target)


@pytest.mark.parametrize("name", READ_FROM)
def test_the_head_on_the_last_layer_gives_the_score_itself(tiny: Any, name: str) -> None:
    model, inputs = tiny[name]
    asked = ask(model, inputs, 2)
    last = asked.seen.outputs[asked.family.layers(model)["joint"][-1]]
    again = asked.family.layer_scores(
        model, inputs, asked.outputs, asked.reading, asked.reading.readouts[0], last
    )
    torch.testing.assert_close(again, asked.reading.scores)


@pytest.mark.parametrize("name", READ_FROM)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual_embeds": None}, "needs input_ids, visual_embeds"),
        ({"visual_embeds": torch.zeros(2, 5, 11)}, r"\(2 texts, regions, 10 channels\), .* \(2, 5, 11\)"),
        ({"visual_embeds": torch.zeros(1, 5, 10)}, r"got shape \(1, 5, 10\)"),
        ({"visual_attention_mask": torch.ones(2, 4)}, r"visual_attention_mask must be .* \(2, 5\)"),
        ({"attention_mask": torch.tensor([[1] * 7, [1, 1, 0, 0, 0, 0, 0]])}, "text 1 is empty"),
        ({"inputs_embeds": torch.zeros(2, 7, 24)}, "leave out inputs_embeds"),
    ],
)
def test_inputs_that_are_refused(tiny: Any, name: str, change: dict[str, Any], words: str) -> None:
    model, inputs = tiny[name]
    with pytest.raises(InputError, match=words):
        family_of(model).check(model, {**inputs, **change})


def test_questions_need_a_mask_that_ends_in_zeros(tiny: Any) -> None:
    model, inputs = tiny["questions"]
    family = family_of(model)
    with pytest.raises(InputError, match=r"needs .*attention_mask"):
        family.check(model, {**inputs, "attention_mask": None})
    with pytest.raises(InputError, match="pad on the right"):
        family.check(model, {**inputs, "attention_mask": inputs["attention_mask"].flip(1)})
    ask(tiny["reasoning"][0], {**inputs, "attention_mask": None})


def test_regions_that_go_past_the_encoder() -> None:
    model, inputs = tiny_visual_bert()
    model.config.bypass_transformer = True
    with pytest.raises(InputError, match="bypass_transformer"):
        family_of(model).check(model, inputs)
