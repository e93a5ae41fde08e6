"""One probe's gradient moves an image several times: who is looked at when, and what the others are told."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from guiding import CAT_AND_FROG, run
from heedful.guidance import GuidanceError, Limits, Schedule, guide
from heedful.guidance.optimizer import Probed
from heedful.guidance.reuse import Reuse
from tiny import tiny_pipeline as build


class Looks:
    """A probe that keeps account: the gradient is the number of the look, the loss the image's number."""

    def __init__(self, broken=()):
        self.asked, self.broken = [], broken

    def __call__(self, latents, rows):
        self.asked.append(rows.tolist())
        finite = torch.tensor([(len(self.asked), row) not in self.broken for row in rows.tolist()])
        gradient = torch.full_like(latents, float(len(self.asked))) * finite[:, None, None, None]
        return Probed(rows.float(), gradient, finite, [torch.zeros(1, 2, 2) for _ in rows])


def ask(reuse, looks, *rows, seen=None):
    numbers = torch.tensor(rows)
    return reuse.saving(looks, seen)(torch.zeros(len(rows), 4, 2, 2), numbers)


def test_a_gradient_serves_as_often_as_asked_each_image_for_itself():
    reuse, looks = Reuse(2), Looks()
    gradients = [
        ask(reuse, looks, *rows).gradient[:, 0, 0, 0].tolist() for rows in ([0, 1], [1], [0, 1], [2, 0])
    ]
    assert looks.asked == [[0, 1], [1], [2, 0]]
    assert gradients == [[1, 1], [1], [1, 2], [3, 3]]


def test_one_move_a_probe_is_the_probe_itself():
    looks = Looks()
    assert Reuse(1).saving(looks, None) is looks


def test_a_gradient_that_was_not_finite_serves_once():
    reuse, looks = Reuse(3), Looks(broken=[(1, 0)])
    first = ask(reuse, looks, 0, 1)
    assert first.finite.tolist() == [False, True]
    assert ask(reuse, looks, 0, 1).finite.all()
    assert looks.asked == [[0, 1], [0]]


def test_losses_and_maps_of_who_is_not_looked_at_are_those_seen_in_the_own_pass():
    reuse, looks = Reuse(2), Looks()
    ask(reuse, looks, 1)
    seen = Probed(
        torch.tensor([5.0, 6.0]),
        torch.zeros(2, 1, 1, 1),
        torch.ones(2, dtype=bool),
        [torch.ones(1, 2, 2)] * 2,
    )
    found = ask(reuse, looks, 0, 1, seen=seen)
    assert found.losses.tolist() == [0.0, 6.0]
    assert found.gradient[:, 0, 0, 0].tolist() == [2.0, 1.0]
    assert [float(one.amax()) for one in found.word_maps] == [0.0, 1.0]


@pytest.fixture(scope="module")
def pipe():
    return build()


def guided(pipe, schedule, **changes):
    with guide(pipe, dataclasses.replace(CAT_AND_FROG, schedule=schedule, **changes)) as session:
        image = run(pipe, count=2)
    return image, session.run


def test_half_of_the_probes_move_the_latents_as_often(pipe):
    every, all_probed = guided(pipe, Schedule({}, until=0.75))
    image, found = guided(pipe, Schedule({}, until=0.75, moves_per_probe=2))
    assert (all_probed.probes, found.probes) == (6, 4)
    assert [step.index for step in found.steps] == [0, 1, 2]
    assert all(min(step.relative_shifts) > 0.01 for step in found.steps)
    assert found.steps[0] == all_probed.steps[0]
    assert not torch.equal(image, every)


@pytest.mark.parametrize(
    ("schedule", "limits"),
    [
        (Schedule({0.0: 1.0, 0.25: 1.0, 0.5: 1.0}, until=0.75, moves_per_probe=2), None),
        (Schedule({}, until=0.75, moves_per_probe=2), Limits(halvings=1)),
    ],
    ids=["refined", "halved"],
)
def test_where_losses_are_compared_every_move_is_probed(pipe, schedule, limits):
    fewest = {"max_refinements": 1, "limits": limits}
    _, once = guided(pipe, dataclasses.replace(schedule, moves_per_probe=1), **fewest)
    _, twice = guided(pipe, schedule, **fewest)
    assert twice.probes == once.probes > 6
    assert twice.steps == once.steps


@pytest.mark.parametrize("moves", [0, -1])
def test_a_number_of_moves_that_is_none_is_refused(moves):
    with pytest.raises(GuidanceError, match="moves_per_probe is a whole number"):
        Schedule({}, moves_per_probe=moves)


@pytest.mark.gpu
def test_in_float16_too():
    image, found = guided(build().to("cuda", torch.float16), Schedule({}, until=0.75, moves_per_probe=2))
    assert image.isfinite().all()
    assert found.probes == 4
