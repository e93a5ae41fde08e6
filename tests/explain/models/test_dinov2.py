"""DINOv2: registers are no patches, and the head reads [CLS] beside the mean of the patches.

What it shares with ViT and DeiT is tested with them, in test_vit.py.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from explain_tiny import LABELS, VISION, images, read, shaken, tiny
from heedful.explain.errors import InputError
from heedful.explain.models import family_of
from torch import Tensor


@pytest.mark.parametrize(("name", "registers"), [("dinov2", 0), ("dinov2_registers", 4)])
def test_half_of_the_weight_is_on_cls_and_half_spread_over_the_patches(name: str, registers: int) -> None:
    model, inputs = tiny(name)

    _, _, _, reading = read(model, inputs)

    wanted = torch.tensor([0.5] + [0.0] * registers + [0.5 / 15] * 15).expand(2, -1)
    torch.testing.assert_close(reading.readouts[0].weights, wanted)
    assert reading.segments[0].positions == slice(1 + registers, 16 + registers)


@pytest.mark.parametrize(("name", "registers"), [("dinov2", 0), ("dinov2_registers", 4)])
def test_every_patch_weighs_the_same_in_the_score(name: str, registers: int) -> None:
    model, inputs = tiny(name)

    family, outputs, seen, _ = read(model, inputs, 1)
    normed = model.get_submodule(model.base_model_prefix).layernorm(
        seen.outputs[family.layers(model)["image"][-1]]
    )
    score = family.head(model, normed)["logits"][:, 1]  # type: ignore[attr-defined]
    (gradient,) = torch.autograd.grad(score.sum(), normed)

    patches = gradient[:, 1 + registers :]
    torch.testing.assert_close(patches, patches[:, :1].expand_as(patches))
    assert not gradient[:, 1 : 1 + registers].any()
    torch.testing.assert_close(score, outputs.logits[:, 1])


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers"])
def test_a_function_of_cls_alone_is_read_there(name: str) -> None:
    model, inputs = tiny(name)
    inputs["output_hidden_states"] = True

    def first_channel(outputs: object) -> Tensor:
        return outputs.hidden_states[-1][:, 0, 0]  # type: ignore[attr-defined]

    _, _, _, reading = read(model, inputs, first_channel)
    _, _, _, logit = read(model, inputs, lambda outputs: outputs.logits[:, 2])
    _, _, _, plain = read(model, inputs, 2)

    assert reading.readouts[0].weights.nonzero().tolist() == [[0, 0], [1, 0]]
    assert torch.equal(logit.readouts[0].weights, plain.readouts[0].weights)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers"])
def test_any_size_of_a_patch_or_more_is_taken(name: str) -> None:
    model, _ = tiny(name)

    _, _, _, reading = read(model, {"pixel_values": images(8, 56)})

    assert reading.segments[0].grid == (1, 7)
    with pytest.raises(InputError, match="7 x 56, smaller than one patch of 8 x 8"):
        family_of(model).check(model, {"pixel_values": images(7, 56)})


def test_positions_of_a_grid_that_is_not_square_are_refused() -> None:
    known = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    config = transformers.Dinov2Config(**{**known, "image_size": [16, 32]}, **LABELS)
    model = shaken(transformers.Dinov2ForImageClassification(config))

    with pytest.raises(InputError, match="cannot interpolate the positions of a model for 16 x 32"):
        family_of(model).check(model, {"pixel_values": images(16, 32)})
