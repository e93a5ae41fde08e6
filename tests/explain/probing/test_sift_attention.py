"""Heads of any image tower are compared with chance, and a head that looks at keypoints is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from explain_tiny import tiny
from heedful.emoji import load_classifier, load_resnet
from heedful.emoji.judge import to_tensor
from heedful.emoji.world import scenes
from heedful.explain import InputError, UnknownFamilyError
from heedful.explain.probing.sift import Concentration, concentration, shown_images
from heedful.explain.probing.sift_attention import SiftAttention, sift_attention
from PIL import Image

FAMILIES = ("vit", "deit", "dinov2_registers", "clip", "siglip")


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    return [Image.fromarray(each.image) for each in scenes(79, 10, subjects=1)]


@pytest.fixture(scope="module")
def found(drawn: list[Image.Image]) -> SiftAttention:
    model = load_classifier("cpu")
    return sift_attention(model, {"pixel_values": to_tensor(drawn)}, concentration(drawn, (8, 8)), draws=200)


def keypoints_of(pixels: torch.Tensor, grid: tuple[int, int]) -> Concentration:
    return concentration(shown_images(pixels), grid)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_tower_is_read_on_its_grid(name: str) -> None:
    model, inputs = tiny(name)
    keypoints = keypoints_of(inputs["pixel_values"], (3, 5))

    found = sift_attention(model, inputs, keypoints, draws=7, batch_size=1)

    assert found.grid == (3, 5)
    assert ("from [CLS]" in found.ratios) == (name != "siglip")
    for statistic, ratios in found.ratios.items():
        assert ratios.shape == (2, 3, 2)
        assert found.null[statistic].shape == (7, 3, 2)
        assert found.null[statistic].mean(0).flatten().tolist() == pytest.approx([1.0] * 6, abs=1e-4)
    assert found.entropy.shape[:3] == (2, 3, 2)
    assert sum(found.patches) == 2 * 15


def test_the_batch_size_changes_nothing() -> None:
    model, inputs = tiny("vit")
    keypoints = keypoints_of(inputs["pixel_values"], (3, 5))

    one, two = (sift_attention(model, inputs, keypoints, draws=5, batch_size=size) for size in (1, 2))

    assert torch.allclose(one.ratios["between"], two.ratios["between"], atol=1e-5)
    assert torch.allclose(one.null["received"], two.null["received"], atol=1e-5)


def test_the_trained_classifier_looks_at_keypoints(found: SiftAttention) -> None:
    z, _, together = found.tested("from [CLS]")

    assert (found.ratio("from [CLS]")[1:] > 1.3).all()
    assert (together[1:] < 0.05).float().mean() > 0.8
    assert z.shape == (6, 4)


def test_keypoints_of_other_images_find_next_to_nothing(
    found: SiftAttention, drawn: list[Image.Image]
) -> None:
    noise = torch.rand(len(drawn), 3, 64, 64, generator=torch.Generator().manual_seed(3))
    elsewhere = keypoints_of(noise, (8, 8))

    other = sift_attention(load_classifier("cpu"), {"pixel_values": to_tensor(drawn)}, elsewhere, draws=200)

    away = [(one.ratio("from [CLS]") - 1).abs().mean() for one in (found, other)]
    assert away[1] < 0.25 * away[0]


def test_a_result_is_saved_and_read(found: SiftAttention, tmp_path: Path) -> None:
    found.save(tmp_path / "heads.safetensors")

    again = SiftAttention.load(tmp_path / "heads.safetensors")

    assert again.bins == found.bins
    assert again.layers == found.layers
    assert torch.equal(again.ratio(), found.ratio())
    assert torch.equal(again.tested("received")[0], found.tested("received")[0])
    assert again.versions["opencv"]
    (tmp_path / "no.safetensors").write_text("nothing")
    with pytest.raises(InputError, match="cannot read"):
        SiftAttention.load(tmp_path / "no.safetensors")


def test_bad_input_is_refused(drawn: list[Image.Image], found: SiftAttention) -> None:
    model, pixels = load_classifier("cpu"), to_tensor(drawn[:2])

    with pytest.raises(InputError, match=r"keypoints of 2 images on the model's grid \(8, 8\); got 2 on"):
        sift_attention(model, {"pixel_values": pixels}, concentration(drawn[:2], (4, 4)))
    smooth = concentration([drawn[0], Image.new("RGB", (64, 64))], (8, 8))
    with pytest.raises(InputError, match="no keypoint in image 1"):
        sift_attention(model, {"pixel_values": pixels}, smooth)
    single = replace(smooth, count=torch.zeros(2, 8, 8))
    single.count[:, 2, 5] = 4.0
    with pytest.raises(InputError, match="all its keypoints in one patch"):
        sift_attention(model, {"pixel_values": pixels}, single)
    with pytest.raises(UnknownFamilyError, match="has no patches"):
        sift_attention(load_resnet("cpu"), {"pixel_values": pixels}, concentration(drawn[:2], (8, 8)))
    with pytest.raises(InputError, match="statistic must be one of between"):
        found.ratio("given")


@pytest.mark.gpu
def test_half_precision_on_a_gpu_agrees(drawn: list[Image.Image], found: SiftAttention) -> None:
    half = sift_attention(
        load_classifier("cuda"), {"pixel_values": to_tensor(drawn)}, concentration(drawn, (8, 8)), draws=200
    )

    assert torch.allclose(half.ratio(), found.ratio(), atol=0.02)
