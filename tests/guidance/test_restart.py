"""Beginning anew: an image that neglects a word is paid for, and no other is touched."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager

import diffusers
import pytest
import torch
from guiding import PROMPT, run, state
from heedful.guidance import AttendAndExcite, GuidanceError, Rectify, Schedule, guide, record
from heedful.guidance.courses import Courses
from heedful.guidance.denoiser import is_probed
from heedful.guidance.restart import Attempts, BeginAnew
from heedful.pipelines import StableDiffusionAttendAndExcitePipeline
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_pipeline as build

ANEW = Schedule({}, until=0.75)
EVERY = AttendAndExcite(words=["cat", "frog"], schedule=Schedule({}, until=0, restart={0.5: 1.0}, anew=ANEW))
"""Nobody has all attention, so every image begins anew after two of four steps."""
NONE = dataclasses.replace(EVERY, schedule=Schedule({}, until=0, restart={0.25: 0.0, 0.5: 0.0}, anew=ANEW))


@pytest.fixture(scope="module")
def pipe():
    return build()


def scheduled(name):
    pipe = build()
    kind = getattr(diffusers, name)
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    return pipe


def both(pipe, objective, generators, prompts=2, **options):
    settings = {"num_inference_steps": 4, "output_type": "latent", "height": 256, "width": 192, **options}
    with guide(pipe, objective) as session:
        return pipe([PROMPT] * prompts, generator=generators, **settings).images, session.run


@contextmanager
def own_rows(pipe):
    """The rows of each of the pipeline's own calls of its denoiser."""
    found = []

    def hear(module, args, output):
        if not is_probed(module):
            found.append(len(args[0]))

    with pipe.unet.register_forward_hook(hear):
        yield found


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture
def first_lacks(monkeypatch):
    """Of two images the first one is taken for neglected before the third step, whatever is measured."""

    def begins(self, highest, index, steps):
        return torch.tensor([True, False]) if index == 2 else None

    monkeypatch.setattr(Courses, "begins_anew", begins)


@pytest.mark.parametrize(
    "scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_who_lacks_attention_is_what_the_next_noise_guided_makes(scheduler):
    pipe = scheduled(scheduler)
    generator = torch.Generator().manual_seed(0)
    plain, _ = both(pipe, NONE, generator, 1)
    with guide(pipe, dataclasses.replace(EVERY, schedule=ANEW)) as session:
        settings = {"num_inference_steps": 4, "output_type": "latent", "height": 256, "width": 192}
        expected = pipe(PROMPT, generator=generator, **settings).images
    found, told = both(pipe, EVERY, torch.Generator().manual_seed(0), 1)
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)
    assert told.repeated_steps == (2,)
    assert told.to_dict()["repeated_steps"] == [2]
    assert told.image_probes == session.run.image_probes == (3,)
    assert [step.losses for step in told.steps] == [step.losses for step in session.run.steps]


def test_who_has_attention_is_what_plain_sampling_makes_of_it(pipe):
    plain = run(pipe, count=2)
    with guide(pipe, NONE) as session:
        assert torch.equal(run(pipe, count=2), plain)
    assert session.run.repeated_steps == (0, 0)
    assert session.run.probes == 0
    assert [step.index for step in session.run.steps] == [1, 2]
    assert [step.relative_shifts for step in session.run.steps] == [(0, 0), (0, 0)]
    assert session.run.left_alone == (2, 2)
    assert [len(image) for image in session.run.attended] == [2, 2]


def test_given_latents_are_kept(pipe):
    latents = torch.randn((1, 4, 32, 24), generator=torch.Generator().manual_seed(3))
    with guide(pipe, dataclasses.replace(EVERY, schedule=ANEW)):
        expected = run(pipe, latents=latents)
    with guide(pipe, EVERY) as session:
        assert torch.equal(run(pipe, latents=latents), expected)
    assert session.run.repeated_steps == (2,)


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
def test_only_the_neglected_image_of_a_batch_begins_anew(pipe, first_lacks, guidance_scale):
    plain = run(pipe, [PROMPT] * 2, guidance_scale=guidance_scale)
    with own_rows(pipe) as rows:
        found, told = both(pipe, EVERY, seeded(0, 1), guidance_scale=guidance_scale)
    parts = 1 if guidance_scale == 1 else 2
    assert rows == [2 * parts, 2 * parts, parts, parts, 2 * parts, 2 * parts]
    assert told.repeated_steps == (2, 0)
    assert torch.equal(found[1:], plain[1:])
    assert not torch.equal(found[:1], plain[:1])
    assert told.image_probes == (3, 0)
    assert told.left_alone == (0, 2)
    assert [step.relative_shifts[1] for step in told.steps] == [0, 0, 0]


