"""Images and masks are checked once, varied alike, and random masks know nothing of their images."""

from __future__ import annotations

import pytest
import torch
from heedful.explain import InputError
from heedful.explain.debiasing.examples import MaskedImages, varied, with_random_masks
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn(count: int = 3, height: int = 28, width: int = 35, seed: int = 0) -> MaskedImages:
    """Images whose first channel is their mask."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, height, width)
    masks[:, 5:15, 10:25] = 1
    pixels = torch.rand(count, 3, height, width, generator=generator)
    pixels[:, 0] = masks
    return MaskedImages(pixels, masks, torch.arange(count))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_images_and_masks_move_together(seed: int) -> None:
    images = drawn()
    moved = varied(images, torch.Generator().manual_seed(seed))
    assert moved.pixels.shape == images.pixels.shape
    assert moved.masks.shape == images.masks.shape
    apart = (moved.pixels[:, 0] - moved.masks).abs()
    assert float((apart > 0.6).float().mean()) < 0.02
    assert moved.masks.flatten(1).sum(1).min() > 0
    assert torch.equal(images.masks, drawn().masks)


def test_varying_changes_something_and_depends_on_the_generator_alone() -> None:
    images = drawn()
    one, two, three = (varied(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.pixels, two.pixels)
    assert not torch.equal(one.pixels, three.pixels)
    assert not torch.equal(one.pixels, images.pixels)


def test_a_crop_that_would_lose_the_subject_is_not_made() -> None:
    images = drawn(8)
    corner = torch.zeros_like(images.masks)
    corner[:, 0, 0] = 1
    moved = varied(MaskedImages(images.pixels, corner), torch.Generator().manual_seed(0))
    assert (moved.masks.flatten(1).sum(1) > 0).all()


def test_random_masks_are_as_large_and_lie_elsewhere() -> None:
    images = drawn(40)
    random = with_random_masks(images, 3)
    assert random.masks.flatten(1).sum(1).tolist() == images.masks.flatten(1).sum(1).tolist()
    assert torch.equal(random.masks, with_random_masks(images, 3).masks)
    assert torch.equal(random.pixels, images.pixels)
    share = images.masks.mean()
    torch.testing.assert_close((random.masks * images.masks).mean() / share, share, atol=0.1, rtol=0)


def test_rows_are_taken_with_masks_and_labels() -> None:
    images = drawn(4)
    taken = images.take(torch.tensor([2, 0]))
    assert len(taken) == 2
    assert taken.labels is not None
    assert taken.labels.tolist() == [2, 0]
    assert torch.equal(taken.pixels[0], images.pixels[2])


PIXELS, MASKS = torch.rand(2, 3, 4, 5), torch.ones(2, 4, 5)


@pytest.mark.parametrize(("pixels", "masks", "labels", "message"), [
    (PIXELS, torch.ones(2, 5, 4), None, r"images' size, .*\(2, 4, 5\); got \(2, 5, 4\): resize them"),
    (PIXELS, MASKS[:1], None, "images' size"),
    (PIXELS, MASKS * 2, None, "between 0 and 1"),
    (PIXELS, MASKS * torch.tensor([1.0, 0.0])[:, None, None], None, r"images \[1\] are empty"),
    (PIXELS[0], MASKS, None, "at least one image"),
    (PIXELS[:0], MASKS[:0], None, "at least one image"),
    (PIXELS * float("nan"), MASKS, None, "NaN"),
    (PIXELS, MASKS, torch.tensor([1]), r"one class an image, 2; got \(1,\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(
    pixels: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        MaskedImages(pixels, masks, labels)
