"""The losses of debiasing equal slow twins that go pixel by pixel, and move the way they should."""

from __future__ import annotations

import math

import pytest
import torch
from heedful.explain.debiasing import losses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

SHAPES = st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(2, 5))


def drawn(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(shape, generator=generator, dtype=torch.float64)
    return maps, (torch.rand(shape, generator=generator) < 0.4).double()


def slow(maps: Tensor, masks: Tensor, wanted: str) -> float:
    total, count = 0.0, 0
    for row, mask in zip(maps.tolist(), masks.tolist(), strict=True):
        for line, places in zip(row, mask, strict=True):
            for value, place in zip(line, places, strict=True):
                total += (
                    (value * (1 - place)) ** 2 if wanted == "background" else (value * place - place) ** 2
                )
                count += 1
    return total / count


@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 10**6))
def test_background_and_foreground_equal_their_twins(shape: tuple[int, ...], seed: int) -> None:
    maps, masks = drawn(shape, seed)
    assert losses.background_loss(maps, masks).item() == pytest.approx(slow(maps, masks, "background"))
    assert losses.foreground_loss(maps, masks).item() == pytest.approx(slow(maps, masks, "foreground"))


def test_the_comparison_can_fail() -> None:
    maps, masks = drawn((2, 3, 4), 0)
    assert losses.background_loss(maps, masks).item() != pytest.approx(slow(maps, masks, "foreground"))


def test_both_are_least_where_relevance_is_the_mask() -> None:
    _, masks = drawn((2, 3, 4), 1)
    assert losses.background_loss(masks, masks) == losses.foreground_loss(masks, masks) == 0
    assert losses.background_loss(1 - masks, masks) > 0
    assert losses.foreground_loss(1 - masks, masks) > 0


@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_stretched_maps_fill_0_to_1_and_know_no_scale(
    shape: tuple[int, ...], seed: int, scale: float, shift: float
) -> None:
    maps, _ = drawn(shape, seed)
    size = (2 * shape[1], 3 * shape[2])
    found = losses.stretched(maps, size)
    assert found.shape == (shape[0], *size)
    torch.testing.assert_close(found.amin((1, 2)), torch.zeros(shape[0], dtype=torch.float64))
    torch.testing.assert_close(found.amax((1, 2)), torch.ones(shape[0], dtype=torch.float64))
    torch.testing.assert_close(losses.stretched(scale * maps + shift, size), found, atol=1e-7, rtol=1e-7)


def test_a_flat_map_is_zero_and_has_a_gradient() -> None:
    maps = torch.full((1, 2, 3), 0.5, requires_grad=True)
    found = losses.stretched(maps, (4, 6))
    found.sum().backward()
    assert torch.equal(found, torch.zeros(1, 4, 6))
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.55, 1.0])
def test_confidence_is_the_surprise_at_the_own_answer(temperature: float) -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
    surprises = [
        -math.log(math.exp(max(row) / temperature) / sum(math.exp(one / temperature) for one in row))
        for row in logits.tolist()
    ]
    assert losses.confidence_loss(logits, temperature).item() == pytest.approx(sum(surprises) / 2)
    assert losses.confidence_loss(10 * logits, temperature) < losses.confidence_loss(logits, temperature)


def test_penalties_count_what_lies_outside_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    gradient = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64)
    masks = torch.zeros(2, 2, 4, dtype=torch.float64)
    masks[:, 0, 1] = 1
    squares = [
        gradient[row, channel, y, x].item() ** 2
        for row in range(2) for channel in range(3) for y in range(2) for x in range(4) if (y, x) != (0, 1)
    ]  # fmt: skip
    assert losses.gradient_outside(gradient, masks).item() == pytest.approx(sum(squares) / gradient.numel())
    assert losses.reasons_outside(gradient, masks).item() == pytest.approx(sum(squares) / 2)
    assert losses.reasons_outside(gradient, torch.ones_like(masks)) == 0


def test_inside_is_a_share_of_what_is_positive() -> None:
    maps = torch.tensor([[[3.0, 1.0], [-2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    masks = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]] * 2)
    assert losses.inside(maps, masks).tolist() == [0.75, 0.0]


def test_the_sum_of_log_probabilities_is_that_of_all_rows_and_classes() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert losses.log_probability_sum(logits).item() == pytest.approx(-4 * math.log(2))
    assert losses.label_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(math.log(2))