def test_it_fares_in_a_batch_as_it_does_alone(pipe, first_lacks, monkeypatch):
    found, _ = both(pipe, EVERY, seeded(0, 1))
    monkeypatch.undo()
    alone, _ = both(pipe, EVERY, seeded(0), 1)
    torch.testing.assert_close(found[:1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_with_one_generator_for_all_the_others_keep_their_way(scheduler, first_lacks):
    pipe = scheduled(scheduler)
    unguided = dataclasses.replace(EVERY, schedule=Schedule({}, until=0))
    plain, _ = both(pipe, unguided, torch.Generator().manual_seed(5))
    found, told = both(pipe, EVERY, torch.Generator().manual_seed(5))
    assert [step.relative_shifts[1] > 0 for step in told.steps] == [True, True, False]
    torch.testing.assert_close(found[1:], plain[1:], atol=1e-5, rtol=1e-5)
    assert not torch.equal(found[:1], plain[:1])


def test_images_begin_anew_each_at_its_own_step(pipe, monkeypatch):
    def begins(self, highest, index, steps):
        return {1: torch.tensor([False, True]), 2: torch.tensor([True, True])}.get(index)

    monkeypatch.setattr(Courses, "begins_anew", begins)
    found, told = both(pipe, EVERY, seeded(0, 1))
    assert told.repeated_steps == (2, 1)
    for seed, steps in ((0, 2), (1, 1)):
        monkeypatch.setattr(
            Courses,
            "begins_anew",
            lambda self, highest, index, of, at=steps: torch.tensor([True]) if index == at else None,
        )
        alone, _ = both(pipe, EVERY, seeded(seed), 1)
        torch.testing.assert_close(found[seed : seed + 1], alone, atol=1e-4, rtol=1e-4)


def test_images_on_trial_may_be_nudged_too(pipe):
    """The trial's own schedule nudges until they begin anew; what it spent is forgotten with them."""
    trial = dataclasses.replace(EVERY.schedule, until=0.75)
    with guide(pipe, dataclasses.replace(EVERY, schedule=trial)) as session:
        run(pipe)
    assert session.run.image_probes == (5,)
    assert session.run.repeated_steps == (2,)
    with guide(
        pipe, dataclasses.replace(NONE, schedule=dataclasses.replace(NONE.schedule, until=0.75))
    ) as on:
        guided = run(pipe)
    with guide(pipe, dataclasses.replace(EVERY, schedule=ANEW)):
        assert torch.equal(guided, run(pipe))
    assert on.run.image_probes == (3,)


def test_a_start_is_made_by_those_who_begin_anew_alone(pipe, first_lacks):
    plain = run(pipe, [PROMPT] * 2)
    found, told = both(pipe, dataclasses.replace(EVERY, start=Rectify(0.1)), seeded(0, 1))
    assert told.image_probes == (4, 0)
    assert torch.equal(found[1:], plain[1:])


def test_everything_is_given_back(pipe):
    before = state(pipe)
    with guide(pipe, EVERY):
        run(pipe)
    assert state(pipe) == before


def test_an_error_passes_and_everything_is_given_back(pipe):
    before = state(pipe)

    def stop(pipe, index, timestep, tensors):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), guide(pipe, EVERY):
        run(pipe, callback_on_step_end=stop)
    assert state(pipe) == before


def test_a_record_around_it_forgets_what_was_given_up(pipe):
    with record(pipe, resolve="step") as around, guide(pipe, EVERY):
        run(pipe)
    with guide(pipe, EVERY), record(pipe, resolve="step") as within:
        run(pipe)
    assert len(around.record.steps) == len(within.record.steps) == 4
    torch.testing.assert_close(around.record.maps[0], within.record.maps[0], atol=1e-6, rtol=1e-5)


def test_under_a_record_the_whole_batch_is_denoised(pipe, first_lacks):
    alone, _ = both(pipe, EVERY, seeded(0, 1))
    with record(pipe) as recording:
        found, told = both(pipe, EVERY, seeded(0, 1))
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)
    assert told.repeated_steps == (2, 0)
    assert len(recording.record.maps) == 2


