"""Saliency, SmoothGrad, integrated gradients and occlusion equal what plain loops over the model give."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from explain_tiny import images, single, tiny
from heedful.explain.errors import InputError, TargetError, UnsupportedMethodError
from heedful.explain.models import family_of
from heedful.explain.outside import OUTSIDE, outside
from torch import Tensor, nn

QUICK = {"smoothgrad": {"samples": 3}, "integrated_gradients": {"steps": 4}}
GRID, PATCH = (3, 5), 8


def run(
    model: nn.Module, inputs: dict[str, Any], target: Any = None, method: str = "saliency", **settings: Any
):
    return outside(model, family_of(model), inputs, target, method, {**QUICK.get(method, {}), **settings})


def logits(model: nn.Module, inputs: dict[str, Any], classes: list[int]) -> Callable[[Tensor], Tensor]:
    return lambda pixels: model(**{**inputs, "pixel_values": pixels}).logits[
        torch.arange(len(classes)), classes
    ]


def gradient(score: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    leaf = value.clone().requires_grad_()
    return torch.autograd.grad(score(leaf).sum(), leaf)[0]


def by_patch(values: Tensor, grid: tuple[int, int] = GRID, patch: int = PATCH) -> Tensor:
    """Sums over channels and the patch's pixels, by loops."""
    found = torch.zeros(len(values), *grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            part = values[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            found[:, row, column] = part.sum((1, 2, 3))
    return found.flatten(1)


def close(one: Tensor, other: Tensor) -> None:
    assert one.abs().max() > 1e-6, "nothing to compare"
    torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5 * float(other.abs().max()))


@pytest.mark.parametrize("signed", [False, True])
def test_saliency_is_the_gradient_of_the_pixels(signed: bool) -> None:
    model, inputs = tiny("vit")
    reading, streams = run(model, inputs, [0, 3], signed=signed)
    wanted = gradient(logits(model, inputs, [0, 3]), inputs["pixel_values"])

    assert reading.targets == ("frog", "frog prince")
    assert streams["image"].shape == (2, 16), "[CLS] has a place, and no relevance"
    assert (streams["image"][:, 0] == 0).all()
    close(streams["image"][:, 1:], by_patch(wanted if signed else wanted.abs()))


def test_integrated_gradients_add_up_to_the_change_of_the_score() -> None:
    model, inputs = tiny("vit")
    score = logits(model, inputs, [1, 4])
    _, streams = run(model, inputs, [1, 4], "integrated_gradients", steps=100, baseline=0.5)
    with torch.no_grad():
        change = score(inputs["pixel_values"]) - score(torch.full_like(inputs["pixel_values"], 0.5))

    torch.testing.assert_close(streams["image"].sum(1), change, rtol=0.01, atol=0.01)


def test_occlusion_is_the_drop_when_a_patch_goes() -> None:
    model, inputs = tiny("vit")
    score = logits(model, inputs, [2, 0])
    _, streams = run(model, inputs, [2, 0], "occlusion", baseline=-1.0)
    drops = torch.zeros(2, *GRID)
    with torch.no_grad():
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                pixels = inputs["pixel_values"].clone()
                pixels[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = -1.0
                drops[:, row, column] = score(inputs["pixel_values"]) - score(pixels)

    close(streams["image"][:, 1:], drops.flatten(1))


def test_smoothgrad_is_the_mean_gradient_over_noise_of_each_images_own_range() -> None:
    model, inputs = tiny("vit")
    inputs["pixel_values"][1] *= 5
    settings = {"samples": 4, "noise": 0.3, "seed": 7}
    _, streams = run(model, inputs, [1, 1], "smoothgrad", signed=True, **settings)
    pixels = inputs["pixel_values"]
    spread = 0.3 * torch.stack([each.max() - each.min() for each in pixels])[:, None, None, None]
    score = logits(model, inputs, [1, 1])
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        noise = [torch.normal(0, torch.ones_like(pixels)) for _ in range(4)]
    wanted = torch.stack([gradient(score, pixels + spread * each) for each in noise]).mean(0)

    close(streams["image"][:, 1:], by_patch(wanted))


def test_smoothgrad_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    model, inputs = tiny("vit")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (run(model, inputs, 1, "smoothgrad", seed=seed)[1]["image"] for seed in (5, 5, 6))

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "occlusion"])
def test_a_batch_equals_its_images_alone(method: str) -> None:
    model, inputs = tiny("clip")
    _, both = run(model, inputs, None, method)
    for index in range(2):
        _, alone = run(model, single(inputs, index), None, method)
        close(both["image"][index], alone["image"][0])
        close(both["text"][index], alone["text"][0])


@pytest.mark.parametrize("method", list(OUTSIDE))
def test_texts_against_one_image_equal_each_alone(method: str) -> None:
    model, inputs = tiny("clip")
    together = single(inputs, 0, "pixel_values")
    _, both = run(model, together, None, method)

    assert both["image"].shape == (2, 16)
    assert not torch.allclose(both["image"][0], both["image"][1])
    for index in range(2):
        _, alone = run(model, single(together, index, "input_ids", "attention_mask"), None, method)
        close(both["image"][index], alone["image"][0])


def test_targets_of_one_image_equal_each_alone() -> None:
    model, inputs = tiny("vit")
    inputs = single(inputs, 0)
    for method in OUTSIDE:
        _, both = run(model, inputs, ["frog", "cow"], method)
        for row, label in enumerate(["frog", "cow"]):
            close(both["image"][row], run(model, inputs, label, method)[1]["image"][0])


