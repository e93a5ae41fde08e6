"""`guide` on whole pipelines: nothing changes that should not, everything is given back, bad input is met."""

from __future__ import annotations

import dataclasses
import json

import diffusers
import pytest
import torch
from diffusers import models
from guiding import CAT_AND_FROG, FEW_MOVES, PROMPT, SIZE, run, state
from heedful.guidance import (
    AttendAndExcite,
    RelativeStep,
    Schedule,
    guide,
)
from tiny import tiny_pipeline as build

SCHEDULERS = [
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "HeunDiscreteScheduler",
]


@pytest.fixture(scope="module")
def pipe():
    """One pipeline for the whole file: each test finds it as it was."""
    return build()


@pytest.mark.parametrize(
    "nothing",
    [
        AttendAndExcite(words=[]),
        AttendAndExcite(words=["cat"], schedule=Schedule({}, until=0.0)),
        AttendAndExcite(words=["cat"], step=RelativeStep(0.0), max_refinements=0),
    ],
    ids=["no words", "no steps", "no step size"],
)
@pytest.mark.parametrize("scheduler", SCHEDULERS[:3])
def test_with_nothing_to_do_the_pixels_are_those_of_the_bare_pipeline(nothing, scheduler):
    pipe = build()
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    plain = run(pipe)
    with guide(pipe, nothing):
        assert torch.equal(run(pipe), plain)


def test_satisfied_words_cost_no_nudge(pipe, monkeypatch):
    plain, real = run(pipe), AttendAndExcite.loss
    monkeypatch.setattr(AttendAndExcite, "loss", lambda *args: real(*args) * 0)
    with guide(pipe, CAT_AND_FROG) as session:
        assert torch.equal(run(pipe), plain)
    assert [step.refinements for step in session.run.steps] == [(0,), (0,)]
    assert [step.relative_shifts for step in session.run.steps] == [(0.0,), (0.0,)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_is_given_back_whatever_happens(pipe, error):
    before, plain = state(pipe), run(pipe)

    def interrupt(*args):
        raise error("stop")

    with pytest.raises(error, match="stop"), guide(pipe, FEW_MOVES):
        run(pipe, callback_on_step_end=interrupt)
    assert state(pipe) == before
    with guide(pipe, FEW_MOVES):
        first = run(pipe)
    with guide(pipe, FEW_MOVES):
        second = run(pipe)
    assert state(pipe) == before
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)
    assert torch.equal(run(pipe), plain)


def test_an_exception_inside_a_probe_leaves_nothing_behind(pipe, monkeypatch):
    before = state(pipe)
    monkeypatch.setattr(AttendAndExcite, "loss", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), guide(pipe, FEW_MOVES):
        run(pipe)
    assert state(pipe) == before


def test_nested_guides_both_act_and_both_leave(pipe):
    before = state(pipe)
    with guide(pipe, FEW_MOVES) as outer:
        alone = run(pipe)
        with guide(pipe, AttendAndExcite(words=["frog"], max_refinements=0)) as inner:
            both = run(pipe)
        again = run(pipe)
    assert state(pipe) == before
    assert torch.equal(alone, again)
    assert not torch.equal(alone, both)
    assert len(outer.runs) == 3
    assert len(inner.runs) == 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_every_scheduler_with_and_without_classifier_free_guidance(scheduler, guidance_scale):
    pipe = build()
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    plain = run(pipe, guidance_scale=guidance_scale)
    with guide(pipe, FEW_MOVES) as session:
        guided = run(pipe, guidance_scale=guidance_scale)
    assert guided.isfinite().all()
    assert not torch.equal(guided, plain)
    first = session.run.steps[0]
    assert first.index == 0
    assert 0.04 < first.relative_shifts[0] < 0.2
    assert all(step.fraction < 0.5 for step in session.run.steps)


def test_a_threshold_on_a_call_that_keeps_no_sample_is_met_at_the_next():
    """Heun has 9 calls for 5 steps; call 1 is a second-order one, which ignores the latents it is given."""
    pipe = build()
    pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    objective = dataclasses.replace(FEW_MOVES, schedule=Schedule({0.2: 0.9}))
    with guide(pipe, objective) as session:
        run(pipe, num_inference_steps=5)
    assert {step.index: step.refinements for step in session.run.steps} == {0: (0,), 2: (2,), 4: (0,)}


def test_scaled_latents_are_probed_as_the_denoiser_sees_them():
    """Euler's first latents are 14.6 times larger; what the denoiser sees is DDIM's."""
    found = {}
    for name in ("DDIMScheduler", "EulerDiscreteScheduler"):
        pipe = build()
        pipe.scheduler = getattr(diffusers, name).from_config(
            pipe.scheduler.config, timestep_spacing="trailing"
        )
        with guide(pipe, FEW_MOVES) as session:
            run(pipe)
        found[name] = session.run.steps[0]
    ddim, euler = found.values()
    torch.testing.assert_close(euler.losses, ddim.losses, atol=2e-3, rtol=0)
    torch.testing.assert_close(euler.relative_shifts, ddim.relative_shifts, atol=2e-3, rtol=0)


def test_a_batch_of_two_equals_two_singles(pipe):
    prompts, words = [PROMPT, "a red bow and a dog"], [["cat", "frog"], ["red bow", "dog"]]
    with guide(pipe, dataclasses.replace(FEW_MOVES, words=words)) as session:
        both = run(pipe, prompts)
    batch = session.run
    for image, (prompt, own) in enumerate(zip(prompts, words, strict=True)):
        with guide(pipe, dataclasses.replace(FEW_MOVES, words=own)) as session:
            single = run(pipe, prompt, seed=image)
        torch.testing.assert_close(both[image : image + 1], single, atol=2e-3, rtol=1e-3)
        for step, own_step in zip(batch.steps, session.run.steps, strict=True):
            assert step.losses[image] == pytest.approx(own_step.losses[0], abs=1e-4)
            assert step.refinements[image] == own_step.refinements[0]
        assert batch.spans[image] == session.run.spans[0]


