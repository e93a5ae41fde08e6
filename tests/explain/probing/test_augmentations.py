"""What feature visualisation does to its images: each part against a slow twin, and the limits of each."""

from __future__ import annotations

import math

import pytest
import torch
from heedful.explain.probing.augmentations import Draws, augmented, drawn, total_variation
from hypothesis import given, settings
from hypothesis import strategies as st


def image(seed: int = 0, height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def slow_copy(pixels: torch.Tensor, draws: Draws, copy: int) -> torch.Tensor:
    """Pixel by pixel: where it came from, times the scale, plus shift and noise."""
    channels, height, width = pixels.shape
    down, right = draws.moves[copy].tolist()
    found = torch.zeros_like(pixels)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                came = pixels[channel, (row - down) % height, (column - right) % width]
                noise = draws.noise[copy, channel, row, column]
                found[channel, row, column] = (
                    draws.scale[copy, channel] * came + draws.shift[copy, channel] + noise
                )
    return found


def slow_variation(pixels: torch.Tensor) -> float:
    """Over all pairs of neighbours, in float64."""
    channels, height, width = pixels.shape
    total = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        roots = []
        for channel in range(channels):
            squares = [
                float(pixels[channel, row + down, column + right] - pixels[channel, row, column]) ** 2
                for row in range(height - down)
                for column in range(max(0, -right), width - max(0, right))
            ]
            roots.append(math.sqrt(sum(squares) / len(squares)))
        total += sum(roots) / channels
    return total


@settings(max_examples=6)
@given(seed=st.integers(0, 99))
def test_copies_are_moved_coloured_and_noisy_as_a_twin_has_it(seed: int) -> None:
    draws = drawn(torch.Generator().manual_seed(seed), 2, (3, 5, 7), noise=0.3, jitter=3)

    found = augmented(image(seed), draws)

    for copy in range(2):
        torch.testing.assert_close(found[copy], slow_copy(image(seed), draws, copy))
    still = Draws(draws.shift, draws.scale, draws.noise, draws.moves + 1)
    assert not torch.allclose(found, augmented(image(seed), still)), "moves make no difference"


def test_nothing_drawn_changes_nothing() -> None:
    draws = drawn(torch.Generator().manual_seed(0), 3, (3, 5, 7), colour=0, noise=0, jitter=0)

    assert torch.equal(augmented(image(), draws), image().expand(3, -1, -1, -1))


def test_draws_stay_in_their_ranges_and_reach_their_ends() -> None:
    draws = drawn(torch.Generator().manual_seed(0), 4000, (3, 1, 1), colour=0.5, noise=0.2, jitter=2)

    assert -0.5 <= draws.shift.min() < -0.49
    assert 0.49 < draws.shift.max() <= 0.5
    assert math.exp(-0.5) <= draws.scale.min() < math.exp(-0.49)
    assert draws.noise.std().item() == pytest.approx(0.2, rel=0.05)
    assert draws.moves.unique().tolist() == [-2, -1, 0, 1, 2]


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_total_variation_equals_its_twin(seed: int) -> None:
    pixels = torch.stack([image(seed), image(seed + 1)]).double()

    found = total_variation(pixels)

    assert found.tolist() == pytest.approx([slow_variation(one) for one in pixels], rel=1e-9)
    assert found[0].item() != pytest.approx(slow_variation(pixels[1]), rel=1e-3)


@given(factor=st.floats(0.1, 10), shift=st.floats(-3, 3))
def test_total_variation_grows_with_contrast_and_not_with_brightness(factor: float, shift: float) -> None:
    pixels = image()[None].double()

    assert total_variation(factor * pixels + shift).item() == pytest.approx(
        factor * total_variation(pixels).item()
    )


def test_an_image_of_one_colour_has_no_variation_and_a_finite_gradient() -> None:
    flat = torch.full((1, 3, 4, 6), 0.5, requires_grad=True)

    value = total_variation(flat)
    (gradient,) = torch.autograd.grad(value.sum(), flat)

    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.isfinite().all()
