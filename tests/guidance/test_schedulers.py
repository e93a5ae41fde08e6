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
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True, "shift": 1.0}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    ("UniPCMultistepScheduler", {"solver_order": 3}),
]
SCALED = {
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
}


PARTLY = {"DPMSolverSinglestepScheduler"}  # later calls of a block: only what they predict is moved

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # KDPM2 on NumPy 2


def build(name, options, steps=10):
    config = {"shift": 3.0} if name.startswith("FlowMatch") else CONFIG
    scheduler = getattr(diffusers, name)(**{**config, **options})
    scheduler.set_timesteps(steps)
    return scheduler


def scaled(scheduler, sample, timestep):
    scale = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)  # flow matching has none
    return scale(sample, timestep)


def uncorrected(scheduler):
    """A copy; UniPC's goes without its corrector, which would replace a shifted sample."""
    copied = copy.deepcopy(scheduler)
    if hasattr(copied, "disable_corrector"):
        copied.disable_corrector = list(range(len(copied.timesteps)))
    return copied


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
    sample = torch.randn(1, 4, 4, 6, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        sample_in = scaled(scheduler, sample, timestep)
        output = 0.3 * sample_in + torch.randn(sample.shape, generator=generator)
        kept = keeps_sample(scheduler)
        twin, other = uncorrected(scheduler), uncorrected(scheduler)
        with shifted_steps(scheduler, lambda sample: sample + shift, lambda: None):
            shifted = step(other, output, timestep, sample + shift)
            plain = step(twin, output, timestep, sample)
            torch.testing.assert_close(step(scheduler, output, timestep, sample), shifted)
        moved = (shifted - plain).norm() / shift.norm()
        # Heun adds and subtracts it, with a rounding error
        assert moved > 0.05 if kept else moved < 1e-5 or name in PARTLY
        direction = torch.cosine_similarity((shifted - plain).flatten(), shift.flatten(), dim=0)
        assert not kept or direction > 0.99
        sample = shifted


@pytest.mark.parametrize(("name", "options"), CASES)
def test_an_unshifted_step_is_the_scheduler_s_own_to_the_bit(name, options):
    scheduler, twin = build(name, options), build(name, options)
    sample = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    own = sample
    with shifted_steps(scheduler, lambda sample: sample, lambda: None):
        for timestep in scheduler.timesteps:
            output = 0.3 * scaled(twin, own, timestep)
            own = step(twin, output, timestep, own)
            sample = step(scheduler, 0.3 * scaled(scheduler, sample, timestep), timestep, sample)
            assert torch.equal(sample, own)


def test_the_corrector_of_unipc_would_take_most_of_a_shift_back():
    """The reason why it is left out of shifted steps: what is left of the shift is less than without it."""
    scheduler = build("UniPCMultistepScheduler", {})
    generator = torch.Generator().manual_seed(0)
    sample, shift = (torch.randn(1, 4, 4, 6, generator=generator) for _ in range(2))
    first, second = scheduler.timesteps[:2]
    sample = step(scheduler, sample, first, sample)
    output = torch.randn(sample.shape, generator=generator)
    left = []
    for make in (copy.deepcopy, uncorrected):
        plain = step(make(scheduler), output, second, sample)
        left.append((step(make(scheduler), output, second, sample + shift) - plain).norm())
    assert left[0] < 0.8 * left[1]


def test_a_block_of_a_singlestep_solver_goes_out_from_its_first_sample():
    scheduler = build("DPMSolverSinglestepScheduler", {"solver_order": 3})
    sample, kept = torch.randn(1, 4, 4, 4), []
    for timestep in scheduler.timesteps:
        kept.append(keeps_sample(scheduler))
        sample = step(scheduler, sample * 0.1, timestep, sample)
        assert kept[-1] == (scheduler.order_list[len(kept) - 1] == 1)
    assert kept == [True, False, False] * 3 + [True]


def test_a_singlestep_run_that_begins_amid_a_block_is_of_order_1_at_first():
    scheduler = build("DPMSolverSinglestepScheduler", {})
    scheduler.set_begin_index(3)
    assert scheduler.order_list[3] == 2
    assert keeps_sample(scheduler)


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
    expected = scaled(scheduler, sample, timestep)
    scale = input_scale(scheduler, timestep)
    torch.testing.assert_close(sample * scale, expected)
    assert (scale == 1) == (name not in SCALED)


def test_step_is_given_back_after_an_exception():
    scheduler = build("DDIMScheduler", {})
    with pytest.raises(KeyboardInterrupt), shifted_steps(scheduler, lambda sample: sample, lambda: None):
        raise KeyboardInterrupt
    assert type(scheduler) is diffusers.DDIMScheduler


def test_an_untested_scheduler_is_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"SASolverScheduler.*DDIMScheduler"):
        keeps_sample(diffusers.SASolverScheduler())
