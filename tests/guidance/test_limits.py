"""Limits keep latents near where the scheduler has them, and moves that raise the loss are halved."""

from __future__ import annotations

import math

import pytest
import torch
from heedful.guidance import GuidanceError, Limits
from heedful.guidance.limits import drift, norms
from heedful.guidance.optimizer import Probed, nudge
from hypothesis import given
from hypothesis import strategies as st


def latents(seed=0, batch=3):
    return torch.randn(batch, 4, 5, 6, generator=torch.Generator().manual_seed(seed)) * 2 + 0.3


def zeros(of):
    return torch.zeros(len(of))


def shares(origin, kept):
    return (norms(kept - origin) / norms(origin)).flatten()


@given(st.integers(0, 1000), st.floats(0, 2), st.floats(0.01, 5), st.sampled_from([None, "norm", "channels"]))
def test_no_shift_is_longer_than_the_bound(seed, bound, size, restore):
    origin = latents(seed)
    moved = origin + size * latents(seed + 1)
    kept = Limits(step=bound, restore=restore).kept(origin, moved, zeros(origin))
    assert (shares(origin, kept) <= bound * (1 + 1e-5)).all()
    if restore is None:
        along = torch.cosine_similarity((kept - origin).flatten(1), (moved - origin).flatten(1))
        assert (along > 1 - 1e-5).all() or bound < 1e-3


def test_shifts_within_the_bound_and_latents_that_stay_are_left_alone_to_the_bit():
    origin = latents()
    moved = origin + 0.01 * latents(1)
    moved[1] = origin[1]
    assert torch.equal(Limits(step=0.5, total=3).kept(origin, moved, zeros(origin)), moved)
    for restore in ("norm", "channels"):
        kept = Limits(restore=restore).kept(origin, moved, zeros(origin))
        assert torch.equal(kept[1], origin[1])
        assert not torch.equal(kept[0], moved[0])


def test_the_total_is_what_the_run_may_still_use():
    origin = latents()
    moved = origin + latents(1)
    kept = Limits(step=0.3, total=1.0).kept(origin, moved, torch.tensor([0.0, 0.9, 1.5]))
    torch.testing.assert_close(shares(origin, kept), torch.tensor([0.3, 0.1, 0.0]), atol=1e-6, rtol=1e-4)
    assert torch.equal(kept[2], origin[2])


def test_the_guard_puts_back_norm_or_channel_statistics():
    origin, scale = latents(), 0.5
    moved = origin * 1.3 + 0.4
    before = drift(origin, moved, scale)
    assert min(before.norm_ratios) > 1.2
    assert min(before.channel_drifts) > 0.1
    by_norm = drift(origin, Limits(restore="norm").kept(origin, moved, zeros(origin)), scale)
    assert by_norm.norm_ratios == pytest.approx((1, 1, 1), abs=1e-5)
    by_channel = drift(origin, Limits(restore="channels").kept(origin, moved, zeros(origin)), scale)
    assert by_channel.channel_drifts == pytest.approx((0, 0, 0), abs=1e-5)
    assert by_channel.norm_ratios == pytest.approx((1, 1, 1), abs=1e-5)


def test_drift_is_measured_in_shares_and_standard_deviations():
    origin = latents()
    spread = origin.std(dim=(2, 3), correction=0, keepdim=True)
    moved = origin.clone()
    moved[0, 2] += 0.25 * spread[0, 2]
    moved[1] *= 1.5
    found = drift(origin, moved, 0.5)
    assert found.channel_drifts[0] == pytest.approx(0.25, rel=1e-4)
    assert found.channel_drifts[2] == 0
    assert found.norm_ratios[1:] == pytest.approx((1.5, 1.0))
    assert found.levels[2] == pytest.approx(float(origin[2].square().mean().sqrt()) / 2, rel=1e-5)


def parabola(at, rows):
    """Loss = mean of squares: a step of 0.5 n of the gradient lands at 0."""
    finite = torch.ones(len(at), dtype=torch.bool)
    maps = [torch.zeros(1, 2, 2) for _ in range(len(at))]
    return Probed(at.square().flatten(1).mean(1), 2 * at / at[0].numel(), finite, maps)


def leap(factor):
    return lambda at, probed: probed.gradient * (-factor * at[0].numel() / 2)


def test_a_move_that_raises_the_loss_is_halved_until_it_does_not():
    """A step of 5 lands at -4 times where it was, 2.5 at -1.5 times, 1.25 at -0.25 times."""
    start = torch.ones(1, 1, 2, 2)
    result = nudge(start, parabola, leap(5.0), limits=Limits(halvings=3))
    torch.testing.assert_close(result.latents, -0.25 * start)
    assert result.halvings.tolist() == [2]
    assert result.probed.losses.tolist() == [1]


def test_without_halvings_the_same_move_is_made_whole():
    start = torch.ones(1, 1, 2, 2)
    torch.testing.assert_close(nudge(start, parabola, leap(5.0), limits=Limits()).latents, -4 * start)


def test_a_move_that_never_helps_is_taken_back_to_the_bit():
    start = torch.ones(2, 1, 2, 2)
    result = nudge(start, parabola, leap(100.0), limits=Limits(halvings=2))
    assert torch.equal(result.latents, start)
    assert result.halvings.tolist() == [2, 2]


def test_refinement_ends_for_an_image_that_cannot_be_moved():
    seen = []

    def counted(at, rows):
        seen.append(rows.tolist())
        return parabola(at, rows)

    scale = torch.tensor([5.0, 1.0])[:, None, None, None]

    def move(at, probed):
        return leap(1.0)(at, probed) * scale

    start = torch.ones(2, 1, 2, 2)
    result = nudge(start, counted, move, threshold=0.9, update=False, limits=Limits(halvings=1))
    assert result.refinements.tolist() == [1, 1]
    assert torch.equal(result.latents[0], start[0])
    torch.testing.assert_close(result.latents[1], torch.zeros(1, 2, 2))
    assert seen == [[0, 1], [0, 1], [0]]


def test_refinement_and_update_together_stay_within_the_bound():
    start = latents(batch=2)
    result = nudge(start, parabola, leap(0.1), threshold=0.99, limits=Limits(step=0.2))
    assert (shares(start, result.latents) <= 0.2 + 1e-6).all()
    assert result.refinements.tolist() == [20, 20]
    free = nudge(start, parabola, leap(0.1), threshold=0.99)
    assert (shares(start, free.latents) > 0.5).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": -0.1}, "step is a share .* got -0.1"),
        ({"total": math.nan}, "total is a share .* got nan"),
        ({"halvings": -1}, "halvings is a number of times"),
    ],
)
def test_limits_that_are_none_are_refused(wrong, message):
    with pytest.raises(GuidanceError, match=message):
        Limits(**wrong)
