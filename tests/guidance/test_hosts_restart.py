"""Every pipeline that guidance knows begins anew for an image that neglects a word, and for no other."""

from __future__ import annotations

import dataclasses

import hosting_controls
import hosting_transformers
import hosting_unets
import pytest
import torch
from heedful.guidance import Schedule, guide
from heedful.guidance.courses import Courses
from heedful.guidance.hosts import host_type
from hosting import OTHER, PROMPT, counted_steps, state

CASES = [*hosting_unets.CASES, *hosting_controls.CASES, *hosting_transformers.CASES]
ANEW = Schedule({}, until=1, unit="step")
RESTART = Schedule({}, until=0, restart={1: 1.0}, unit="step", anew=ANEW)
"""Nobody has all attention, so every image begins anew before the second step."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request):
    """One kind of pipeline."""
    return request.param


@pytest.fixture(scope="module")
def pipe(case):
    """One pipeline for both tests of its case."""
    pipe = case.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def given_up(case, pipe, generators):
    """Call the pipeline and stop it before its second step; its generators are where they are then."""

    def stop(*_):
        if timesteps:
            raise KeyboardInterrupt

    nothing = dataclasses.replace(case.objective(0.0), schedule=Schedule({}, until=0.0))
    with counted_steps(pipe) as timesteps, guide(pipe, nothing):  # puts back what some leave behind
        handle = case.denoiser(pipe).register_forward_pre_hook(stop)
        try:
            with pytest.raises(KeyboardInterrupt):
                case.run(pipe, generators=generators)
        finally:
            handle.remove()


def test_who_neglects_a_word_begins_anew_from_the_next_noise(case, pipe):
    generators = [torch.Generator().manual_seed(0)]
    if host_type(pipe).begins_anew:
        given_up(case, pipe, generators)
    with guide(pipe, dataclasses.replace(case.objective(), schedule=ANEW)) as session:
        expected = case.run(pipe, generators=generators)
    before = state(pipe)
    with guide(pipe, dataclasses.replace(case.objective(), schedule=RESTART)) as begun:
        found = case.run(pipe)
    assert state(pipe) == before
    assert begun.run.image_probes == session.run.image_probes == (1,)
    assert begun.run.repeated_steps == (int(host_type(pipe).begins_anew),)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_of_a_batch_the_other_image_is_left_to_plain_sampling(case, pipe, monkeypatch):
    if not host_type(pipe).begins_anew:
        pytest.skip("this pipeline cannot begin anew")
    plain = case.run(pipe, [PROMPT, OTHER])
    monkeypatch.setattr(
        Courses,
        "begins_anew",
        lambda self, highest, index, of: torch.tensor([True, False]) if index else None,
    )
    objective = case.objective(words=[case.words, ["frog", "dog"]])
    with guide(pipe, dataclasses.replace(objective, schedule=RESTART)) as session:
        found = case.run(pipe, [PROMPT, OTHER])
    assert session.run.repeated_steps == (1, 0)
    assert session.run.image_probes == (1, 0)
    torch.testing.assert_close(found[1:], plain[1:], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found[:1], plain[:1], atol=1e-3)
