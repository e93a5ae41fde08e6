"""ViT and DeiT: what is asked of a classifier, where it is read, and which inputs are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from explain_tiny import LABELS, VISION, images, read, seen_by, shaken, single, tiny
from heedful.emoji import load_classifier
from heedful.emoji.judge import to_tensor
from heedful.emoji.world import scene
from heedful.explain.capture import capture
from heedful.explain.errors import InputError, TargetError, UnsupportedMethodError
from heedful.explain.models import family_of
from heedful.explain.wiring import Site
from PIL import Image
from torch import Tensor

ALL = ["vit", "deit", "deit_teacher", "dinov2", "dinov2_registers"]
SPECIALS = {"vit": 1, "deit": 2, "deit_teacher": 2, "dinov2": 1, "dinov2_registers": 5}


@pytest.mark.parametrize("name", ALL)
def test_the_sites_are_all_attentions_and_a_capture_finds_no_other(name: str) -> None:
    model, inputs = tiny(name)

    with capture(model) as alone:  # the capture finds the attentions by itself
        model(**inputs)
    _, _, seen, _ = read(model, inputs)

    sites = family_of(model).sites(model)
    assert list(seen.attention) == list(alone.attention) == list(sites)
    assert len(sites) == VISION["num_hidden_layers"]
    assert all(isinstance(site, Site) and site.module.endswith("attention") for site in sites)
    assert {map.shape for map in seen.attention.values()} == {
        (2, 2, SPECIALS[name] + 15, SPECIALS[name] + 15)
    }


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("height", "width"), [(24, 40), (16, 8), (32, 32), (27, 47)])
def test_the_grid_is_that_of_the_image_without_special_tokens(name: str, height: int, width: int) -> None:
    model, inputs = tiny(name)

    _, _, seen, reading = read(model, {**inputs, "pixel_values": images(height, width)})

    (segment,) = reading.segments
    tokens = next(iter(seen.attention.values())).shape[-1]
    assert segment.grid == (height // 8, width // 8)
    assert range(tokens)[segment.positions] == range(SPECIALS[name], tokens)
    assert len(range(tokens)[segment.positions]) == (height // 8) * (width // 8)


@pytest.mark.parametrize("name", ALL)
def test_patches_lie_in_their_segment_row_by_row(name: str) -> None:
    model, inputs = tiny(name)
    family = family_of(model)
    changed = inputs["pixel_values"].clone()
    changed[:, :, 8:16, 24:32] += 1  # the patch in row 1, column 3 of 3 x 5
    tokens: list[Tensor] = []
    embeddings = model.get_submodule(family.embeddings(model)["image"])
    embeddings.register_forward_hook(lambda _module, _args, output: tokens.append(output))

    _, _, _, reading = read(model, inputs)
    read(model, {**inputs, "pixel_values": changed})

    differs = (tokens[0] - tokens[1]).abs().amax(dim=(0, 2)) > 0
    assert differs.nonzero().flatten().tolist() == [reading.segments[0].positions.start + 1 * 5 + 3]


@pytest.mark.parametrize("name", ALL)
def test_scores_are_the_logits_of_the_predicted_classes(name: str) -> None:
    model, inputs = tiny(name)

    _, outputs, _, reading = read(model, inputs)

    assert torch.equal(reading.scores, outputs.logits.max(dim=1).values)
    assert reading.targets == tuple(
        model.config.id2label[index] for index in outputs.logits.argmax(dim=1).tolist()
    )
    assert reading.fixed == outputs.logits.argmax(dim=1).tolist()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("target", "classes"),
    [(0, [0, 0]), ("frog", [0, 0]), (4, [4, 4]), ([3, 0], [3, 0]), (["cow", "frog prince"], [4, 3])],
)
def test_scores_are_the_logits_of_the_classes_asked_for(name: str, target: Any, classes: list[int]) -> None:
    model, inputs = tiny(name)

    _, outputs, _, reading = read(model, inputs, target)

    assert torch.equal(reading.scores, outputs.logits[[0, 1], classes])
    assert reading.targets == tuple(LABELS["id2label"][index] for index in classes)
    assert not reading.shared
    assert not reading.coupled


def test_several_targets_of_one_image_share_its_forward() -> None:
    model, inputs = tiny("vit")

    _, outputs, _, reading = read(model, single(inputs, 0), [4, 0, 2])

    assert torch.equal(reading.scores, outputs.logits[0, [4, 0, 2]])
    assert reading.shared == {"image"}
    assert reading.readouts[0].weights.shape == (3, 16)


def test_a_single_target_in_a_list_serves_a_single_image() -> None:
    model, inputs = tiny("vit")

    _, _, _, reading = read(model, single(inputs, 1), ["dog"])

    assert reading.targets == ("dog",)
    assert not reading.shared


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("target", [None, 2])
def test_the_head_reads_the_tokens_that_the_weights_name_and_no_others(name: str, target: Any) -> None:
    model, inputs = tiny(name)

    family, _, seen, reading = read(model, inputs, target)

    (readout,) = reading.readouts
    hidden = seen.outputs[family.layers(model)["image"][-1]]
    torch.testing.assert_close(readout.weights.sum(dim=1), torch.ones(2))
    assert torch.equal(seen_by(reading.scores.sum(), hidden), readout.weights > 0)
    assert torch.equal(seen_by(reading.scores[0], hidden)[1], torch.zeros(hidden.shape[1], dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "first"),
    [("vit", [1.0, 0.0]), ("deit", [1.0, 0.0, 0.0]), ("deit_teacher", [0.5, 0.5, 0.0])],
)
def test_vit_and_deit_are_read_at_their_special_tokens(name: str, first: list[float]) -> None:
    model, inputs = tiny(name)

    _, _, _, reading = read(model, inputs)

    weights = reading.readouts[0].weights
    assert weights[:, : len(first)].tolist() == [first, first]
    assert not weights[:, len(first) :].any()


def test_a_function_is_read_where_its_gradient_reaches() -> None:
    model, inputs = tiny("deit_teacher")

    _, _, _, both = read(model, inputs, lambda outputs: outputs.logits[:, 3] - outputs.logits[:, 1])
    _, _, _, distilled = read(model, inputs, lambda outputs: outputs.distillation_logits[:, 0])

    assert both.readouts[0].weights[0].tolist() == [0.5, 0.5] + [0.0] * 15
    assert distilled.readouts[0].weights[1].tolist() == [0.0, 1.0] + [0.0] * 15


def test_a_function_gives_the_scores() -> None:
    model, inputs = tiny("vit")

    def margin(outputs: Any) -> Tensor:
        return outputs.logits[:, 0] - outputs.logits[:, 4]

    _, outputs, _, reading = read(model, inputs, margin)
    _, _, _, several = read(model, single(inputs, 0), lambda outputs: outputs.logits[0, 1:])
    _, _, _, scalar = read(model, single(inputs, 0), lambda outputs: outputs.logits.logsumexp(-1).sum())

    assert torch.equal(reading.scores, margin(outputs))
    assert reading.targets == ("margin", "margin")
    assert reading.coupled
    assert reading.fixed is margin
    assert several.targets == tuple(f"<lambda>[{row}]" for row in range(4))
    assert several.shared == {"image"}
    assert scalar.scores.shape == (1,)


def test_scores_have_a_graph_where_the_caller_turned_autograd_off() -> None:
    model, inputs = tiny("vit")

    with torch.no_grad():
        _, _, _, reading = read(model, inputs, 1)

    assert reading.scores.requires_grad


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, r"no class 5: the model has 5, 0 \(frog\) to 4 \(cow\)"),
        (-1, "no class -1"),
        ("frgo", 'no label "frgo" among the model\'s 5; nearest: frog'),
        (True, "a class is an id or a label, got bool True"),
        ([1, 2, 3], "3 targets for 2 images"),
        ([], "0 targets"),
        (["cat", "toad"], 'no label "toad"'),
    ],
)
def test_a_class_that_is_not_there_is_refused(target: Any, message: str) -> None:
    model, inputs = tiny("vit")

    with pytest.raises(TargetError, match=message):
        read(model, inputs, target)


def test_an_ambiguous_label_is_refused() -> None:
    model, inputs = tiny("vit")
    model.config.id2label[4] = "frog"

    with pytest.raises(TargetError, match=r"several classes are called \"frog\".*\[0, 4\]"):
        read(model, inputs, "frog")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda outputs: outputs.logits.argmax(-1), "must return a tensor of 2 floats"),
        (lambda outputs: outputs.logits, r"got shape \(2, 5\)"),
        (lambda outputs: outputs.logits.sum(), r"got shape \(\)"),
        (lambda outputs: outputs.logits[:, 0].detach(), "do not depend on the outputs"),
        (lambda outputs: 3.0, "it returned float"),
    ],
)
def test_a_function_that_scores_nothing_is_refused(function: Any, message: str) -> None:
    model, inputs = tiny("vit")

    with pytest.raises(TargetError, match=message):
        read(model, inputs, function)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("target", [None, "dog", lambda outputs: outputs.logits[:, 0].tanh()])
def test_the_last_layer_scores_what_the_model_does(name: str, target: Any) -> None:
    model, inputs = tiny(name)

    family, outputs, seen, reading = read(model, inputs, target)
    layers = [seen.outputs[layer] for layer in family.layers(model)["image"]]
    scores = [
        family.layer_scores(model, inputs, outputs, reading, reading.readouts[0], hidden) for hidden in layers
    ]

    torch.testing.assert_close(scores[-1], reading.scores)
    assert not torch.allclose(scores[0], scores[-1])


def test_a_function_of_what_lower_layers_lack_is_refused_there() -> None:
    model, inputs = tiny("vit")
    inputs["output_hidden_states"] = True

    family, outputs, seen, reading = read(model, inputs, lambda outputs: outputs.hidden_states[-1][:, 0, 0])
    hidden = seen.outputs[family.layers(model)["image"][0]]

    with pytest.raises(UnsupportedMethodError, match="for which there are only logits"):
        family.layer_scores(model, inputs, outputs, reading, reading.readouts[0], hidden)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_two_is_read_as_two_singles(name: str) -> None:
    model, inputs = tiny(name)

    _, _, seen, together = read(model, inputs)
    for item in range(2):
        _, _, alone, reading = read(model, single(inputs, item))

        torch.testing.assert_close(reading.scores, together.scores[item : item + 1])
        assert reading.targets == together.targets[item : item + 1]
        for site, attention in alone.attention.items():
            torch.testing.assert_close(attention, seen.attention[site][item : item + 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": None}, "needs pixel_values as tensors; for pixel_values came NoneType"),
        ({"pixel_values": images()[0]}, r"\(batch, 3 channels, height, width\), got shape \(3, 24, 40\)"),
        ({"pixel_values": images()[:, :1]}, r"3 channels.*got shape \(2, 1, 24, 40\)"),
        ({"pixel_values": images()[:0]}, r"got shape \(0, 3"),
        ({"pixel_values": torch.ones(2, 3, 24, 40, dtype=torch.uint8)}, r"must be floats.*torch\.uint8"),
        ({"pixel_values": images() * float("nan")}, "NaN or infinite"),
        ({"pixel_values": images(4, 40)}, "4 x 40, smaller than one patch of 8 x 8"),
        ({"interpolate_pos_encoding": False}, "24 x 40 .height x width., the model's 32 x 32: resize them"),
        ({"return_dict": False}, "return_dict=False hides"),
    ],
)
def test_bad_inputs_are_refused_before_the_forward(changes: dict[str, Any], message: str) -> None:
    model, inputs = tiny("vit")

    with pytest.raises(InputError, match=message):
        family_of(model).check(model, {**inputs, **changes})


def test_missing_pixels_are_named_with_what_came() -> None:
    model, _ = tiny("vit")

    with pytest.raises(InputError, match="came only images"):
        family_of(model).check(model, {"images": images()})


def test_a_model_for_images_that_are_not_square_takes_just_these() -> None:
    config = transformers.ViTConfig(**{**VISION, "image_size": [24, 40]}, **LABELS)
    model = shaken(transformers.ViTForImageClassification(config))

    _, _, _, reading = read(model, {"pixel_values": images()})

    assert reading.segments[0].grid == (3, 5)
    with pytest.raises(InputError, match="cannot interpolate the positions of a model for 24 x 40"):
        read(model, {"pixel_values": images(16, 16), "interpolate_pos_encoding": True})


def test_the_embedded_classifier_is_read() -> None:
    model = load_classifier("cpu")
    image = scene(3, named=(("frog", None),)).image
    inputs = {"pixel_values": to_tensor([Image.fromarray(image)])}

    _, outputs, _, predicted = read(model, inputs)
    _, _, _, several = read(model, inputs, ["frog", "bear", 0])

    assert predicted.targets == ("frog",)
    assert predicted.segments[0].grid == (8, 8)
    assert several.targets == ("frog", "bear", "bear")
    assert torch.equal(several.scores[1:], outputs.logits[0, :1].expand(2))
    assert several.scores[0] > several.scores[1]
