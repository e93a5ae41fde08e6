"""Every pipeline that guidance knows, on tiny random weights: it is guided, read rightly and given back."""

from __future__ import annotations

import dataclasses

import hosting_controls
import hosting_transformers
import hosting_unets
import pytest
import torch
from heedful.guidance import AttendAndExcite, Objective, Schedule, guide, record
from heedful.guidance.losses import attend_and_excite
from hosting import (
    OTHER,
    PROMPT,
    assert_the_loss_falls,
    counted_steps,
    first_maps,
    last_loss,
    layer_calls,
    poisoned,
    state,
)

CASES = [*hosting_unets.CASES, *hosting_controls.CASES, *hosting_transformers.CASES]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request):
    """One kind of pipeline."""
    return request.param


@pytest.fixture(scope="module")
def pipe(case):
    """One pipeline for all tests of its case: each finds it as it was."""
    pipe = case.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def plain(case, pipe):
    """What the bare pipeline makes of the prompt."""
    return case.run(pipe)


@pytest.fixture(scope="module")
def guided(case, pipe):
    """What it makes of the prompt when guided, the record of that, and the scheduler's timesteps."""
    with guide(pipe, case.objective()) as session, counted_steps(pipe) as timesteps:
        latents = case.run(pipe)
    return latents, session.run, timesteps


def test_it_runs_guided_and_tells_of_its_steps(case, pipe, plain, guided):
    latents, run, timesteps = guided
    assert latents.isfinite().all()
    assert latents.shape == plain.shape
    assert not torch.equal(latents, plain)
    total = len(timesteps)
    assert [step.index for step in run.steps] == list(range(total))
    assert [step.fraction for step in run.steps] == pytest.approx([index / total for index in range(total)])
    assert [step.timestep for step in run.steps] == [float(one) for one in timesteps]
    assert all(0 < step.relative_shifts[0] < 0.1 for step in run.steps)
    assert run.maps[0].shape == (2, *case.grid)


