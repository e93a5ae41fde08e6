"""BERT, DistilBERT and BART: every attention, in order; classes, places, next words; masks; heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_reading import (
    ask,
    assert_equal_attention,
    assert_reads,
    assert_two_are_two_singles,
    called_sites,
)
from explain_tiny_more import (
    CLS,
    PAD,
    SEP,
    one,
    tiny_bart,
    tiny_bert,
    tiny_bert_words,
    tiny_distilbert,
)
from heedful.emoji import load_bert
from heedful.explain import explain
from heedful.explain.errors import InputError, TargetError, UnsupportedMethodError
from heedful.explain.models import family_of
from heedful.explain.wiring import CrossStep, SelfStep

MAKERS = {"bert": tiny_bert, "words": tiny_bert_words, "distilbert": tiny_distilbert, "bart": tiny_bart}
ENCODERS = ["bert", "words", "distilbert"]
CLASSIFIERS = ["bert", "distilbert"]
STREAM = {"bert": "text", "words": "text", "distilbert": "text", "bart": "target"}
DEFAULT = {"bert": None, "words": 2, "distilbert": None, "bart": None}


@pytest.fixture(scope="module")
def tiny() -> dict[str, tuple[Any, dict[str, Any]]]:
    return {name: maker() for name, maker in MAKERS.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_every_attention_is_captured_as_the_model_makes_it(tiny: Any, name: str) -> None:
    model, inputs = tiny[name]
    seen = ask(model, inputs, DEFAULT[name]).seen
    twin, _ = MAKERS[name]()
    twin.set_attn_implementation("eager")
    with torch.no_grad():
        eager = twin(**inputs, output_attentions=True)
    if name == "bart":
        made = [*eager.encoder_attentions]
        for own, cross in zip(eager.decoder_attentions, eager.cross_attentions, strict=True):
            made += [own, cross]
    else:
        made = list(eager.attentions)
    assert_equal_attention(seen, dict(zip(family_of(model).sites(model), made, strict=True)))


@pytest.mark.parametrize("name", MAKERS)
def test_the_steps_are_in_the_order_of_the_forward(tiny: Any, name: str) -> None:
    model, inputs = tiny[name]
    wiring = family_of(model).wiring(model)
    assert list(wiring.sites) == called_sites(model, inputs)
    assert wiring.is_plain == (name != "bart")


def test_bart_decodes_on_its_source(tiny: Any) -> None:
    model, _ = tiny["bart"]
    wiring = family_of(model).wiring(model)
    kinds = [(type(step), step.stream) for step in wiring.flat]
    assert kinds == [(SelfStep, "source")] * 2 + [(SelfStep, "target"), (CrossStep, "target")] * 3
    assert wiring.part("target") == wiring


def first_logits(outputs: Any) -> torch.Tensor:
    """A score of every input, asked for by a function; of word models at place 1."""
    return outputs.logits.flatten(2)[:, 1, 7] if outputs.logits.dim() == 3 else outputs.logits[:, 2]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, target) for name in CLASSIFIERS for target in (None, 0, "bad", ["neither", "good"])),
        *((name, target) for name in ("words", "bart") for target in (0, 3, [1, 2])),
        *((name, first_logits) for name in MAKERS),
        ("bart", None),
    ],
)
def test_the_score_is_read_where_it_is_said_to_be(tiny: Any, name: str, target: Any) -> None:
    model, inputs = tiny[name]
    asked = ask(model, inputs, target)
    last = asked.seen.outputs[asked.family.watches(model)[0]]
    assert_reads(asked.reading, last, STREAM[name])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classes(tiny: Any, name: str) -> None:
    asked = ask(*tiny[name])
    logits = asked.outputs.logits
    assert torch.equal(asked.reading.scores, logits.max(-1).values)
    reading = asked.family.read(*tiny[name], asked.outputs, asked.seen, ["bad", "good"])
    assert torch.equal(reading.scores, logits[[0, 1], [1, 0]])
    assert reading.targets == ("bad", "good")
    assert reading.readouts[0].weights.argmax(-1).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["words", "bart"])
def test_a_place_asks_for_its_likeliest_word(tiny: Any, name: str) -> None:
    asked = ask(*tiny[name], [3, 1])
    logits = asked.outputs.logits
    best, word = logits[[0, 1], [3, 1]].max(-1)
    assert torch.equal(asked.reading.scores, best)
    assert asked.reading.targets == (f"word {word[0]} at place 3", f"word {word[1]} at place 1")
    assert asked.reading.readouts[0].weights.argmax(-1).tolist() == [3, 1]


def test_bart_asks_for_the_next_word_if_nothing_is_asked(tiny: Any) -> None:
    model, inputs = tiny["bart"]
    assert ask(model, inputs).reading.readouts[0].weights.argmax(-1).tolist() == [5, 3]
    unmasked = {name: value for name, value in inputs.items() if name != "decoder_attention_mask"}
    assert ask(model, unmasked).reading.readouts[0].weights.argmax(-1).tolist() == [5, 5]
    without = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert ask(model, without).reading.readouts[0].weights.shape == (2, 7)


def test_bart_sees_no_later_word(tiny: Any) -> None:
    model, inputs = tiny["bart"]
    asked = ask(model, inputs)
    later = torch.ones(6, 6).triu(1).bool()
    for step in asked.family.wiring(model).flat:
        maps = asked.seen.attention[step.site]
        if isinstance(step, SelfStep) and step.stream == "target":
            assert not maps[..., later].any()
        else:
            assert not maps[1, ..., 5:].any()


@pytest.mark.parametrize("name", MAKERS)
def test_a_fixed_target_asks_the_same_of_another_input(tiny: Any, name: str) -> None:
    model, inputs = tiny[name]
    asked = ask(model, inputs, DEFAULT[name])
    other = {**inputs, "input_ids": inputs["input_ids"].roll(1, 0)}
    again = ask(model, other, asked.reading.fixed)
    torch.testing.assert_close(again.reading.scores, asked.reading.score_of(again.outputs))


@pytest.mark.parametrize("name", MAKERS)
def test_several_targets_of_one_text_share_its_stream(tiny: Any, name: str) -> None:
    model, inputs = tiny[name]
    asked = ask(model, one(inputs, 0), [2, 0, 1])
    assert asked.reading.shared == set(asked.family.wiring(model).streams)
    assert asked.reading.segments[0].mask.shape == (3, 7)
    assert_reads(asked.reading, asked.seen.outputs[asked.family.watches(model)[0]], STREAM[name])


@pytest.mark.parametrize("name", MAKERS)
def test_words_with_their_mask(tiny: Any, name: str) -> None:
    model, inputs = tiny[name]
    asked = ask(model, inputs, DEFAULT[name])
    words, *_ = asked.reading.segments
    assert (words.kind, words.positions) == ("text", slice(0, 7))
    assert words.mask.int().tolist() == [[0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]]
    assert not asked.seen.attention[asked.family.sites(model)[0]][1, ..., 5:].any()


def test_what_a_decoder_has_written_is_explained_too(tiny: Any) -> None:
    model, inputs = tiny["bart"]
    written = ask(model, inputs, 1).reading.segments[1]
    assert (written.kind, written.stream, written.positions) == ("target_text", "target", slice(0, 6))
    assert torch.equal(written.mask, inputs["decoder_attention_mask"].bool())
    found = explain(model, inputs, 1)
    assert found.target_text[:, 0].gt(0).any()
    assert not found.target_text[:, 1:].any()  # the place that is read, and those that it does not see


def test_a_closing_token_between_two_texts_is_no_word(tiny: Any) -> None:
    model, _ = tiny["bert"]
    pair = {"input_ids": torch.tensor([[CLS, 7, SEP, 8, 9, SEP, PAD]])}
    (words,) = ask(model, pair).reading.segments
    assert words.mask.int().tolist() == [[0, 1, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("name", MAKERS)
def test_two_are_two_singles(tiny: Any, name: str) -> None:
    for target in (DEFAULT[name], 1):
        assert_two_are_two_singles(*tiny[name], target)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_head_on_the_last_layer_gives_the_score_itself(tiny: Any, name: str) -> None:
    model, inputs = tiny[name]
    for target in (2, first_logits):
        asked = ask(model, inputs, target)
        names = asked.family.layers(model)["text"]
        assert len(names) == len(asked.family.sites(model))
        last = asked.seen.outputs[names[-1]].detach()
        scores = asked.family.layer_scores(
            model, inputs, asked.outputs, asked.reading, asked.reading.readouts[0], last.requires_grad_()
        )
        torch.testing.assert_close(scores, asked.reading.scores)
        other = asked.family.layer_scores(
            model, inputs, asked.outputs, asked.reading, asked.reading.readouts[0], last * 0.5
        )
        assert not torch.allclose(other, asked.reading.scores)


def test_legrad_of_what_a_lower_layer_has_not(tiny: Any) -> None:
    model, inputs = tiny["bert"]
    asked = ask(model, {**inputs, "output_hidden_states": True}, lambda out: out.hidden_states[-1][:, 1, 0])
    last = asked.seen.outputs[asked.family.watches(model)[0]]
    assert asked.reading.readouts[0].weights.argmax(-1).tolist() == [1, 1]
    with pytest.raises(UnsupportedMethodError, match="lower layer"):
        asked.family.layer_scores(
            model, inputs, asked.outputs, asked.reading, asked.reading.readouts[0], last
        )


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("bert", 3, "no class 3"),
        ("distilbert", "ugly", 'no label "ugly"'),
        ("bert", [0, 1, 2], "3 targets"),
        ("words", None, "a place in the text, 0 to 6"),
        ("words", 7, "a place in the text, 0 to 6"),
        ("words", "cat", "a place in the text, 0 to 6 .*'cat'"),
        ("bart", 5, "0 to 3 here.*it was 5"),
        ("bart", -1, "0 to 5"),
        ("bart", [0, 1, 2], "3 targets"),
        ("bart", lambda outputs: outputs.encoder_last_hidden_state[:, 0, 0], "does not depend"),
        ("words", lambda outputs: outputs.logits.sum(), "a tensor of 2 floats"),
    ],
)
def test_targets_that_are_not_there(tiny: Any, name: str, target: Any, words: str) -> None:
    asked = ask(*tiny[name], DEFAULT[name])
    with pytest.raises(TargetError, match=words):
        asked.family.read(*tiny[name], asked.outputs, asked.seen, target)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": None}, "needs input_ids"),
        ({"input_ids": torch.tensor([[CLS, SEP, PAD]] * 2), "attention_mask": None}, "text 0 is empty"),
        ({"attention_mask": torch.tensor([[1] * 7, [1, 1, 0, 0, 0, 0, 0]])}, "text 1 is empty"),
        ({"input_ids": torch.full((2, 7), 50)}, "between 0 and 49"),
        ({"input_ids": torch.full((2, 13), 5), "attention_mask": None}, "at most 12"),
        ({"inputs_embeds": torch.zeros(2, 7, 24)}, "leave out inputs_embeds"),
    ],
)
def test_inputs_that_are_refused(tiny: Any, name: str, change: dict[str, Any], words: str) -> None:
    model, inputs = tiny[name]
    with pytest.raises(InputError, match=words):
        family_of(model).check(model, {**inputs, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder_input_ids": torch.full((2, 6), 50)}, "in decoder_input_ids: .* between 0 and 49"),
        ({"decoder_input_ids": torch.full((3, 6), 5)}, "2 input_ids, 3 decoder_input_ids"),
        ({"decoder_attention_mask": torch.ones(2, 7)}, r"decoder_attention_mask must be .* \(2, 6\)"),
        ({"past_key_values": object()}, "leave out past_key_values"),
    ],
)
def test_targets_so_far_that_are_refused(tiny: Any, change: dict[str, Any], words: str) -> None:
    model, inputs = tiny["bart"]
    with pytest.raises(InputError, match=words):
        family_of(model).check(model, {**inputs, **change})


@pytest.mark.parametrize(
    ("caption", "claim", "word"),
    [
        ("a red bow and a cat", "a red thing", "red"),
        ("a red bow and a cat", "an animal", "cat"),
        ("a frog with a blue chair", "an animal", "frog"),
        ("a frog with a blue chair", "a blue thing", "blue"),
        ("a frog with a blue chair", "an object", "chair"),
    ],
)
def test_the_embedded_model_rests_on_the_word_that_decides(caption: str, claim: str, word: str) -> None:
    model, tokenizer = load_bert()
    found = explain(model, tokenizer(caption, return_tensors="pt"), claim)
    assert found.words[0][int(found.text[0].argmax())] == word
