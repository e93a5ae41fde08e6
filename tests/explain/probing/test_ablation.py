"""What is taken away, by closed forms; and that a classifier is graded on exactly that."""

from __future__ import annotations

import math
from typing import Any

import explain_tiny
import numpy as np
import pytest
import torch
from heedful.explain import InputError, UnknownFamilyError
from heedful.explain.evaluation.parts import Colour
from heedful.explain.probing.ablation import Ablation, ablate, low_pass, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ResNetConfig, ResNetForImageClassification


def slow_low_pass(image: torch.Tensor, cutoff: float) -> torch.Tensor:
    """A sum over waves, coefficient by coefficient, in float64."""
    height, width = image.shape
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = torch.zeros(height, width, dtype=torch.complex128)
    for row in range(height):
        for column in range(width):
            v = (row if 2 * row <= height else row - height) / height
            u = (column if 2 * column <= width else column - width) / width
            if (2 * u) ** 2 + (2 * v) ** 2 > cutoff**2 + 1e-6:
                continue
            wave = torch.exp(2j * math.pi * (v * ys.double() + u * xs.double()))
            found += (image.double() * wave.conj()).sum() / (height * width) * wave
    return found.real


@settings(max_examples=8)
@given(seed=st.integers(0, 99), cutoff=st.floats(0.1, 1.5))
def test_low_pass_equals_its_twin_and_is_its_own_limit(seed: int, cutoff: float) -> None:
    pixels = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(seed)).double()

    found = low_pass(pixels, cutoff)

    for channel in range(2):
        torch.testing.assert_close(found[0, channel], slow_low_pass(pixels[0, channel], cutoff))
    torch.testing.assert_close(low_pass(found, cutoff), found)
    torch.testing.assert_close(found.mean((2, 3)), pixels.mean((2, 3)))


def test_low_pass_takes_stripes_away_where_they_are_finer_than_the_cutoff() -> None:
    stripes = torch.cos(2 * math.pi * torch.arange(16) / 4).expand(1, 3, 6, 16)  # half the highest frequency

    assert low_pass(stripes, 0.45).abs().max() < 1e-6
    torch.testing.assert_close(low_pass(stripes, 0.55), stripes)
    torch.testing.assert_close(low_pass(explain_tiny.images(), 1.5), explain_tiny.images())


def test_only_what_the_mask_has_is_shown() -> None:
    pixels, masks = explain_tiny.images(), torch.zeros(2, 24, 40, dtype=torch.bool)
    masks[0, 2:5, 7:9], masks[1, 0, :] = True, True

    found = shown(pixels, masks, Colour((0.1, 0.2, 0.3)))

    assert torch.equal(found[0, :, 2:5, 7:9], pixels[0, :, 2:5, 7:9])
    assert found[1, :, 1:].amax((1, 2)).tolist() == pytest.approx([0.1, 0.2, 0.3])


def by_half(pixels: torch.Tensor) -> torch.Tensor:
    """A model that says which half of the image is brighter, the left (0) or the right."""
    middle = pixels.shape[3] // 2
    return torch.stack([pixels[..., :middle].mean((1, 2, 3)), pixels[..., middle:].mean((1, 2, 3))], dim=1)


def test_each_condition_is_graded_image_by_image() -> None:
    model, _ = explain_tiny.tiny("vit")
    pixels = torch.zeros(4, 3, 8, 8)
    pixels[:2, ..., :4] = 1  # left, left, right, right
    pixels[2:, ..., 4:] = 1
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[..., :4] = True

    found = ablate(
        model,
        pixels,
        torch.tensor([0, 1, 1, 1]),
        masks,
        tests=["ground"],
        answer=by_half,
        fill=Colour((0.5,) * 3),
    )

    assert {name: right.tolist() for name, right in found.right.items()} == {
        "as it is": [True, False, True, True],
        "foreground only": [True, False, True, True],  # a black left half beside 0.5 says right
        "background only": [True, False, True, True],
    }
    assert found.accuracy("as it is").value == 0.75
    assert found.kept("background only") == 1
    assert found.change("foreground only").value == 0
    with pytest.raises(InputError, match='"elsewhere" was not tried'):
        found.accuracy("elsewhere")


def test_changes_are_paired() -> None:
    right = {"as it is": np.array([True, True, False]), "worse": np.array([False, True, False])}

    found = Ablation(right, {}, "", {})

    assert found.change("worse").value == pytest.approx(-1 / 3)
    assert found.kept("worse") == pytest.approx(0.5)


def test_all_tests_of_a_vit_are_graded_on_what_they_say() -> None:
    model, inputs = explain_tiny.tiny("dinov2_registers")
    pixels = inputs["pixel_values"]
    with torch.no_grad():
        labels = model(pixel_values=pixels).logits.argmax(1)
    masks = torch.ones(2, 24, 40, dtype=torch.bool)

    found = ablate(model, pixels, labels, masks, cutoffs=(1.5,), together=1)

    assert list(found.right) == [
        "as it is", "foreground only", "background only", "low pass 1.5", "[CLS] apart",
        "mean of the patches", "largest of the patches",
    ]  # fmt: skip
    for same in ("as it is", "foreground only", "low pass 1.5"):
        assert found.right[same].all(), same
    classes = torch.tensor([int(labels[0]), (int(labels[0]) + 1) % 5])
    few = ablate(model, pixels, torch.tensor([0, 0]), tests=["cls"], classes=classes.tolist())
    assert few.right["as it is"][0]


def test_a_resnet_is_tested_without_patches_alone() -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    model = ResNetForImageClassification(config).eval()
    pixels, labels = torch.randn(2, 3, 24, 40), torch.tensor([0, 2])

    found = ablate(model, pixels, labels, tests=["low_pass"], cutoffs=(0.5,))

    assert list(found.right) == ["as it is", "low pass 0.5"]
    for test in ("cls", "patches"):
        with pytest.raises(UnknownFamilyError, match="no patches"):
            ablate(model, pixels, labels, tests=[test])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"masks": None}, "needs masks"),
        ({"masks": torch.ones(2, 24, 41, dtype=torch.bool)}, r"must be \(2, 24, 40\)"),
        ({"masks": torch.zeros(2, 24, 40, dtype=torch.bool)}, "mask of image 0 is empty"),
        ({"labels": torch.tensor([0])}, "a label of at least 0 for each of 2"),
        ({"labels": torch.tensor([0, 7])}, r"labels must lie in 0\.\.4"),
        ({"classes": [0, 9]}, r"classes must lie in 0\.\.4"),
        ({"tests": ["cls", "fun"]}, "some of ground, low_pass, cls, patches"),
        ({"tests": []}, "got none"),
        ({"cutoffs": (0.0,)}, "larger than 0"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], said: str) -> None:
    model, inputs = explain_tiny.tiny("dinov2")
    asked = {"labels": torch.tensor([0, 1]), "masks": torch.ones(2, 24, 40, dtype=torch.bool), **changed}

    with pytest.raises(InputError, match=said):
        ablate(model, inputs["pixel_values"], **asked)


@pytest.mark.gpu
def test_on_a_gpu_it_grades_in_float16() -> None:
    model, inputs = explain_tiny.tiny("dinov2")
    pixels, masks = inputs["pixel_values"], torch.ones(2, 24, 40, dtype=torch.bool)

    found = ablate(model.half().cuda(), pixels, torch.tensor([0, 1]), masks)

    assert all(len(right) == 2 for right in found.right.values())
