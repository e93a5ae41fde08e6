"""The step rules, the schedule and the refinement, on probes whose loss is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from heedful.guidance import GradientStep, GuidanceError, RelativeStep, Schedule
from heedful.guidance.optimizer import Probed, norms, nudge
from hypothesis import given
from hypothesis import strategies as st


def parabola(latents, rows):
    """Loss = mean of squares an image: its gradient step of 0.25 n shrinks latents to a half."""
    count = latents[0].numel()
    finite = torch.ones(len(latents), dtype=torch.bool)
    maps = [torch.zeros(1, 2, 2) for _ in range(len(latents))]
    return Probed(latents.square().flatten(1).mean(1), 2 * latents / count, finite, maps)


def halve(latents, probed):
    return probed.gradient * (-0.25 * latents[0].numel())


def images(*levels):
    return torch.stack([torch.full((1, 2, 2), level) for level in levels])


def test_gradient_step_is_the_published_one_in_units_of_the_latents():
    latents = torch.randn(2, 4, 3, 5)
    probed = parabola(latents, None)
    published = 20 * np.sqrt(np.linspace(1, 0.5, 50))
    for index in (0, 10, 49):
        expected = -published[index] * probed.gradient
        torch.testing.assert_close(GradientStep()(latents, probed, index / 49, 1.0), expected)


@given(st.floats(0.05, 1.0))
def test_gradient_step_does_not_depend_on_how_a_scheduler_scales_its_latents(scale):
    """Latents z / c whose denoiser sees z: the shift, times c, is that of the unscaled latents."""
    latents = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    plain = parabola(latents, None)
    scaled = Probed(plain.losses, plain.gradient * scale, plain.finite, plain.word_maps)
    for step in (GradientStep(3.0), RelativeStep(0.1)):
        expected = step(latents, plain, 0.3, 1.0)
        torch.testing.assert_close(step(latents / scale, scaled, 0.3, scale) * scale, expected)


def test_relative_step_has_the_length_asked_for_and_the_gradient_s_direction():
    latents = torch.randn(3, 4, 6, 5)
    probed = parabola(latents, None)
    probed.gradient[2] = 0
    shift = RelativeStep(0.1)(latents, probed, 1.0, 1.0)
    expected = 0.1 * math.sqrt(0.5) * norms(latents)[:2]
    torch.testing.assert_close(norms(shift)[:2], expected)
    assert torch.cosine_similarity(shift[:2].flatten(1), probed.gradient[:2].flatten(1)).max() < -0.999
    assert not shift[2].any()


@pytest.mark.parametrize(
    ("steps", "expected"), [(50, [0, 10, 20]), (20, [0, 4, 8]), (28, [0, 5, 11]), (100, [0, 20, 40])]
)
def test_fractions_make_short_runs_work_like_long_ones(steps, expected):
    schedule = Schedule()
    assert list(schedule.thresholds_at(steps)) == expected
    assert schedule.last(steps) == steps // 2
    assert Schedule({0.29: 0.5}).thresholds_at(100) == {29: 0.5}


@pytest.mark.parametrize(("steps", "last"), [(1, 1), (3, 2), (4, 2), (50, 25)])
def test_few_steps_are_guided_too_and_never_refined_after_the_last_guided_one(steps, last):
    assert Schedule().last(steps) == last
    assert max(Schedule().thresholds_at(steps)) < last


def test_steps_count_as_diffusers_does():
    schedule = Schedule({0: 0.05, 10: 0.5}, until=25, unit="step")
    assert schedule.thresholds_at(30) == {0: 0.05, 10: 0.5}
    assert schedule.last(30) == 25


@pytest.mark.parametrize(
    "wrong",
    [{"thresholds": {1.5: 0.5}}, {"thresholds": {0.2: 1.5}}, {"thresholds": {-1: 0.5}}, {"until": 25}],
)
def test_a_schedule_outside_the_trajectory_is_refused(wrong):
    with pytest.raises(GuidanceError, match="fraction"):
        Schedule(**wrong)


def test_without_threshold_one_move():
    result = nudge(images(1.0, 2.0), parabola, halve)
    torch.testing.assert_close(result.latents, images(0.5, 1.0))
    assert result.refinements.tolist() == [0, 0]
    torch.testing.assert_close(result.probed.losses, torch.tensor([1.0, 4.0]))


def test_refinement_ends_for_each_image_when_its_loss_is_low_enough():
    """Losses 1, 16, 0.04 against a target of 0.3: one move, three moves, none."""
    result = nudge(images(1.0, 4.0, 0.2), parabola, halve, threshold=0.7, update=False)
    assert result.refinements.tolist() == [1, 3, 0]
    torch.testing.assert_close(result.latents, images(0.5, 0.5, 0.2))
    torch.testing.assert_close(result.probed.losses, torch.tensor([0.25, 0.25, 0.04]))


def test_published_refinement_makes_one_more_move():
    result = nudge(images(1.0, 4.0, 0.2), parabola, halve, threshold=0.7, update=False, published=True)
    assert result.refinements.tolist() == [2, 4, 0]
    torch.testing.assert_close(result.latents, images(0.25, 0.25, 0.2))


def test_refinement_stops_at_its_limit_and_probes_only_open_images():
    probed_rows = []

    def counting(latents, rows):
        probed_rows.append(rows.tolist())
        return parabola(latents, rows)

    result = nudge(images(0.1, 100.0), counting, halve, threshold=0.9, max_refinements=2, update=False)
    assert result.refinements.tolist() == [0, 2]
    assert probed_rows == [[0, 1], [1], [1]]


def test_an_image_whose_gradient_is_not_finite_is_not_refined_further():
    def broken(latents, rows):
        found = parabola(latents, rows)
        found.finite[:] = False
        found.gradient[:] = 0
        return found

    result = nudge(images(4.0), broken, halve, threshold=0.9)
    assert result.refinements.tolist() == [1]
    torch.testing.assert_close(result.latents, images(4.0))


def test_nudging_leaves_the_given_latents_alone():
    latents = images(1.0)
    nudge(latents, parabola, halve)
    torch.testing.assert_close(latents, images(1.0))