def test_a_guide_within_another_does_not_wind_it_back(pipe):
    with guide(pipe, EVERY) as inner, guide(pipe, EVERY) as outer:
        assert run(pipe).isfinite().all()
    assert outer.run.repeated_steps == (2,)
    assert inner.run.repeated_steps == (0,)
    assert inner.run.image_probes == (3,)


def test_where_passes_cannot_be_watched_all_are_guided(pipe, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    with guide(pipe, NONE):
        pipe(PROMPT, generator=generator, num_inference_steps=4, output_type="latent", height=256, width=192)
    with guide(pipe, dataclasses.replace(EVERY, schedule=ANEW)):
        expected = pipe(
            PROMPT, generator=generator, num_inference_steps=4, output_type="latent", height=256, width=192
        ).images
    monkeypatch.setattr("heedful.guidance.own_pass.OwnPass.keys_of", lambda self, layer: -1)
    found, told = both(pipe, NONE, torch.Generator().manual_seed(0), 1)
    assert told.repeated_steps == (1,)
    assert torch.equal(found, expected)


def test_a_compiled_denoiser_is_guided_from_the_first_step(pipe, monkeypatch):
    with guide(pipe, dataclasses.replace(EVERY, schedule=ANEW)):
        expected = run(pipe)
    monkeypatch.setattr("heedful.guidance.own_pass.is_compiled", lambda module: True)
    with guide(pipe, EVERY) as session:
        assert torch.equal(run(pipe), expected)
    assert session.run.repeated_steps == (0,)


def test_a_drop_in_begins_anew_too(pipe):
    drop_in = StableDiffusionAttendAndExcitePipeline.from_pipe(pipe)
    drop_in.set_progress_bar_config(disable=True)
    with guide(pipe, EVERY):
        expected = run(pipe)
    assert torch.equal(run(drop_in, objective=EVERY), expected)
    assert drop_in.guided_run.repeated_steps == (2,)


def test_offloading_is_undone_as_at_the_end_of_a_call(pipe, monkeypatch):
    told = []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: told.append(1), raising=False)
    with guide(pipe, EVERY):
        run(pipe)
    assert told == [1, 1]


def test_heights_lie_between_their_points_and_nowhere_else():
    schedule = Schedule({}, restart={0.2: 0.3, 0.6: 0.5})
    heights = [schedule.restart_at(index, 10) for index in range(10)]
    assert heights[:2] == [None, None]
    assert heights[2:7] == pytest.approx([0.3, 0.35, 0.4, 0.45, 0.5])
    assert heights[7:] == [None, None, None]
    assert schedule.last_restart(10) == 6
    assert Schedule({}).last_restart(10) == -1


@pytest.mark.parametrize("restart", [{0.2: 1.5}, {-0.1: 0.5}, {2.0: 0.5}])
def test_heights_that_are_none_are_refused(restart):
    with pytest.raises(GuidanceError, match="restart map a point of the trajectory"):
        Schedule({}, restart=restart)


def test_a_schedule_after_no_restart_and_one_with_another_are_refused():
    with pytest.raises(GuidanceError, match="goes with restart"):
        Schedule({}, anew=ANEW)
    with pytest.raises(GuidanceError, match="has none itself"):
        Schedule({}, restart={0.5: 1.0}, anew=Schedule({}, restart={0.5: 1.0}))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_every_image_begins_anew_once_at_most(at):
    """Whatever lacks at whatever step: who begins anew is followed from the step that was given up."""
    attempts, index, restarts = Attempts(len(at), True, None), 0, 0
    wanted = torch.tensor(at)
    while index < 7:
        try:
            attempts.decide(index, wanted == index if index else None, None)
        except BeginAnew:
            restarts, index = restarts + 1, 0
            continue
        attempts.begin_step()
        live = attempts.live(index)
        assert len(live) > 0
        attempts.follow(index, torch.zeros(len(at), 1, 1, 1), True)
        index += 1
    assert attempts.repeated == at
    assert restarts == len({step for step in at if step})


@pytest.mark.gpu
def test_in_float16_too():
    pipe = build().to("cuda", torch.float16)
    with guide(pipe, EVERY) as session:
        assert run(pipe).isfinite().all()
    assert session.run.repeated_steps == (2,)
