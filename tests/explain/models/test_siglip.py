"""SigLIP: the pooling attention, the text that is read at its last token, pairs, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_tiny import PAD, images, read, seen_by, single, tiny
from heedful.explain.capture import capture
from heedful.explain.errors import InputError, TargetError
from heedful.explain.models import family_of
from heedful.explain.wiring import Site

POOL = Site("vision_model.head.attention")


def test_the_pooling_attention_is_a_site_but_no_step() -> None:
    model, inputs = tiny("siglip")
    family = family_of(model)

    with capture(model) as alone:  # the capture finds the attentions by itself
        model(**inputs)
    _, _, seen, reading = read(model, inputs)

    image = [Site(f"vision_model.encoder.layers.{index}.self_attn") for index in range(3)]
    text = [Site(f"text_model.encoder.layers.{index}.self_attn") for index in range(2)]
    assert family.wiring(model).sites == (*image, *text)
    assert set(seen.attention) == set(alone.attention) == set(family.sites(model)) == {*image, *text, POOL}
    assert seen.attention[POOL].shape == (2, 2, 1, 15)
    assert seen.attention[image[0]].shape == (2, 2, 15, 15)
    assert [readout.pool for readout in reading.readouts] == [POOL, None]


def test_the_score_is_the_pair_of_image_and_text() -> None:
    model, inputs = tiny("siglip")

    _, outputs, _, pairs = read(model, inputs)
    _, _, _, texts = read(model, single(inputs, 0, "pixel_values"))
    _, _, _, pictures = read(model, single(inputs, 1, "input_ids"))

    logits = outputs.logits_per_image
    torch.testing.assert_close(pairs.scores, logits.diagonal())
    torch.testing.assert_close(texts.scores, logits[0])
    torch.testing.assert_close(pictures.scores, logits[:, 1])
    assert (pairs.shared, texts.shared, pictures.shared) == (frozenset(), {"image"}, {"text"})
    assert texts.readouts[0].weights.tolist() == [[1.0], [1.0]]


def test_the_pool_reads_every_patch_and_the_text_its_last_token() -> None:
    model, inputs = tiny("siglip")

    family, _, seen, reading = read(model, inputs)

    image, text = reading.readouts
    assert image.weights.tolist() == [[1.0], [1.0]]
    assert text.weights.nonzero().tolist() == [[0, 6], [1, 6]]
    last = {stream: seen.outputs[names[-1]] for stream, names in family.layers(model).items()}
    assert seen_by(reading.scores.sum(), last["image"]).all()
    assert torch.equal(seen_by(reading.scores.sum(), last["text"]), text.weights > 0)


def test_the_text_tower_is_not_causal() -> None:
    model, inputs = tiny("siglip")

    _, _, seen, _ = read(model, inputs)

    attention = seen.attention[Site("text_model.encoder.layers.0.self_attn")]
    assert (attention > 0).all()


@pytest.mark.parametrize(
    ("ids", "mask", "words"),
    [
        ([7, 12, 9, 4, 8, PAD, PAD], None, [1, 1, 1, 1, 1, 0, 0]),
        ([7, 12, 9, 4, 8, 5, PAD], None, [1, 1, 1, 1, 1, 1, 0]),
        ([7, 12, PAD, 0, 0, 0, 0], None, [1, 1, 0, 0, 0, 0, 0]),  # SigLIP 2: an end token, padding with 0
        ([7, 7, 7, PAD, PAD, PAD, PAD], None, [1, 1, 1, 0, 0, 0, 0]),
        ([7, 12, 9, PAD, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]),
    ],
)
def test_words_are_what_is_before_end_and_padding(
    ids: list[int], mask: list[int] | None, words: list[int]
) -> None:
    model, inputs = tiny("siglip")
    inputs = {**single(inputs, 0), "input_ids": torch.tensor([ids])}
    if mask:
        inputs["attention_mask"] = torch.tensor([mask])

    _, _, _, reading = read(model, inputs)

    assert reading.segments[1].mask is not None
    assert reading.segments[1].mask.int().tolist() == [words]


@pytest.mark.parametrize(("height", "width"), [(24, 40), (16, 8), (32, 32), (27, 47)])
def test_the_grid_is_that_of_the_image_and_there_is_no_cls(height: int, width: int) -> None:
    model, inputs = tiny("siglip")

    _, _, seen, reading = read(model, {**inputs, "pixel_values": images(height, width)})

    assert reading.segments[0].grid == (height // 8, width // 8)
    assert reading.segments[0].positions == slice(0, (height // 8) * (width // 8))
    assert seen.attention[POOL].shape[-1] == (height // 8) * (width // 8)


@pytest.mark.parametrize("target", [None, lambda outputs: outputs.logits_per_image.diagonal().sigmoid()])
def test_the_last_layer_scores_what_the_model_does(target: Any) -> None:
    model, inputs = tiny("siglip")

    family, outputs, seen, reading = read(model, inputs, target)

    for readout in reading.readouts:
        layers = [seen.outputs[layer] for layer in family.layers(model)[readout.stream]]
        scores = [family.layer_scores(model, inputs, outputs, reading, readout, hidden) for hidden in layers]
        torch.testing.assert_close(scores[-1], reading.scores)
        assert not torch.allclose(scores[0], scores[-1])


def test_a_lower_layer_is_pooled_by_the_models_own_attention() -> None:
    model, inputs = tiny("siglip")
    family, outputs, seen, reading = read(model, inputs)
    hidden = seen.outputs[family.layers(model)["image"][0]]

    with capture(model.vision_model.head) as pooled:  # type: ignore[arg-type]
        scores = family.layer_scores(model, inputs, outputs, reading, reading.readouts[0], hidden)

    assert [map.shape for map in pooled.attention.values()] == [(2, 2, 1, 15)]
    (gradient,) = pooled.gradients(scores).values()
    assert gradient.abs().sum() > 0


def test_a_batch_of_two_is_read_as_two_singles() -> None:
    model, inputs = tiny("siglip")

    _, _, seen, together = read(model, inputs)
    for item in range(2):
        _, _, alone, reading = read(model, single(inputs, item))

        torch.testing.assert_close(reading.scores, together.scores[item : item + 1])
        for site, attention in alone.attention.items():
            torch.testing.assert_close(attention, seen.attention[site][item : item + 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": None}, "for pixel_values came NoneType"),
        ({"pixel_values": images(batch=3)}, "3 images and 2 texts are no pairs"),
        ({"pixel_values": images(16, 64), "interpolate_pos_encoding": False}, "16 x 64 .*model's 32 x 32"),
        ({"pixel_values": images()[:, :2]}, "3 channels"),
        ({"input_ids": torch.tensor([[7, 8, PAD], [PAD, PAD, PAD]])}, "text 1 is empty"),
        ({"input_ids": torch.tensor([[7, 8, 99], [7, 8, PAD]])}, "between 0 and 39, got 1 to 99"),
    ],
)  # fmt: skip
def test_bad_inputs_are_refused_before_the_forward(changes: dict[str, Any], message: str) -> None:
    model, inputs = tiny("siglip")

    with pytest.raises(InputError, match=message):
        family_of(model).check(model, {**inputs, **changes})


def test_a_text_is_no_target() -> None:
    model, inputs = tiny("siglip")

    with pytest.raises(TargetError, match="what SigLIP is asked are its texts"):
        read(model, inputs, "a cat")
