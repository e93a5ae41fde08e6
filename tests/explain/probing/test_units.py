"""Where a feature is found in each family of models, and that reading it changes nothing."""

from __future__ import annotations

from typing import Any

import explain_tiny
import pytest
import torch
from explain_tiny_more import tiny_detr
from heedful.explain import InputError, UnknownFamilyError
from heedful.explain.probing.tower import tower_of
from heedful.explain.probing.units import KINDS, Feature, module_of, patch_activations, responses
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

TOWERS = ("vit", "deit", "dinov2", "dinov2_registers", "clip", "siglip")


def by_hand(model: nn.Module, inputs: dict[str, Any], module: nn.Module) -> torch.Tensor:
    """What a module gives out in a forward of the whole model, by a hook of the test's own."""
    kept: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _module, _args, output: kept.append(output))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_the_modules_outputs_at_the_patches(name: str, kind: Any) -> None:
    model, inputs = explain_tiny.tiny(name)
    tower = tower_of(model)
    feature = Feature(1, 3, kind)

    maps = patch_activations(model, inputs["pixel_values"], [feature, Feature(0, 2)], together=1)

    whole = by_hand(model, inputs, tower.module.get_submodule(module_of(tower, feature)))
    assert maps.shape == (2, 2, 3, 5)
    torch.testing.assert_close(maps[:, 0].flatten(1), whole[:, -15:, 3], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(maps[:, 0].flatten(1), whole[:, :15, 3]) or tower.specials == 0


def test_feed_forward_features_are_taken_behind_the_activation() -> None:
    model, inputs = explain_tiny.tiny("vit")

    before = by_hand(model, inputs, model.get_submodule("vit.layers.0.mlp.fc1"))[:, 1:, 4]
    maps = patch_activations(model, inputs["pixel_values"], [Feature(0, 4)])

    torch.testing.assert_close(maps.flatten(1), nn.functional.gelu(before), atol=1e-5, rtol=1e-4)


def test_layers_above_are_not_run_and_the_model_is_left_as_it_was() -> None:
    model, inputs = explain_tiny.tiny("vit")
    before = model(**inputs).logits
    ran: list[int] = []
    handles = [
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(model.vit.layers)
    ]

    patch_activations(model, inputs["pixel_values"], [Feature(0, 1), Feature(1, 1)])
    for handle in handles:
        handle.remove()

    assert ran == [0, 1]
    assert torch.equal(model(**inputs).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_error_leaves_no_hook_behind() -> None:
    model, inputs = explain_tiny.tiny("vit")

    with pytest.raises(InputError, match="24 feed_forward channels"):
        patch_activations(model, inputs["pixel_values"], [Feature(0, 24)])

    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_reach_the_pixels_of_their_own_image_alone() -> None:
    model, inputs = explain_tiny.tiny("dinov2_registers")
    pixels = inputs["pixel_values"].clone().requires_grad_()

    (found,) = responses(tower_of(model), pixels, [Feature(2, 5)])
    (gradient,) = torch.autograd.grad(found[0].sum(), pixels)

    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (Feature(3, 0), "no layer 3: .* has 3"),
        (Feature(0, 16, "query"), "has 16 query channels"),
    ],
)
def test_features_that_are_not_there_are_refused(feature: Feature, said: str) -> None:
    model, inputs = explain_tiny.tiny("vit")

    with pytest.raises(InputError, match=said):
        patch_activations(model, inputs["pixel_values"], [feature])


def test_kinds_that_a_model_does_not_tell_apart_are_refused() -> None:
    model, inputs = explain_tiny.tiny("vit")
    model.vit.layers[0].attention.q_proj.register_module("query", nn.Identity())

    with pytest.raises(InputError, match="has 2 modules named q_proj, query"):
        patch_activations(model, inputs["pixel_values"], [Feature(0, 0, "query")])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layer": -1, "channel": 0}, "count from 0"),
        ({"layer": 0, "channel": 0, "kind": "mlp"}, "one of feed_forward, query, key, value"),
    ],
)
def test_a_feature_says_what_it_may_be(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Feature(**asked)


def test_models_without_patches_are_refused() -> None:
    resnet = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).eval()

    for model in (resnet, tiny_detr()[0]):
        with pytest.raises(UnknownFamilyError, match="no patches"):
            patch_activations(model, torch.zeros(1, 3, 32, 32), [Feature(0, 0)])


def test_images_that_do_not_fit_are_refused() -> None:
    model, inputs = explain_tiny.tiny("vit")

    with pytest.raises(InputError, match="smaller than one patch"):
        patch_activations(model, torch.zeros(1, 3, 32, 4), [Feature(0, 0)])
    with pytest.raises(InputError, match="at least one image"):
        patch_activations(model, inputs["pixel_values"][:0], [Feature(0, 0)])
    with pytest.raises(InputError, match="at least one feature"):
        patch_activations(model, inputs["pixel_values"], [])


@pytest.mark.gpu
def test_on_a_gpu_maps_are_found_in_float16() -> None:
    model, inputs = explain_tiny.tiny("vit")
    expected = patch_activations(model, inputs["pixel_values"], [Feature(1, 3)])

    found = patch_activations(model.half().cuda(), inputs["pixel_values"], [Feature(1, 3)])

    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
