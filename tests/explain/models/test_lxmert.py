"""LXMERT: all four attentions of a cross layer, in order; answers read from [CLS]; masked regions."""

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
from explain_tiny_more import CLS, PAD, SEP, one, tiny_lxmert
from heedful.explain.errors import InputError, TargetError
from heedful.explain.models import family_of
from heedful.explain.wiring import CrossStep, SelfStep, Site, TogetherStep

LAST = "lxmert.encoder.x_layers.1.lang_output"


@pytest.fixture(scope="module")
def lxmert() -> tuple[Any, dict[str, Any]]:
    return tiny_lxmert()


def test_every_attention_is_captured_as_the_model_makes_it(lxmert: Any) -> None:
    model, inputs = lxmert
    sites = family_of(model).sites(model)
    seen = ask(model, inputs).seen
    assert_equal_attention(seen, before_dropout(model, inputs, {s: f"{s.module}.dropout" for s in sites}))
    assert len(sites) == 3 + 1 + 2 * 4
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True)
    for layer, maps in enumerate(outputs.cross_encoder_attentions):
        name = f"lxmert.encoder.x_layers.{layer}.visual_attention.att"
        torch.testing.assert_close(seen.attention[Site(name, 0)].detach(), maps)
        assert seen.attention[Site(name, 1)].shape == (2, 3, 5, 6)


def test_the_steps_are_in_the_order_of_the_forward(lxmert: Any) -> None:
    model, inputs = lxmert
    wiring = family_of(model).wiring(model)
    assert list(wiring.sites) == called_sites(model, inputs)
    assert wiring.streams == ("text", "regions")
    kinds = [type(step) for step in wiring.steps]
    assert kinds == [SelfStep] * 4 + [TogetherStep, SelfStep, SelfStep] * 2
    words, regions = wiring.steps[4].steps
    assert (words.stream, words.context) == ("text", "regions")
    assert (regions.stream, regions.context) == ("regions", "text")


def test_the_regions_side_of_the_last_layer_cannot_reach_the_answer(lxmert: Any) -> None:
    model, inputs = lxmert
    asked = ask(model, inputs)
    wiring = asked.family.wiring(model)
    reaching = wiring.part("text").sites
    left_out = [site for site in wiring.sites if site not in reaching]
    assert left_out == [
        Site("lxmert.encoder.x_layers.1.visual_attention.att", 1),
        Site("lxmert.encoder.x_layers.1.visn_self_att.self", 0),
    ]
    last = wiring.part("text").steps[-2]
    assert isinstance(last, TogetherStep)
    assert last.steps == (CrossStep("text", "regions", Site(left_out[0].module, 0)),)
    for site, maps in asked.seen.attention.items():
        (slope,) = torch.autograd.grad(asked.reading.scores.sum(), maps, retain_graph=True, allow_unused=True)
        assert (slope is None) == (site in left_out)


@pytest.mark.parametrize(
    "target", [None, 0, "red", [3, 1], lambda outputs: outputs.question_answering_score[:, 2]]
)
def test_the_answer_is_read_from_the_first_word(lxmert: Any, target: Any) -> None:
    asked = ask(*lxmert, target, watch=(LAST,))
    assert_reads(asked.reading, asked.seen.outputs[LAST], "text")
    assert asked.reading.readouts[0].weights[:, 0].tolist() == [1, 1]


def test_targets(lxmert: Any) -> None:
    asked = ask(*lxmert)
    logits = asked.outputs.question_answering_score
    labels = ["yes", "no", "red", "two"]
    assert torch.equal(asked.reading.scores, logits.max(-1).values)
    assert asked.reading.targets == tuple(labels[index] for index in logits.argmax(-1))

    def read(target: Any) -> Any:
        return asked.family.read(*lxmert, asked.outputs, asked.seen, target)

    assert torch.equal(read(0).scores, logits[:, 0])
    assert read(0).targets == ("yes", "yes")
    assert torch.equal(read("two").scores, logits[:, 3])
    assert torch.equal(read(["no", "red"]).scores, logits[[0, 1], [1, 2]])


def test_several_answers_of_one_question_share_its_streams(lxmert: Any) -> None:
    model, inputs = lxmert
    reading = ask(model, one(inputs, 1), [0, 1, 3]).reading
    assert (reading.shared, len(reading.scores)) == ({"text", "regions"}, 3)
    assert [segment.mask.shape for segment in reading.segments] == [(3, 6), (3, 5)]


def test_words_and_regions_with_their_masks(lxmert: Any) -> None:
    asked = ask(*lxmert)
    words, regions = asked.reading.segments
    assert (words.kind, words.stream, words.positions) == ("text", "text", slice(0, 6))
    assert (regions.kind, regions.stream, regions.positions) == ("regions", "regions", slice(0, 5))
    assert words.mask.tolist() == [
        [False, True, True, True, True, False],
        [False, True, True, False, False, False],
    ]
    assert regions.mask.tolist() == [[True] * 5, [True, True, True, False, False]]
    for step in asked.family.wiring(lxmert[0]).flat:
        keys = step.context if isinstance(step, CrossStep) else step.stream
        real = 4 if keys == "text" else 3
        assert not asked.seen.attention[step.site][1, ..., real:].any()


def test_two_are_two_singles(lxmert: Any) -> None:
    for target in (None, "red"):
        assert_two_are_two_singles(*lxmert, target)


@pytest.mark.parametrize(
    ("target", "words"),
    [(4, "no class 4"), ("blue", 'no label "blue"'), ([0, 1, 2], "3 targets")],
)
def test_targets_that_are_not_there(lxmert: Any, target: Any, words: str) -> None:
    asked = ask(*lxmert)
    with pytest.raises(TargetError, match=words):
        asked.family.read(*lxmert, asked.outputs, asked.seen, target)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual_feats": None, "visual_pos": None}, "needs input_ids, visual_feats, visual_pos"),
        ({"visual_feats": torch.zeros(2, 5, 11)}, r"\(2 texts, regions, 10 channels\), .* \(2, 5, 11\)"),
        ({"visual_feats": torch.zeros(2, 0, 10)}, r"got shape \(2, 0, 10\)"),
        ({"visual_pos": torch.zeros(2, 4, 4)}, r"visual_pos must be of shape \(2, 5, 4\), got \(2, 4, 4\)"),
        ({"visual_pos": torch.full((2, 5, 4), 31.0)}, "parts of the image"),
        ({"visual_attention_mask": torch.ones(2, 6)}, "visual_attention_mask"),
        ({"visual_attention_mask": torch.zeros(2, 5)}, "hides the whole of input 0"),
        ({"input_ids": torch.tensor([[CLS, SEP, PAD, PAD]] * 2), "attention_mask": None}, "text 0 is empty"),
        ({"input_ids": torch.full((2, 6), 50)}, "between 0 and 49"),
        ({"input_ids": torch.full((2, 13), 5), "attention_mask": None}, "at most 12"),
        ({"input_ids": torch.full((2, 6), 5.0)}, "whole numbers"),
        ({"input_ids": torch.full((1, 6), 5), "attention_mask": None}, "1 texts, regions"),
        ({"attention_mask": torch.ones(2, 5)}, "attention_mask must have"),
        ({"attention_mask": torch.tensor([[1, 1, 0, 0, 0, 0]] * 2)}, "text 0 is empty"),
    ],
)
def test_inputs_that_are_refused(lxmert: Any, change: dict[str, Any], words: str) -> None:
    model, inputs = lxmert
    with pytest.raises(InputError, match=words):
        family_of(model).check(model, {**inputs, **change})
