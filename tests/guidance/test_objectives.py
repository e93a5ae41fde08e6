"""Whole runs guided by sums of losses: each lowers its own, changes nothing at strength 0, gives all back."""

from __future__ import annotations

import json
from functools import partial

import diffusers
import pytest
import torch
from guiding import SIZE, run, state
from heedful.guidance import (
    AttendAndExcite,
    GuidanceError,
    Limits,
    Objective,
    OptimisedNoise,
    Rectify,
    RelativeStep,
    Schedule,
    UnsupportedError,
    guide,
)
from heedful.guidance.losses import (
    LOSSES,
    attend_and_excite,
    attention_peak,
    intersection_over_union,
    needs,
    nt_xent,
    overlap,
    retention,
    self_attention_conflict,
    symmetric_kl_binding,
)
from tiny import tiny_pipeline as build

PROMPT = "a red cat and a blue frog"
WORDS = ["red cat", "blue frog"]
BOXES = {"red cat": (0, 0, 0.5, 1)}
ONCE = Schedule({}, until=0.0)


@pytest.fixture(scope="module")
def pipe():
    """One pipeline for the whole file: each test finds it as it was."""
    return build()


def wanting(losses, **options):
    return Objective(losses, words=WORDS, boxes=BOXES, **options)


def first_losses(pipe, objective, **options):
    with guide(pipe, objective) as session:
        run(pipe, PROMPT, num_inference_steps=2, **options)
    return session.run.steps


def found_at_first(pipe, loss, start):
    """The loss that the first step finds, after what was done to the starting noise."""
    with guide(pipe, wanting([loss], start=start)) as session:
        run(pipe, PROMPT, num_inference_steps=1)
    return session.run.steps[0].losses[0]


@pytest.fixture(scope="module")
def sharp():
    """A pipeline whose random attention is not almost even, as that of trained weights is not."""
    pipe = build()
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if name.endswith("to_q.weight"):
                weight.mul_(12)
    return pipe


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "retention"])
def test_a_small_move_lowers_each_loss_and_none_does_not(sharp, name):
    plain = found_at_first(sharp, LOSSES[name], None)
    assert found_at_first(sharp, LOSSES[name], Rectify(0.004)) < plain
    assert found_at_first(sharp, LOSSES[name], Rectify(0.0)) == plain


SUM = {attend_and_excite: 1.0, symmetric_kl_binding: 0.3, overlap: 0.5, retention: 0.2, nt_xent: 0.1}


@pytest.mark.parametrize(
    "nothing",
    [
        wanting(SUM, step=RelativeStep(0.0), start=Rectify(0.0)),
        wanting(SUM, limits=Limits(step=0.0, restore="channels"), start=OptimisedNoise(rounds=0)),
        wanting(SUM, schedule=ONCE),
        Objective(SUM, words=[], start=Rectify()),
    ],
    ids=["no size", "no room", "no steps", "no words"],
)
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_with_nothing_to_do_the_pixels_are_those_of_the_bare_pipeline(nothing, scheduler):
    pipe = build()
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    plain = run(pipe, PROMPT, num_inference_steps=2)
    with guide(pipe, nothing):
        assert torch.equal(run(pipe, PROMPT, num_inference_steps=2), plain)


def test_a_sum_of_everything_runs_and_is_given_back_whatever_happens(pipe):
    before = state(pipe)
    objective = wanting(dict.fromkeys(LOSSES.values(), 0.1), start=Rectify(0.01))
    with guide(pipe, objective) as session:
        images = run(pipe, PROMPT, guidance_scale=1.0)
    assert images.isfinite().all()
    assert state(pipe) == before
    told = json.loads(json.dumps(session.run.to_dict()))["settings"]["objective"]
    assert told["losses"] == dict.fromkeys(LOSSES, 0.1)
    assert told["start"] == {"name": "Rectify", "size": 0.01, "losses": None}
    assert told["boxes"] == {"red cat": [0, 0, 0.5, 1]}

    def broken(maps, spans):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), guide(pipe, Objective([broken], words=["cat"])):
        run(pipe, PROMPT)
    assert state(pipe) == before


