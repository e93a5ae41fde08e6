"""Patches shown alone: what the others leave behind, and what is left of a feature."""

from __future__ import annotations

import explain_tiny
import pytest
import torch
from heedful.explain import InputError
from heedful.explain.evaluation.parts import Colour
from heedful.explain.probing.isolated_patches import IsolatedPatches, isolated_patches, only_patch
from heedful.explain.probing.units import Feature, patch_activations

FEATURES = (Feature(0, 1), Feature(2, 5))


def test_only_one_patch_is_left_of_every_copy() -> None:
    pixels = explain_tiny.images(27, 41, batch=1)  # what lies beyond the last whole patch goes, too

    found = only_patch(pixels, (8, 8), Colour())

    assert found.shape == (15, 3, 27, 41)
    for place in range(15):
        top, left = place // 5 * 8, place % 5 * 8
        window = (slice(None), slice(top, top + 8), slice(left, left + 8))
        assert torch.equal(found[place][window], pixels[0][window])
        assert found[place].count_nonzero() == 3 * 64


@pytest.mark.parametrize("name", ["vit", "dinov2_registers", "clip", "siglip"])
def test_each_place_is_read_where_its_patch_alone_is_shown(name: str) -> None:
    model, inputs = explain_tiny.tiny(name)
    pixels = inputs["pixel_values"]

    found = isolated_patches(model, pixels, FEATURES, together=4)

    torch.testing.assert_close(found.whole, patch_activations(model, pixels, FEATURES))
    by_hand = torch.zeros(3, 8, 8 * 5)
    blank = torch.zeros_like(pixels[:1])
    blank[..., 8:16, 16:24] = pixels[1:2, ..., 8:16, 16:24]
    by_hand = patch_activations(model, blank, FEATURES)
    torch.testing.assert_close(found.alone[1, :, 1, 2], by_hand[0, :, 1, 2])
    assert not torch.allclose(found.alone[1, :, 1, 3], by_hand[0, :, 1, 3])


def test_agreement_is_one_for_equal_orders_and_nan_for_constant_maps() -> None:
    maps = torch.randn(2, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    others = torch.stack([maps[:, 0].exp(), -maps[:, 1], torch.ones(2, 3, 5)], dim=1)

    found = IsolatedPatches(maps, others, (*FEATURES, Feature(0, 2)), "", "", {}).agreement()

    torch.testing.assert_close(found[:, :2], torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    assert found[:, 2].isnan().all()


def test_an_image_without_a_whole_patch_is_refused() -> None:
    with pytest.raises(InputError, match="smaller than a patch of 8 x 8"):
        only_patch(torch.zeros(1, 3, 24, 7), (8, 8), Colour())


@pytest.mark.gpu
def test_on_a_gpu_patches_are_isolated_in_float16() -> None:
    model, inputs = explain_tiny.tiny("vit")
    expected = isolated_patches(model, inputs["pixel_values"], FEATURES)

    found = isolated_patches(model.half().cuda(), inputs["pixel_values"], FEATURES)

    torch.testing.assert_close(found.alone, expected.alone, atol=0.05, rtol=0.05)
