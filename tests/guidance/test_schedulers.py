"""A known shift through every scheduler that guidance accepts, at every call of a run; others are refused."""

from __future__ import annotations

import copy
import inspect

import diffusers
import pytest
import torch
from heedful.guidance import UnsupportedError
from heedful.guidance.schedulers import KEEPS_SAMPLE, input_scale, keeps_sample, shifted_steps

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
UNCLIPPED = {"clip_sample": False}
CASES = [(name, UNCLIPPED if name.startswith("DD") else {}) for name in KEEPS_SAMPLE] + [
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
]
SCALED = {
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
}


def build(name, options, steps=10):
    scheduler = getattr(diffusers, name)(**CONFIG, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def step(scheduler, output, timestep, sample):
    options = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(5)
    return scheduler.step(output, timestep, sample, **options).prev_sample


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_known_shift_changes_the_previous_sample_where_it_is_kept_and_only_there(name, options):
    scheduler = build(name, options)
    generator = torch.Generator().manual_seed(0)
    shift = 0.1 * torch.randn(1, 4, 4, 6, generator=generator)
    sample = torch.randn(1, 4, 4, 6, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        sample_in = scheduler.scale_model_input(sample, timestep)
        output = 0.3 * sample_in + torch.randn(sample.shape, generator=generator)
        kept = keeps_sample(scheduler)
        twin, other = copy.deepcopy(scheduler), copy.deepcopy(scheduler)
        with shifted_steps(scheduler, lambda sample: sample + shift, lambda: None):
            shifted = step(other, output, timestep, sample + shift)
            plain = step(twin, output, timestep, sample)
            torch.testing.assert_close(step(scheduler, output, timestep, sample), shifted)
        moved = (shifted - plain).norm() / shift.norm()
        assert moved > 0.05 if kept else moved < 1e-5  # Heun adds and subtracts it, with a rounding error
        direction = torch.cosine_similarity((shifted - plain).flatten(), shift.flatten(), dim=0)
        assert not kept or direction > 0.99
        sample = shifted


def test_some_calls_are_known_not_to_keep_the_sample():
    heun = build("HeunDiscreteScheduler", {})
    sample = torch.randn(1, 4, 4, 4)
    kept = []
    for timestep in heun.timesteps[:5]:
        kept.append(keeps_sample(heun))
        heun.scale_model_input(sample, timestep)
        sample = heun.step(sample * 0.1, timestep, sample).prev_sample
    assert kept == [True, False, True, False, True]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_input_scale_is_what_the_scheduler_does_to_a_sample(name, options):
    scheduler = build(name, options)
    timestep = scheduler.timesteps[0]
    sample = torch.randn(2, 4, 3, 3)
    expected = scheduler.scale_model_input(sample, timestep)
    scale = input_scale(scheduler, timestep)
    torch.testing.assert_close(sample * scale, expected)
    assert (scale == 1) == (name not in SCALED)


def test_step_is_given_back_after_an_exception():
    scheduler = build("DDIMScheduler", {})
    with pytest.raises(KeyboardInterrupt), shifted_steps(scheduler, lambda sample: sample, lambda: None):
        raise KeyboardInterrupt
    assert type(scheduler) is diffusers.DDIMScheduler


def test_an_untested_scheduler_is_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"UniPCMultistepScheduler.*DDIMScheduler"):
        keeps_sample(diffusers.UniPCMultistepScheduler())