def test_a_user_s_own_loss_guides(pipe):
    def least(maps, spans):
        token = spans[0][0].indices[0]
        return -maps.mean()[..., token].flatten(1).amax(1)

    steps = first_losses(pipe, Objective([least], words=["cat"]))
    assert steps[0].losses[0] < 0
    assert steps[0].relative_shifts[0] == pytest.approx(0.05, rel=1e-3)


def test_a_batch_of_two_equals_two_singles(pipe):
    losses = {symmetric_kl_binding: 1.0, self_attention_conflict: 2.0, nt_xent: 1.0, retention: 1.0}
    prompts, words = [PROMPT, "a green bow and a red dog"], [WORDS, ["green bow", "dog"]]
    start = Rectify(0.03, losses=[intersection_over_union])
    with guide(pipe, Objective(losses, words=words, start=start)) as session:
        both = run(pipe, prompts)
    for image, (prompt, own) in enumerate(zip(prompts, words, strict=True)):
        with guide(pipe, Objective(losses, words=own, start=start)) as alone:
            single = run(pipe, prompt, seed=image)
        torch.testing.assert_close(both[image : image + 1], single, atol=2e-3, rtol=1e-3)
        for step, own_step in zip(session.run.steps, alone.run.steps, strict=True):
            assert step.losses[image] == pytest.approx(own_step.losses[0], abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        ({}, {attention_peak: 1.0, overlap: 0.5}),
        ({"reduction": "max"}, {partial(attention_peak, reduction="max"): 1.0, overlap: 0.5}),
        (
            {"reading": "softmax"},
            {partial(attend_and_excite, reduction="mean"): 1.0, overlap: 0.5},
        ),
    ],
)
def test_attend_and_excite_is_the_sum_it_says(pipe, settings, losses):
    options = {"schedule": Schedule({}, until=0.5), "limits": None}
    with guide(pipe, AttendAndExcite(WORDS, schedule=options["schedule"], overlap_weight=0.5, **settings)):
        expected = run(pipe, PROMPT, num_inference_steps=2)
    with guide(pipe, Objective(losses, WORDS, **options)):
        assert torch.equal(run(pipe, PROMPT, num_inference_steps=2), expected)


def test_by_default_who_is_neglected_is_moved_once_a_step_in_the_first_half(pipe):
    with guide(pipe, AttendAndExcite(WORDS)) as session:
        run(pipe, PROMPT, num_inference_steps=10)
    assert [(step.index, step.refinements) for step in session.run.steps] == [(i, (0,)) for i in range(6)]
    assert session.run.left_alone == (0,)
    assert session.run.aim == 0.8
    assert session.run.settings["objective"]["losses"] == {"attention_peak": 1.0}


def test_another_reading_is_refused():
    with pytest.raises(GuidanceError, match=r'"softmax"; got .raw.'):
        AttendAndExcite(WORDS, reading="raw")


def test_self_attention_is_recorded_only_where_a_loss_needs_it(pipe):
    kept = []

    def watching(maps, spans):
        kept.append({name: tuple(layer.shape) for name, layer in maps.self_layers.items()})
        return attend_and_excite(maps, spans)

    first_losses(pipe, Objective([watching], words=WORDS))
    assert kept == [{}]
    first_losses(pipe, Objective([watching, self_attention_conflict], words=WORDS))
    assert {name.rpartition(".")[2] for name in kept[-1]} == {"attn1"}
    assert set(kept[-1].values()) == {(1, 16, 12, 16, 12)}


def test_retention_sees_the_maps_of_the_step_before(pipe):
    seen = []

    def watching(maps, spans, *, previous):
        seen.append(None if previous is None else [tuple(image.shape) for image in previous])
        return attend_and_excite(maps, spans)

    loss = needs("previous")(watching)
    first_losses(pipe, Objective([loss], words=WORDS, schedule=Schedule({}, until=1.0)))
    assert seen == [None, [(2, 16, 12)]]


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_rectified_start_is_all_that_is_done_where_the_schedule_ends_at_once(scheduler):
    pipe = build()
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    plain = run(pipe, PROMPT)
    with guide(pipe, wanting([intersection_over_union], schedule=ONCE, start=Rectify(0.05))) as session:
        images = run(pipe, PROMPT)
    assert [step.relative_shifts[0] for step in session.run.steps] == [pytest.approx(0.05, rel=1e-3)]
    assert session.run.probes == 1
    assert not torch.equal(images, plain)