def test_words_reach_their_columns_in_probes(case, pipe):
    seen = []

    def spy(maps, spans):
        seen.append((maps, spans))
        return attend_and_excite(maps, spans)

    objective = Objective([spy], words=case.words, schedule=Schedule({}, until=1, unit="step"))
    with guide(pipe, objective), layer_calls(pipe) as calls:
        case.run(pipe)
    maps, spans = seen[0]
    assert [span.indices for span in spans[0]] == list(case.columns.values())
    assert maps.layers
    for name, recorded in maps.layers.items():
        module, args, kwargs = calls[name][0]
        expected = case.direct(module, args, kwargs, slice(0, 1))
        torch.testing.assert_close(recorded.flatten(2, 3).double(), expected, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def recorded(case, pipe, plain):
    """What it makes of the prompt while recorded, the record, and what its layers were called with."""
    before = state(pipe)
    with record(pipe, case.words, resolve="layer") as recording, layer_calls(pipe) as calls:
        latents = case.run(pipe)
    assert state(pipe) == before
    return latents, recording.record, calls


def test_recording_changes_no_pixel(plain, recorded):
    assert torch.equal(recorded[0], plain)


def test_words_reach_their_columns_in_records(case, recorded):
    _, found, calls = recorded
    rows = case.conditional(len(case.parts))
    assert [span.indices for span in found.spans[0]] == list(case.columns.values())
    for name, maps in found.layer_maps.items():
        own = calls[name][:: case.calls]
        direct = [case.direct(module, args, kwargs, rows) for module, args, kwargs in own]
        mean = torch.stack(direct).mean((0, 2))[0]
        expected = torch.stack([mean[:, list(column)].sum(1) for column in case.columns.values()])
        torch.testing.assert_close(maps[0].reshape(expected.shape).double(), expected, atol=1e-5, rtol=1e-4)


def test_only_the_conditional_rows_are_read(case, pipe):
    clean = first_maps(case, pipe)
    if len(case.parts) > 1:
        with poisoned(case, pipe, own=False):
            torch.testing.assert_close(first_maps(case, pipe), clean, atol=1e-5, rtol=1e-4)
    with poisoned(case, pipe, own=True):
        assert not torch.allclose(first_maps(case, pipe), clean, atol=1e-3, rtol=1e-2)


def test_guiding_lowers_the_loss_and_not_guiding_does_not(case, pipe):
    unguided = last_loss(case, pipe, 0.0)
    assert_the_loss_falls(case, pipe, 0.05, unguided)
    with pytest.raises(AssertionError, match="is not below"):
        assert_the_loss_falls(case, pipe, 0.0, unguided)


@pytest.mark.parametrize("during", ["probe", "step"])
def test_everything_is_given_back_after_an_exception(case, pipe, plain, during, monkeypatch):
    before = state(pipe)
    with monkeypatch.context() as patch:
        if during == "probe":
            patch.setattr(AttendAndExcite, "loss", lambda *args: 1 / 0)
        else:
            patch.setattr(type(pipe.scheduler), "step", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError), guide(pipe, case.objective()):
            case.run(pipe)
    assert state(pipe) == before
    if during == "step":
        assert torch.equal(case.run(pipe), plain)


def test_with_nothing_to_do_no_pixel_changes(case, pipe, plain):
    before = state(pipe)
    with guide(pipe, case.objective(0.0)):
        assert torch.equal(case.run(pipe), plain)
    assert state(pipe) == before


def test_two_prompts_equal_two_singles(case, pipe, guided):
    objective = case.objective(words=[case.words, ["frog", "dog"]])
    with guide(pipe, objective) as session:
        both = case.run(pipe, [PROMPT, OTHER])
    batch = session.run
    with guide(pipe, dataclasses.replace(objective, words=["frog", "dog"])) as session:
        other = case.run(pipe, OTHER, seed=1)
    for image, (single, run) in enumerate((guided[:2], (other, session.run))):
        torch.testing.assert_close(both[image : image + 1], single, atol=2e-3, rtol=1e-3)
        assert batch.spans[image] == run.spans[0]
        for own, alone in zip(batch.steps, run.steps, strict=True):
            assert own.losses[image] == pytest.approx(alone.losses[0], abs=1e-4)


def test_two_images_of_a_prompt(case, pipe, guided):
    with guide(pipe, case.objective()) as session:
        both = case.run(pipe, count=2)
    assert len(both) == 2
    torch.testing.assert_close(both[:1], guided[0], atol=2e-3, rtol=1e-3)
    assert session.run.prompts == (PROMPT, PROMPT)
    assert session.run.steps[0].losses[0] != session.run.steps[0].losses[1]


def test_guidance_off(case, pipe):
    if case.off is None:
        pytest.skip("this pipeline has no guidance to turn off")
    with guide(pipe, case.objective()) as session:
        assert case.run(pipe, **case.off).isfinite().all()
    assert session.run.steps[0].relative_shifts[0] > 0


def test_other_schedulers(case, pipe):
    own = pipe.scheduler
    try:
        for name in case.schedulers:
            case.with_scheduler(pipe, name)
            with guide(pipe, case.objective()) as session:
                assert case.run(pipe).isfinite().all()
            assert session.run.steps[0].relative_shifts[0] > 0
    finally:
        pipe.scheduler = own


def test_bfloat16(case):
    for dtype in case.dtypes:
        pipe = case.build().to(dtype)
        with guide(pipe, case.objective()) as session:
            assert case.run(pipe).isfinite().all()
        assert session.run.steps[0].relative_shifts[0] > 0.03
        assert not any(step.skipped for step in session.run.steps)


@pytest.mark.gpu
def test_float16_on_cuda(case):
    pipe = case.build().to("cuda", torch.float16)
    with guide(pipe, case.objective()) as session:
        guided = case.run(pipe)
    assert guided.isfinite().all()
    assert session.run.steps[0].relative_shifts[0] > 0.03
    assert not any(step.skipped for step in session.run.steps)
