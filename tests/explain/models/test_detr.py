"""DETR: every attention, in order; boxes by number, label and score; cells of a map that is not square."""

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
from explain_tiny_more import one, tiny_detr
from heedful.explain.errors import InputError, TargetError
from heedful.explain.models import family_of
from heedful.explain.wiring import CrossStep, SelfStep


@pytest.fixture(scope="module")
def detr() -> tuple[Any, dict[str, Any]]:
    return tiny_detr()


def test_every_attention_is_captured_as_the_model_makes_it(detr: Any) -> None:
    model, inputs = detr
    seen = ask(model, inputs).seen
    twin, _ = tiny_detr()
    twin.set_attn_implementation("eager")
    with torch.no_grad():
        eager = twin(**inputs, output_attentions=True)
    made = [*eager.encoder_attentions]
    for own, cross in zip(eager.decoder_attentions, eager.cross_attentions, strict=True):
        made += [own, cross]
    assert_equal_attention(seen, dict(zip(family_of(model).sites(model), made, strict=True)))


def test_the_steps_are_in_the_order_of_the_forward(detr: Any) -> None:
    model, inputs = detr
    wiring = family_of(model).wiring(model)
    assert list(wiring.sites) == called_sites(model, inputs)
    kinds = [(type(step), step.stream) for step in wiring.flat]
    assert kinds == [(SelfStep, "image")] * 2 + [(SelfStep, "queries"), (CrossStep, "queries")] * 3
    assert [len(wiring.part(stream).steps) for stream in ("queries", "image")] == [8, 2]


@pytest.mark.parametrize("target", [None, 0, 6, [5, 2], lambda outputs: outputs.pred_boxes[:, 3, 0]])
def test_the_score_is_read_from_its_box_alone(detr: Any, target: Any) -> None:
    model, inputs = detr
    asked = ask(model, inputs, target)
    assert_reads(asked.reading, asked.seen.outputs["model.decoder"], "queries")


def test_the_score_is_the_largest_logit_of_a_kind(detr: Any) -> None:
    model, inputs = detr
    asked = ask(model, one(inputs, 0), list(range(7)))
    logits = asked.outputs.logits[0]
    assert (logits.argmax(-1) == 5).any(), "no box is most likely no object: the test could not fail"
    best, kinds = logits[:, :5].max(-1)
    assert torch.equal(asked.reading.scores, best)
    names = [model.config.id2label[int(kind)] for kind in kinds]
    assert asked.reading.targets == tuple(f"box {box}: {name}" for box, name in enumerate(names))


def test_nothing_asked_takes_the_surest_box(detr: Any) -> None:
    model, inputs = detr
    asked = ask(model, inputs)
    probability = asked.outputs.logits.softmax(-1)[..., :5]
    for row in range(2):
        box = asked.reading.readouts[0].weights[row].argmax()
        assert probability[row, box].max() == probability[row].max()


def test_a_label_takes_the_surest_box_that_shows_it(detr: Any) -> None:
    model, inputs = detr
    single = one(inputs, 0)
    logits = model(**single).logits[0]
    kinds = logits[:, :5].argmax(-1)
    for kind in set(kinds.tolist()):
        reading = ask(model, single, model.config.id2label[kind]).reading
        box = int(reading.readouts[0].weights.argmax())
        others = [b for b in range(7) if kinds[b] == kind]
        assert box in others
        assert max(others, key=lambda b: logits.softmax(-1)[b, kind]) == box


def test_several_boxes_of_one_image_share_its_streams(detr: Any) -> None:
    model, inputs = detr
    asked = ask(model, one(inputs, 1), [6, 0, 3])
    assert asked.reading.shared == {"image", "queries"}
    assert_reads(asked.reading, asked.seen.outputs["model.decoder"], "queries")
    assert asked.reading.segments[0].mask.shape == (3, 24)


def test_cells_are_the_feature_maps_and_padding_is_masked(detr: Any) -> None:
    model, inputs = detr
    asked = ask(model, inputs)
    (cells,) = asked.reading.segments
    assert (cells.kind, cells.stream, cells.grid, cells.positions) == ("image", "image", (4, 6), slice(0, 24))
    real = torch.zeros(4, 6, dtype=torch.bool)
    real[:3, :4] = True
    assert torch.equal(cells.mask.view(2, 4, 6), torch.stack([torch.ones_like(real), real]))
    for site, maps in asked.seen.attention.items():
        if maps.shape[-1] == 24:
            assert torch.equal(maps[1].amax((0, 1)) > 0, real.flatten()), site


def test_an_image_without_a_mask_has_none(detr: Any) -> None:
    model, inputs = detr
    (cells,) = ask(model, {"pixel_values": inputs["pixel_values"][..., :40]}).reading.segments
    assert (cells.mask, cells.grid) == (None, (4, 5))


def test_two_are_two_singles(detr: Any) -> None:
    for target in (None, 2):
        assert_two_are_two_singles(*detr, target)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (7, "no box 7.*boxes 0 to 6"),
        (-1, "boxes 0 to 6"),
        ("unicorn", 'no label "unicorn" among the model\'s 5'),
        ([1, 2, 3], "3 targets for 2 inputs"),
        ([], "0 targets"),
        (True, "a target is a number"),
        (lambda outputs: outputs.logits, "a tensor of 2 floats"),
        (lambda outputs: outputs.logits[0, 0, :3], "a tensor of 2 floats"),
        (lambda outputs: outputs.logits.detach()[:, 0, 0], "do not depend on the outputs"),
    ],
)
def test_targets_that_are_not_there(detr: Any, target: Any, words: str) -> None:
    family = family_of(detr[0])
    asked = ask(*detr)
    with pytest.raises(TargetError, match=words):
        family.read(*detr, asked.outputs, asked.seen, target)


def test_a_label_that_no_box_shows(detr: Any) -> None:
    model, inputs = detr
    asked = ask(model, inputs)
    with torch.no_grad():
        asked.outputs.logits[..., 4] = -99
    with pytest.raises(TargetError, match='no box shows "snail"; the boxes show: '):
        asked.family.read(model, inputs, asked.outputs, asked.seen, "snail")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel_values": None}, "needs pixel_values"),
        ({"pixel_values": torch.zeros(2, 4, 32, 48)}, r"\(batch, 3 channels, .* got \(2, 4, 32, 48\)"),
        ({"pixel_values": torch.zeros(3, 32, 48)}, r"got \(3, 32, 48\)"),
        ({"pixel_values": torch.zeros(2, 3, 32, 48, dtype=torch.uint8)}, "must be floats"),
        ({"pixel_mask": torch.ones(2, 4, 6)}, r"pixel_mask must be a tensor of shape \(2, 32, 48\)"),
        ({"pixel_mask": torch.zeros(2, 32, 48)}, "hides the whole of input 0"),
        ({"encoder_outputs": (torch.zeros(2, 24, 24),)}, "leave out encoder_outputs"),
    ],
)
def test_inputs_that_are_refused(detr: Any, change: dict[str, Any], words: str) -> None:
    model, inputs = detr
    with pytest.raises(InputError, match=words):
        family_of(model).check(model, {**inputs, **change})
