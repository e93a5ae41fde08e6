"""A nudge inside a mask leaves the outside as it is, to the bit, and is measured by the inside."""

from __future__ import annotations

import pytest
import torch
from heedful.guidance.inside import Inside

LATENTS = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(2, 1, 6, 5)
MASK[0, :, :2], MASK[1, :, 3:] = 1, 1


def test_without_a_mask_everything_is_inside():
    whole = Inside(None)
    assert torch.equal(whole.of(LATENTS), LATENTS)
    assert torch.equal(whole.put(OTHER, LATENTS), OTHER)
    torch.testing.assert_close(whole.shares(LATENTS * 0.1, LATENTS), torch.tensor([0.1, 0.1]))


def test_each_image_has_its_own_inside():
    found = Inside(MASK).put(OTHER, LATENTS)
    assert torch.equal(found[0, :, :2], OTHER[0, :, :2])
    assert torch.equal(found[0, :, 2:], LATENTS[0, :, 2:])
    assert torch.equal(found[1, :, :3], LATENTS[1, :, :3])
    assert torch.equal(Inside(MASK[:1]).put(OTHER, LATENTS)[1, :, 2:], LATENTS[1, :, 2:])


@pytest.mark.parametrize("rows", [[1], [1, 0]])
def test_some_images_only(rows):
    rows = torch.tensor(rows)
    found = Inside(MASK).put(OTHER[rows], LATENTS, rows)
    assert torch.equal(found, Inside(MASK).put(OTHER, LATENTS)[rows])


def test_a_probe_of_the_inside_sees_the_whole():
    seen = []
    probe = Inside(MASK).probe(lambda latents, rows: seen.append((latents, rows)), LATENTS)
    rows = torch.tensor([1])
    probe(torch.zeros(1, 4, 6, 5), rows)
    latents, given = seen[0]
    assert torch.equal(given, rows)
    assert torch.equal(latents[0, :, :3], LATENTS[1, :, :3])
    assert not latents[0, :, 3:].any()


def test_shares_are_of_the_norm_inside():
    inside = Inside(MASK)
    shift = inside.of(LATENTS) * 0.05
    torch.testing.assert_close(inside.shares(shift, LATENTS), torch.tensor([0.05, 0.05]))
    assert (shift.flatten(1).norm(dim=1) < 0.04 * LATENTS.flatten(1).norm(dim=1)).all()


def test_where_nothing_is_inside_the_share_is_none():
    assert Inside(MASK * 0).shares(LATENTS * 0, LATENTS).tolist() == [0.0, 0.0]
