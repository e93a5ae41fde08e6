"""Images made for features: they move them far above real scenes, and depend on nothing but their seed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import explain_tiny
import pytest
import torch
from heedful.emoji import load_classifier
from heedful.emoji.judge import to_tensor
from heedful.emoji.world import scenes
from heedful.explain import InputError
from heedful.explain.probing.draw_features import beside_scenes, feature_sheet, kinds_sheet, strongest
from heedful.explain.probing.features import Recipe, Visualisation, visualise
from heedful.explain.probing.units import Feature, patch_activations
from PIL import Image

FEW = Recipe(steps=3, copies=2)
FEATURES = (Feature(0, 1), Feature(2, 5, "value"))


@cache
def tiny_result() -> Visualisation:
    model, _ = explain_tiny.tiny("dinov2_registers")
    return visualise(model, FEATURES, recipe=FEW, size=(24, 40), seed=3)


def test_an_image_made_for_a_feature_moves_it_far_more_than_500_scenes() -> None:
    model = load_classifier("cpu", torch.float32)
    features = (Feature(1, 100), Feature(3, 100))
    real = to_tensor([Image.fromarray(one.image) for one in scenes(700, 500, subjects=1)])

    found = visualise(model, features, recipe=Recipe(steps=30, copies=1, colour=0.3), seed=1)

    strengths = patch_activations(model, real, features).mean((2, 3))
    for place, strength in enumerate(found.strengths):
        best, spread = strengths[:, place].max(), strengths[:, place].std()
        assert strength > best + 3 * spread, f"{features[place]}: {strength:.3f}, best scene {best:.3f}"
        assert found.begun[place] < best + 3 * spread, "the noise itself already moves the feature"


def test_the_strengths_are_what_the_model_answers_to_the_images() -> None:
    model, _ = explain_tiny.tiny("dinov2_registers")
    found = tiny_result()

    maps = patch_activations(model, found.pixels(), found.features)

    assert maps.shape == (2, 2, 3, 5)
    assert [maps[row, row].mean().item() for row in range(2)] == pytest.approx(found.strengths, rel=1e-4)
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_an_image_does_not_depend_on_what_else_is_asked_for() -> None:
    model, _ = explain_tiny.tiny("dinov2_registers")
    torch.manual_seed(5)  # and not on the state of torch's own numbers

    alone = visualise(model, FEATURES[1:], recipe=FEW, size=(24, 40), seed=3)
    other = visualise(model, FEATURES[1:], recipe=FEW, size=(24, 40), seed=4)
    parts = visualise(model, FEATURES, recipe=FEW, size=(24, 40), seed=3, together=2)

    torch.testing.assert_close(alone.images, tiny_result().images[1:], atol=1e-3, rtol=0)
    torch.testing.assert_close(parts.images, tiny_result().images, atol=1e-3, rtol=0)
    assert (other.images - alone.images).abs().mean() > 0.1


def test_the_first_step_follows_the_gradient_by_hand() -> None:
    model, _ = explain_tiny.tiny("vit")
    model = model.double()
    plain = Recipe(steps=1, copies=1, colour=0, noise=0, jitter=0, variation=0, rate=0.01)
    found = visualise(model, [Feature(1, 4)], recipe=plain)
    begun = visualise(model, [Feature(1, 4)], recipe=replace(plain, rate=1e-12)).images.double()

    pixels = begun.clone().requires_grad_()
    activation = model.vit.layers[1].mlp.activation_fn
    kept: list[torch.Tensor] = []
    handle = activation.register_forward_hook(lambda *args: kept.append(args[2]))
    model(pixel_values=(pixels - 0.5) / 0.5)
    handle.remove()
    (gradient,) = torch.autograd.grad(kept[0][:, 1:, 4].mean(), pixels)

    step = found.images - begun
    inner = (begun > 0.02) & (begun < 0.98) & (gradient.abs() > 1e-6)  # Adam's first step is the sign's
    assert (step[inner].sign() == gradient[inner].sign()).double().mean() > 0.999


def test_more_weight_on_variation_makes_smoother_images() -> None:
    model, _ = explain_tiny.tiny("vit")
    from heedful.explain.probing.augmentations import total_variation

    rough, smooth = (
        visualise(model, FEATURES[:1], recipe=Recipe(steps=20, copies=1, variation=weight)).images
        for weight in (0.0, 100.0)
    )

    assert total_variation(smooth) < 0.5 * total_variation(rough)


def test_the_model_is_left_as_it_was_and_progress_is_told() -> None:
    model, inputs = explain_tiny.tiny("clip")
    before = model(**inputs).logits_per_image
    told: list[tuple[int, int]] = []

    visualise(model, FEATURES, recipe=FEW, together=2, watch=lambda *step: told.append(step))

    assert told == [(step, 6) for step in range(1, 7)]
    assert torch.equal(model(**inputs).logits_per_image, before)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_a_result_is_saved_whole(tmp_path: Path) -> None:
    found = tiny_result()
    found.save(tmp_path / "found.safetensors")

    again = Visualisation.load(tmp_path / "found.safetensors")

    assert torch.equal(again.images, found.images)
    for name in ("features", "strengths", "begun", "recipe", "seed", "mean", "std", "model", "versions"):
        assert getattr(again, name) == getattr(found, name), name


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")

    with pytest.raises(InputError, match="cannot read"):
        Visualisation.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"recipe": {"steps": 0}}, "steps must be a whole number of at least 1"),
        ({"recipe": {"copies": 0}}, "copies must be a whole number"),
        ({"recipe": {"rate": 0}}, "rate must be larger than 0"),
        ({"recipe": {"noise": -1}}, "noise must be at least 0"),
        ({"recipe": {"jitter": 2}}, "share of the shorter side"),
        ({"std": (1.0, 1.0)}, "3 numbers each"),
        ({"seed": -1}, "seed of at least 0"),
        ({"size": (4, 32)}, "smaller than one patch"),
    ],
)
def test_bad_settings_are_refused(asked: dict[str, Any], said: str) -> None:
    model, _ = explain_tiny.tiny("vit")

    with pytest.raises(InputError, match=said):
        settings = {**asked, "recipe": Recipe(**asked["recipe"])} if "recipe" in asked else asked
        visualise(model, FEATURES, **{"recipe": FEW, **settings})


def test_sheets_have_a_line_a_layer_and_show_scenes_beside() -> None:
    found = tiny_result()
    scene = Image.new("RGB", (40, 24), "red")
    maps = [torch.rand(2, 3, 5) for _ in found.features]

    lines = feature_sheet(found, side=64)
    beside = beside_scenes(found, [[scene, scene]] * 2, maps, side=64)

    assert lines.height < beside.height + 64
    assert beside.width > lines.width + 3 * 64
    with pytest.raises(InputError, match="each of 2 features"):
        beside_scenes(found, [[scene]], maps)


def test_kinds_stand_beside_each_other_if_every_layer_has_them() -> None:
    whole = replace(tiny_result(), features=(Feature(1, 1), Feature(1, 2, "value")))

    assert kinds_sheet(whole, 1, side=64).width > feature_sheet(whole, side=64).width + 50
    with pytest.raises(InputError, match="layer 0 has 0 value features here, wanted are 1"):
        kinds_sheet(tiny_result(), 1)


def test_the_strongest_scenes_come_in_their_order() -> None:
    strengths = torch.tensor([[0.1, 5.0], [0.3, 1.0], [0.2, 2.0]])

    assert strongest(strengths, FEATURES, 2) == [[1, 2], [0, 2]]
    with pytest.raises(InputError, match="1 to 3 images"):
        strongest(strengths, FEATURES, 4)


def test_it_shows_itself() -> None:
    assert tiny_result()._repr_png_().startswith(b"\x89PNG")
    assert "layer 0, feed forward 1" in repr(tiny_result())


@pytest.mark.gpu
def test_on_a_gpu_features_are_raised_in_float16() -> None:
    model, _ = explain_tiny.tiny("vit")

    found = visualise(model.half().cuda(), FEATURES[:1], recipe=Recipe(steps=20, copies=2))

    assert found.images.device.type == "cpu"
    assert found.strengths[0] > found.begun[0]