@pytest.mark.parametrize("method", ["saliency", "occlusion"])
def test_scores_that_depend_on_other_rows_see_only_their_own_input(method: str) -> None:
    model, inputs = tiny("clip")

    def share(outputs: Any) -> Tensor:
        return outputs.logits_per_image.diagonal() - outputs.logits_per_image.flip(1).diagonal()

    _, streams = run(model, inputs, share, method)
    embedded: list[Tensor] = []
    hook = model.text_model.embeddings.register_forward_hook(lambda *call: embedded.append(call[2]))
    model(**inputs)
    hook.remove()

    def rescored(tokens: Tensor) -> Tensor:
        handle = model.text_model.embeddings.register_forward_hook(lambda *_: tokens)
        try:
            return share(model(**inputs))
        finally:
            handle.remove()

    tokens = embedded[0].detach()
    for row in range(2):
        if method == "saliency":
            wanted = gradient(lambda value, row=row: rescored(value)[row], tokens)[row].abs().sum(-1)
        else:
            wanted = torch.zeros(tokens.shape[1])
            for place in range(tokens.shape[1]):
                without = tokens.clone()
                without[row, place] = 0
                wanted[place] = (rescored(tokens)[row] - rescored(without)[row]).detach()
        close(streams["text"][row], wanted)


def undecided() -> tuple[nn.Module, dict[str, Any]]:
    """A model that predicts another class once its image is gone (all pixels -9)."""
    model, inputs = tiny("vit")
    inputs = single(inputs, 0)
    with torch.no_grad():
        seen, gone = (
            model(**{**inputs, "pixel_values": pixels}).logits
            for pixels in (inputs["pixel_values"], torch.full_like(inputs["pixel_values"], -9.0))
        )
        model.classifier.bias -= (seen + gone)[0] / 2
    return model, inputs


@pytest.mark.parametrize("known", [{}, {"score_of": None}])
def test_the_predicted_class_stays_the_question_while_patches_go(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, Any]
) -> None:
    model, inputs = undecided()
    family = type(family_of(model))
    read = family.read
    monkeypatch.setattr(family, "read", lambda *asked: replace(read(*asked), **known))
    predicted = model(**inputs).logits.argmax(-1).tolist()
    chosen, named = (
        run(model, inputs, target, "integrated_gradients", baseline=-9.0, steps=20)[1]["image"]
        for target in (None, predicted)
    )

    close(chosen, named)


def test_without_a_fixed_target_a_changing_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = undecided()
    family = type(family_of(model))
    read = family.read
    monkeypatch.setattr(family, "read", lambda *asked: replace(read(*asked), fixed=None, score_of=None))

    with pytest.raises(TargetError, match=r"changes with its input, from .*; name the target"):
        run(model, inputs, None, "integrated_gradients", baseline=-9.0, steps=20)


def test_a_grid_that_does_not_divide_the_image_is_covered_whole() -> None:
    model, inputs = tiny("detr")
    inputs = {**single(inputs, 0), "pixel_values": images(70, 45, batch=1)}
    inputs.pop("pixel_mask", None)
    reading, streams = run(model, inputs, 1, "saliency")
    wanted = gradient(
        lambda pixels: model(**{**inputs, "pixel_values": pixels}).logits[0, 1, :-1].max(),
        inputs["pixel_values"],
    )

    assert streams["image"].shape[1] == reading.segments[0].grid[0] * reading.segments[0].grid[1]
    torch.testing.assert_close(streams["image"].sum(), wanted.abs().sum(), rtol=1e-4, atol=0)


def test_the_model_is_left_as_it_was() -> None:
    model, inputs = tiny("clip")
    before = {name: (value.requires_grad, value.clone()) for name, value in model.named_parameters()}
    for method in OUTSIDE:
        run(model, inputs, None, method)

    assert all(value.requires_grad == before[name][0] for name, value in model.named_parameters())
    assert all(torch.equal(value, before[name][1]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("saliency", {"steps": 3}, 'saliency takes no setting "steps"; its settings are: signed'),
        ("smoothgrad", {"samples": 0}, "samples must be a whole number of at least 1, got 0"),
        ("smoothgrad", {"samples": 2.5}, "samples must be a whole number"),
        ("smoothgrad", {"noise": -0.1}, "noise must be a number of at least 0.0, got -0.1"),
        ("integrated_gradients", {"steps": "many"}, "steps must be a whole number of at least 1, got 'many'"),
    ],
)
def test_settings_out_of_range_are_refused(method: str, settings: dict[str, Any], message: str) -> None:
    model, inputs = tiny("vit")
    with pytest.raises(InputError, match=message):
        outside(model, family_of(model), inputs, 1, method, settings)


def test_a_sign_that_means_nothing_is_refused() -> None:
    model, inputs = tiny("clip")
    with pytest.raises(InputError, match=r"the saliency of words has no sign.*Take signed=False"):
        run(model, inputs, None, "saliency", signed=True)


def test_without_captum_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    monkeypatch.setitem(sys.modules, "captum", None)
    model, inputs = tiny("vit")
    with pytest.raises(UnsupportedMethodError, match='not installed: pip install "captum'):
        run(model, inputs, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("method", list(OUTSIDE))
def test_float16_on_cuda_agrees_with_float32(method: str) -> None:
    model, inputs = tiny("clip")
    _, wanted = run(model, inputs, None, method)
    half = {
        name: value.half() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    moved = {name: value.cuda() if torch.is_tensor(value) else value for name, value in half.items()}
    _, found = run(model.half().cuda(), moved, None, method)
    for stream, values in wanted.items():
        if method == "smoothgrad":  # another device draws other noise
            assert found[stream].isfinite().all()
        else:
            torch.testing.assert_close(
                found[stream].cpu(), values, rtol=0.1, atol=0.03 * float(values.abs().max())
            )
