"""Starting noise: one measured step, or mean and deviation optimised, on probes known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from heedful.guidance import GuidanceError, OptimisedNoise, Rectify
from heedful.guidance.limits import norms
from heedful.guidance.losses import overlap
from heedful.guidance.optimizer import Probed
from heedful.guidance.start import Start


def noise(seed=0, batch=2):
    return torch.randn(batch, 4, 6, 5, generator=torch.Generator().manual_seed(seed))


def towards(wanted):
    """Loss = relu(wanted - mean of the left half), an image: low where that half is bright."""

    def probe(latents, rows):
        with torch.enable_grad():
            leaf = latents.detach().requires_grad_()
            losses = (wanted - leaf[..., :2].mean((1, 2, 3))).relu()
            gradient = torch.autograd.grad(losses.sum(), leaf)[0]
        seen.append(rows.tolist())
        finite = torch.ones(len(latents), dtype=torch.bool)
        return Probed(losses.detach(), gradient, finite, [torch.zeros(1, 2, 2) for _ in latents])

    seen: list[list[int]] = []
    probe.seen = seen
    return probe


def test_rectifying_is_one_step_of_the_size_asked_for():
    first, probe = noise(), towards(3.0)
    started = Rectify(0.02)(first, probe, 1.0)
    shift = started.latents - first
    torch.testing.assert_close((norms(shift) / norms(first)).flatten(), torch.full((2,), 0.02))
    assert (shift[..., :2] > 0).all()
    assert not shift[..., 2:].any()
    assert probe.seen == [[0, 1]]


@pytest.mark.parametrize("start", [Rectify(0.0), OptimisedNoise(rounds=0)])
def test_no_strength_changes_no_bit(start):
    first = noise()
    assert torch.equal(start(first, towards(3.0), 0.07).latents, first)


def test_noise_that_is_good_enough_is_left_alone_to_the_bit():
    first, probe = noise(), towards(-5.0)
    started = OptimisedNoise()(first, probe, 0.07)
    assert torch.equal(started.latents, first)
    assert probe.seen == [[0], [1]]


@pytest.mark.parametrize("scale", [1.0, 0.07])
def test_the_mean_and_deviation_are_moved_until_the_aim_is_reached_and_no_further(scale):
    first = noise(batch=1)
    wanted = float(first[..., :2].mean()) + 0.02

    def probe(latents, rows):
        found = towards(wanted)(latents * scale, rows)
        return Probed(found.losses, found.gradient * scale, found.finite, found.word_maps)

    started = OptimisedNoise(rounds=1, iterations=0, last_iterations=60)(first / scale, probe, scale)
    assert started.probed.losses.tolist() == [0]
    assert 0 < float((norms(started.latents * scale - first) / norms(first)).max()) < 0.1


def test_the_divergence_from_plain_noise_is_bounded():
    """What is reached for is far away; every element's mean and deviation stay near 0 and 1."""
    first, limit = noise(), 1e-3
    held = OptimisedNoise(rounds=1, iterations=30, last_iterations=0, divergence=limit)
    started = held(first, towards(50.0), 1.0)
    shift = (started.latents - first).square().mean((1, 2, 3)).sqrt()
    assert (shift < 2.5 * math.sqrt(2 * limit)).all()
    assert (shift > 0.2 * math.sqrt(2 * limit)).all()
    loose = OptimisedNoise(rounds=1, iterations=30, last_iterations=0, divergence=10.0)
    free = loose(first, towards(50.0), 1.0)
    assert ((free.latents - first).square().mean((1, 2, 3)).sqrt() > 0.15).all()


def test_rounds_draw_fresh_noise_for_each_image_from_its_own_and_never_touch_torch_s_generator():
    first, state = noise(), torch.random.get_rng_state()
    start = OptimisedNoise(rounds=3, iterations=0, last_iterations=0)
    together = start(first, towards(50.0), 1.0).latents
    alone = start(first[1:], towards(50.0), 1.0).latents
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(together[1:], alone)
    bright = [latents[..., :2].mean() for latents in (first[0], together[0])]
    assert bright[1] >= bright[0]
    same = start(first[[0, 0]], towards(50.0), 1.0).latents
    assert torch.equal(same[0], same[1])
    assert not torch.equal(together[0], together[1])


def test_the_best_round_is_optimised_on():
    probe = towards(50.0)
    first = noise(batch=1)
    start = OptimisedNoise(rounds=4, iterations=1, last_iterations=3)
    started = start(first, probe, 1.0)
    assert len(probe.seen) == 4 * 2 + 3
    rounds = OptimisedNoise(rounds=4, iterations=1, last_iterations=0)(first, towards(50.0), 1.0)
    assert float(started.probed.losses) < float(rounds.probed.losses)
    torch.testing.assert_close(
        towards(50.0)(started.latents, torch.tensor([0])).losses, started.probed.losses
    )


def test_a_gradient_that_is_not_finite_moves_nothing():
    def broken(latents, rows):
        found = towards(3.0)(latents, rows)
        found.losses[:], found.gradient[:], found.finite[:] = float("nan"), 0, False
        return found

    first = noise()
    for start in (Rectify(), OptimisedNoise(rounds=1)):
        assert torch.equal(start(first, broken, 1.0).latents, first)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rectify(1.5), "share of the latents' norm, 0 to 1; got 1.5"),
        (lambda: Rectify(losses=[]), "a mapping of loss to weight"),
        (lambda: OptimisedNoise(rounds=-1), "rounds is 0 or more; got -1"),
        (lambda: OptimisedNoise(rate=float("inf")), "rate is 0 or more; got inf"),
        (lambda: OptimisedNoise(losses={overlap: float("nan")}), "weight of overlap"),
    ],
)
def test_starts_that_are_none_are_refused(make, message):
    with pytest.raises(GuidanceError, match=message):
        make()


def test_both_are_starts():
    assert isinstance(Rectify(), Start)
    assert isinstance(OptimisedNoise(), Start)
