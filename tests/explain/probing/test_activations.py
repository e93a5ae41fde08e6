"""Modules' outputs are seen as they are, the model's answer stays, and all is undone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_tiny import tiny
from heedful.emoji import load_resnet
from heedful.explain.errors import CaptureError
from heedful.explain.probing.activations import activations, matching
from torch import nn

NAMES = ["vit.layers.*.mlp.fc1", "vit.layers.1.attention.q_proj", "vit.embeddings"]


class InPlace(nn.Module):
    """Changes what its first layer gave out, as residual networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        hidden += x
        return self.second(hidden)


def hooks(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


@pytest.mark.parametrize("grad", [False, True])
def test_the_answer_stays_to_the_last_bit(grad: bool) -> None:
    model, inputs = tiny("vit")
    with torch.set_grad_enabled(grad):
        plain = model(**inputs).logits
        with activations(model, NAMES) as seen:
            looked_at = model(**inputs).logits
    assert torch.equal(plain, looked_at)
    assert seen["vit.layers.0.mlp.fc1"].shape == (2, 16, 24)
    assert all(each.requires_grad == grad for each in seen.values())
    assert hooks(model) == 0


def test_outputs_are_those_that_the_model_returns() -> None:
    model, inputs = tiny("vit")
    with torch.no_grad(), activations(model, ["vit.embeddings", "vit.layers.*"]) as seen:
        wanted = model(**inputs, output_hidden_states=True).hidden_states
    assert seen.names == ("vit.embeddings", "vit.layers.0", "vit.layers.1", "vit.layers.2")
    for name, each in zip(seen.names, (*wanted[:-1], seen["vit.layers.2"]), strict=True):
        assert torch.equal(seen[name], each)


def test_gradients_flow_through_what_is_seen() -> None:
    model, inputs = tiny("vit")
    pixels = inputs["pixel_values"].requires_grad_()
    with activations(model, NAMES) as seen:
        logits = model(**inputs).logits
    (by_feature,) = torch.autograd.grad(logits.sum(), seen["vit.layers.1.mlp.fc1"], retain_graph=True)
    (by_pixel,) = torch.autograd.grad(seen["vit.layers.1.mlp.fc1"].sum(), pixels)
    assert by_feature.abs().sum() > 0
    assert by_pixel.abs().sum() > 0


def test_what_is_changed_in_place_afterwards_is_kept_as_it_was() -> None:
    model, x = InPlace().eval(), torch.randn(4, 3)
    plain = model(x)
    with activations(model, "first") as seen:
        looked_at = model(x)
    assert torch.equal(seen["first"], model.first(x))
    assert torch.equal(plain, looked_at)


def test_a_second_forward_replaces_the_first() -> None:
    model, x = InPlace().eval(), torch.randn(2, 4, 3)
    with activations(model, ["first"]) as seen:
        model(x[0])
        model(x[1])
    assert torch.equal(seen["first"], model.first(x[1]))


def test_a_convolutional_model_is_seen_too() -> None:
    model = load_resnet(device="cpu", dtype=torch.float32)
    with torch.no_grad(), activations(model, "resnet.encoder.stages.*.layers.*") as seen:
        model(torch.zeros(2, 3, 48, 64))
    assert {name[-17:]: tuple(each.shape) for name, each in seen.items()}["stages.1.layers.2"] == (
        2, 160, 6, 8,
    )  # fmt: skip


def test_a_star_is_one_part_of_a_name() -> None:
    model, _ = tiny("vit")
    assert matching(model, ["vit.layers.*", "vit.embeddings"]) == (
        "vit.embeddings", "vit.layers.0", "vit.layers.1", "vit.layers.2",
    )  # fmt: skip


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_all_is_undone_when_something_fails(error: type[BaseException]) -> None:
    model, _ = tiny("vit")
    with pytest.raises(error), activations(model, NAMES):
        raise error
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("vit.layers.*.mpl", "no module of ViTForImageClassification is called 'vit.layers.*.mpl'; .*mlp"),
        ([], "wanted at least one name"),
    ],
)
def test_names_that_match_nothing_are_an_error(names: Any, message: str) -> None:
    model, _ = tiny("vit")
    with pytest.raises(CaptureError, match=message), activations(model, names):
        pass


def test_modules_that_do_not_run_are_an_error() -> None:
    model, inputs = tiny("clip")
    with (
        pytest.raises(CaptureError, match=r"did not run: text_model\.embeddings"),
        activations(model, "text_model.embeddings"),
    ):
        model.vision_model(inputs["pixel_values"], interpolate_pos_encoding=True)
    with pytest.raises(CaptureError, match="has not run yet"), activations(model, "vision_model") as seen:
        seen["vision_model"]
    with pytest.raises(CaptureError, match="is not looked at"):
        seen["vision"]
    assert hooks(model) == 0


def test_a_module_that_runs_twice_is_an_error() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer).eval()
    with pytest.raises(CaptureError, match="'0' ran twice"), activations(model, "0"):
        model(torch.randn(2, 3))


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"call model\.eval\(\)"), activations(nn.Dropout(), ""):
        pass


def test_what_is_no_floating_tensor_is_an_error() -> None:
    class Counts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.argmax(-1)

    model = nn.Sequential(Counts()).eval()
    with pytest.raises(CaptureError, match="no tensor of floating numbers"), activations(model, "0"):
        model(torch.randn(2, 3))


@pytest.mark.gpu
def test_in_float16_on_cuda() -> None:
    model, inputs = tiny("vit")
    model = model.half().cuda()
    pixels = inputs["pixel_values"].half().cuda()
    with torch.no_grad(), activations(model, NAMES) as seen:
        model(pixel_values=pixels, interpolate_pos_encoding=True)
    assert all(each.dtype == torch.float16 and each.isfinite().all() for each in seen.values())
