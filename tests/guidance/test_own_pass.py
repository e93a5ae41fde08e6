"""Paying only for neglect: an image whose words have attention enough in its own pass is not probed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from guiding import CAT_AND_FROG, PROMPT, run, state
from heedful.guidance import AttendAndExcite, GuidanceError, Schedule, guide, record
from heedful.guidance.losses import span_attention
from heedful.guidance.own_pass import Watcher
from tiny import tiny_pipeline as build


@pytest.fixture(scope="module")
def pipe():
    return build()


def objective(enough, **changes):
    return dataclasses.replace(CAT_AND_FROG, schedule=Schedule({}, until=0.75, enough=enough), **changes)


def test_who_has_enough_is_probed_at_the_first_step_only(pipe):
    with guide(pipe, objective({0.0: 0.0})) as session:
        run(pipe, count=2)
    first, *watched = session.run.steps
    assert [step.index for step in session.run.steps] == [0, 1, 2]
    assert min(first.relative_shifts) > 0.01
    assert all(step.relative_shifts == (0, 0) and min(step.word_attention[0]) > 0 for step in watched)
    assert session.run.probes == 2
    assert session.run.left_alone == (2, 2)
    assert session.run.to_dict()["left_alone"] == [2, 2]


def test_who_needs_no_help_is_never_probed_where_nudging_begins_after_the_first_step(pipe):
    plain = run(pipe, count=2)
    later = Schedule({}, since=0.25, until=0.75, enough={0.0: 0.0})
    with guide(pipe, dataclasses.replace(CAT_AND_FROG, schedule=later)) as session:
        assert torch.equal(run(pipe, count=2), plain)
    assert session.run.probes == 0
    assert [step.index for step in session.run.steps] == [1, 2]
    assert session.run.left_alone == (2, 2)
    assert session.run.settings["layers"]


def test_the_first_steps_are_left_out_whoever_is_neglected(pipe):
    late = Schedule({}, since=0.5, until=0.75)
    with guide(pipe, dataclasses.replace(CAT_AND_FROG, schedule=late)) as session:
        run(pipe)
    assert [step.index for step in session.run.steps] == [2]
    assert session.run.steps[0].relative_shifts[0] > 0.01


def test_who_never_has_enough_is_probed_as_ever(pipe):
    with guide(pipe, objective({0.0: 1.0})) as session:
        watched = run(pipe, count=2)
    with guide(pipe, objective({})) as unwatched:
        assert torch.equal(run(pipe, count=2), watched)
    assert session.run.left_alone == (0, 0)
    assert session.run.probes == unwatched.run.probes == 6
    assert session.run.steps == unwatched.run.steps


def test_only_the_neglected_image_of_a_batch_is_helped(pipe):
    """The bar is put between the two images; each then fares as it does alone."""
    least = _least_attention(pipe, count=2)
    bar = {0.0: sum(least) / 2}
    one = objective(bar)
    with guide(
        pipe, dataclasses.replace(one, schedule=dataclasses.replace(one.schedule, until=0.5))
    ) as session:
        both = run(pipe, count=2)
    assert sorted(session.run.left_alone) == [0, 1]
    spared = session.run.left_alone.index(1)
    assert spared == least.index(max(least))
    assert session.run.probes == 3
    last = session.run.steps[-1]
    assert last.relative_shifts[spared] == 0
    assert last.relative_shifts[1 - spared] > 0.01
    for seed in (0, 1):
        with guide(pipe, dataclasses.replace(one, schedule=dataclasses.replace(one.schedule, until=0.5))):
            torch.testing.assert_close(run(pipe, seed=seed), both[seed : seed + 1], atol=1e-4, rtol=1e-4)


def _least_attention(pipe, count):
    """The smallest peak of a word in the own pass of the first guided step, found by recording it."""
    once = dataclasses.replace(CAT_AND_FROG, schedule=Schedule({}, until=0.25))
    with guide(pipe, once), record(pipe, ["cat", "frog"], layers=(16, 12), resolve="step") as recording:
        run(pipe, count=count)
    return [float(maps[0].flatten(1).amax(1).min()) for maps in recording.record.step_maps]


def test_what_is_watched_is_the_prompts_own_attention(pipe, monkeypatch):
    """What the watcher saw after the first step equals what `record` finds of the same pass."""
    seen = []
    judge = Watcher.judge

    def spy(self, earlier=None):
        own = self._own
        if own is not None and own.complete:
            seen.append(span_attention(own.maps, self.prober.spans, self.prober.last)[0])
        judge(self, earlier)

    monkeypatch.setattr(Watcher, "judge", spy)
    with (
        record(pipe, ["cat", "frog"], layers=(16, 12), resolve="step") as recording,
        guide(pipe, objective({0.0: 1.0})),
    ):
        run(pipe)
    torch.testing.assert_close(seen[0], recording.record.step_maps[0][0], atol=1e-5, rtol=1e-4)
    assert len(seen) == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_watched_pass_is_given_back(pipe, error):
    before, plain = state(pipe), run(pipe)

    def interrupt(*args):
        raise error("stop")

    with pytest.raises(error, match="stop"), guide(pipe, objective({0.0: 0.0})):
        handle = pipe.unet.up_blocks[-1].register_forward_hook(interrupt)
        try:
            run(pipe)
        finally:
            handle.remove()
    assert state(pipe) == before
    assert torch.equal(run(pipe), plain)


def test_where_the_own_pass_is_not_seen_every_step_is_probed(pipe, monkeypatch):
    """A backend that a probe replaces hides the pipeline's own attention."""
    with guide(pipe, objective({})) as session:
        expected = run(pipe)
    monkeypatch.setattr("heedful.guidance.own_pass.OwnPass.keys_of", lambda self, layer: -1)
    with guide(pipe, objective({0.0: 0.0})) as unseen:
        assert torch.equal(run(pipe), expected)
    assert unseen.run.probes == session.run.probes == 3
    assert unseen.run.left_alone == (0,)