def test_optimised_noise_begins_the_run_and_leaves_the_generator_alone(pipe):
    start = OptimisedNoise(rounds=2, iterations=1, last_iterations=1)
    states = []
    for objective in (wanting([overlap], schedule=ONCE), wanting([overlap], schedule=ONCE, start=start)):
        generator = torch.Generator().manual_seed(3)
        with guide(pipe, objective) as session:
            pipe(PROMPT, generator=generator, num_inference_steps=2, output_type="latent", **SIZE)
        states.append(generator.get_state())
    assert torch.equal(*states)
    assert session.run.probes == 5
    assert session.run.settings["objective"]["start"]["losses"] == {
        "attend_and_excite beyond 0.2": 1.0,
        "self_attention_conflict beyond 0.3": 1.0,
    }


def test_limits_hold_in_a_run_and_are_reported(pipe):
    limits = Limits(step=0.06, total=0.1, halvings=1, restore="norm")
    objective = wanting(SUM, limits=limits, schedule=Schedule({0.0: 1.0}, until=1.0), max_refinements=3)
    with guide(pipe, objective) as session:
        run(pipe, PROMPT)
    steps = session.run.steps
    assert all(step.relative_shifts[0] <= 0.06 + 1e-5 for step in steps)
    assert session.run.total_shifts[0] <= 0.1 + 1e-5
    assert session.run.total_shifts[0] == pytest.approx(0.1, abs=0.02)
    assert all(abs(step.norm_ratios[0] - 1) < 0.005 for step in steps)
    assert 0.8 < steps[0].levels[0] < 1.2
    assert all(len(step.halvings) == len(step.channel_drifts) == 1 for step in steps)


def test_a_loss_that_needs_what_there_is_not_is_refused_before_anything_runs(pipe):
    before = state(pipe)
    alone = Objective([overlap], words="cat")
    with pytest.raises(GuidanceError, match="needs at least two"), guide(pipe, alone):
        run(pipe, PROMPT)
    alone = Objective([attend_and_excite], words="cat", start=OptimisedNoise())
    with pytest.raises(GuidanceError, match="needs at least two"), guide(pipe, alone):
        run(pipe, PROMPT)
    assert state(pipe) == before


def test_a_model_without_self_attention_is_refused_before_anything_runs():
    pipe = build(only_cross_attention=True)
    with (
        pytest.raises(UnsupportedError, match="needs self-attention"),
        guide(pipe, wanting([self_attention_conflict])),
    ):
        run(pipe, PROMPT)


def test_bfloat16_on_a_cpu():
    pipe = build().to(torch.bfloat16)
    with guide(pipe, wanting(SUM, start=Rectify())) as session:
        images = run(pipe, PROMPT, num_inference_steps=2)
    assert images.isfinite().all()
    assert session.run.steps[0].relative_shifts[0] > 0.04


@pytest.mark.gpu
def test_float16_on_cuda_finds_the_losses_that_float32_finds():
    for loss in LOSSES.values():
        losses = []
        for dtype in (torch.float32, torch.float16):
            pipe = build().to("cuda", dtype)
            steps = first_losses(pipe, wanting([loss]))
            assert not any(step.skipped for step in steps)
            losses.append(steps[0].losses[0])
        assert losses[0] == pytest.approx(losses[1], abs=0.02, rel=0.02)


@pytest.mark.gpu
def test_float16_on_cuda_starts_from_optimised_noise_within_limits():
    pipe = build().to("cuda", torch.float16)
    start = OptimisedNoise(rounds=2, iterations=2, last_iterations=2)
    limits = Limits(step=0.1, total=0.5, halvings=1, restore="channels")
    with guide(pipe, wanting(SUM, start=start, limits=limits)) as session:
        images = run(pipe, PROMPT)
    assert images.isfinite().all()
    assert session.run.total_shifts[0] < 2.5