def test_several_images_a_prompt(pipe):
    with guide(pipe, FEW_MOVES) as session:
        images = pipe(
            [PROMPT, "a cat and a red frog"],
            num_images_per_prompt=2,
            num_inference_steps=4,
            output_type="latent",
            **SIZE,
        ).images
    assert len(images) == 4
    assert session.run.prompts == (PROMPT, PROMPT, "a cat and a red frog", "a cat and a red frog")
    assert [span.indices for span in session.run.spans[3]] == [(2,), (6,)]
    assert len(session.run.steps[0].losses) == 4


@pytest.mark.parametrize(
    ("size", "grid"),
    [((256, 192), (16, 12)), ((192, 256), (12, 16)), ((384, 384), (12, 12)), ((200, 264), (13, 17))],
)
def test_maps_have_the_image_s_proportions(pipe, size, grid):
    with guide(pipe, FEW_MOVES) as session:
        run(pipe, height=size[0], width=size[1], num_inference_steps=2)
    assert session.run.maps[0].shape == (2, *grid)


def test_guidance_past_its_last_step_costs_no_probe(pipe):
    calls = []
    hook = pipe.unet.register_forward_pre_hook(lambda *args: calls.append(1))
    try:
        with guide(pipe, dataclasses.replace(CAT_AND_FROG, max_refinements=0)) as session:
            run(pipe, num_inference_steps=6)
    finally:
        hook.remove()
    assert session.run.probes == 3
    assert len(calls) == 6 + 3


def test_token_indices_mean_the_same_as_words(pipe):
    with guide(pipe, FEW_MOVES):
        by_words = run(pipe)
    with guide(pipe, dataclasses.replace(FEW_MOVES, words=None, token_indices=[2, 5])):
        by_indices = run(pipe)
    assert torch.equal(by_words, by_indices)


def test_the_record_tells_all_and_fits_into_json(pipe):
    seen = []
    with guide(pipe, FEW_MOVES, progress=seen.append) as session:
        run(pipe, seed=7)
    record = session.run
    assert list(record.steps) == seen
    told = json.loads(json.dumps(record.to_dict()))
    assert told["prompts"] == [PROMPT]
    assert [span["text"] for span in told["spans"][0]] == ["cat", "frog"]
    assert told["settings"]["seeds"] == [7]
    assert told["settings"]["scheduler"] == "DDIMScheduler"
    assert told["settings"]["layers"]
    assert set(told["versions"]) == {"heedful", "torch", "diffusers", "transformers"}
    for maps in record.maps:
        assert maps.min() >= 0
        assert maps.max() <= 1
    peaks = [maps.flatten(1).amax(1).tolist() for maps in record.maps]
    assert [list(image) for image in record.word_attention] == [pytest.approx(image) for image in peaks]
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.probes = 3


def test_a_gradient_that_is_not_finite_is_skipped_and_reported(pipe, monkeypatch):
    plain = run(pipe, [PROMPT, PROMPT])
    real = AttendAndExcite.loss

    def broken(self, maps, spans, last):
        loss = real(self, maps, spans, last)
        return loss * torch.tensor([1.0, float("nan")])[: len(loss)] if len(loss) == 2 else loss

    monkeypatch.setattr(AttendAndExcite, "loss", broken)
    with guide(pipe, dataclasses.replace(CAT_AND_FROG, max_refinements=0)) as session:
        guided = run(pipe, [PROMPT, PROMPT])
    assert torch.equal(guided[1], plain[1])
    assert not torch.equal(guided[0], plain[0])
    assert session.run.steps[0].skipped == "the gradient of image 1 was not finite"


def test_bfloat16_on_a_cpu():
    pipe = build().to(torch.bfloat16)
    with guide(pipe, FEW_MOVES) as session:
        images = run(pipe)
    assert images.dtype == torch.bfloat16
    assert images.isfinite().all()
    assert session.run.steps[0].relative_shifts[0] > 0.04


@pytest.mark.gpu
def test_float16_on_cuda_guides_as_float32_does():
    losses = []
    for dtype in (torch.float32, torch.float16):
        pipe = build().to("cuda", dtype)
        with guide(pipe, FEW_MOVES) as session:
            images = run(pipe)
        assert images.isfinite().all()
        assert not any(step.skipped for step in session.run.steps)
        losses.append(session.run.steps[0].losses[0])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("inside", [False, True])
def test_xformers_enabled_before_or_inside_is_kept(inside):
    pytest.importorskip("xformers")
    pipe = build(attention_head_dim=1).to("cuda", torch.float16)
    if not inside:
        pipe.enable_xformers_memory_efficient_attention()
    with guide(pipe, FEW_MOVES) as session:
        if inside:
            pipe.enable_xformers_memory_efficient_attention()
        images = run(pipe)
    assert images.isfinite().all()
    assert session.run.steps
    assert {type(found).__name__ for found in pipe.unet.attn_processors.values()} == {"XFormersAttnProcessor"}


def test_no_model_code_was_swapped(pipe):
    """The denoiser's class is diffusers' own during a run, whatever was lent to its small parts."""
    seen = set()
    with guide(pipe, FEW_MOVES):
        run(pipe, callback_on_step_end=lambda pipe, *args: seen.add(type(pipe.unet)) or {})
    assert seen == {models.UNet2DConditionModel}