def test_heights_lie_on_straight_lines_between_their_points():
    schedule = Schedule({}, enough={0.2: 0.3, 0.6: 0.5})
    assert [schedule.enough_at(index, 10) for index in (0, 2, 4, 9)] == pytest.approx([0.3, 0.3, 0.4, 0.5])
    assert Schedule({}).enough_at(3, 10) is None
    counted = Schedule({}, until=3, unit="step", enough={0: 0.2, 10: 0.4})
    assert counted.enough_at(5, 50) == pytest.approx(0.3)


@pytest.mark.parametrize(("steps", "first"), [(4, 0), (19, 0), (20, 1), (25, 1), (50, 2)])
def test_nudging_begins_in_the_step_that_its_beginning_lies_in(steps, first):
    assert Schedule({}, since=0.05).first(steps) == first
    assert Schedule({}, since=3, until=9, unit="step").first(steps) == 3


@pytest.mark.parametrize("since", [-0.1, 1.1])
def test_a_beginning_outside_the_trajectory_is_refused(since):
    with pytest.raises(GuidanceError, match="since is a fraction"):
        Schedule({}, since=since)


@pytest.mark.parametrize("enough", [{0.2: 1.5}, {-0.1: 0.5}, {2.0: 0.5}])
def test_heights_that_are_none_are_refused(enough):
    with pytest.raises(GuidanceError, match="enough map a point of the trajectory"):
        Schedule({}, enough=enough)


def test_prompts_without_words_need_nothing(pipe):
    with guide(
        pipe, AttendAndExcite(words=[["cat"], []], schedule=Schedule({}, enough={0.0: 1.0}))
    ) as session:
        run(pipe, [PROMPT, PROMPT])
    assert session.run.left_alone == (0, 1)


@pytest.mark.gpu
def test_in_float16_too():
    pipe = build().to("cuda", torch.float16)
    with guide(pipe, objective({0.0: 0.0})) as session:
        assert run(pipe).isfinite().all()
    assert session.run.left_alone == (2,)
