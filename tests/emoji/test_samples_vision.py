"""Samples for vision models: items are the same in every batch, truth fits what is seen, sides grow alike."""

from __future__ import annotations

import pytest
import torch
from heedful.emoji import samples_vision as samples
from heedful.emoji.vocabulary import LABELS, SUBJECTS


def test_an_item_is_the_same_whatever_the_others_are() -> None:
    together, alone = samples.one_subject([3, 8]), samples.one_subject([8])

    assert (together[1].image == alone[0].image).all()
    assert (together[0].image != together[1].image).any()
    assert (samples.two_subjects([8])[0].image != alone[0].image).any()
    assert (samples.one_subject([8], seed=9)[0].image != alone[0].image).any()


def test_scenes_are_of_so_many_subjects_of_pairs_that_are_seen() -> None:
    assert {len(each.subjects) for each in samples.one_subject(range(6))} == {1}
    assert {len(each.subjects) for each in samples.two_subjects(range(6))} == {2}


def test_subjects_take_turns_in_being_asked_for() -> None:
    items = [4, 5, 6]
    scenes = samples.two_subjects(items)
    own, other = samples.asked_for(scenes, items), samples.asked_for(scenes, items, other=True)

    first = [each.subjects[0] is one for each, one in zip(scenes, own, strict=True)]
    assert first == [True, False, True]
    assert [each.subjects[0] is two for each, two in zip(scenes, other, strict=True)] == [False, True, False]
    with pytest.raises(ValueError, match="scene 2 has one subject"):
        samples.asked_for(samples.one_subject([2]), [2], other=True)


def test_truth_and_masks_are_those_of_what_is_drawn() -> None:
    scenes = samples.two_subjects(range(4))
    own = samples.asked_for(scenes, range(4))
    masks, right = samples.masks(own), samples.all_right(scenes)

    assert [SUBJECTS[place] for place in samples.labels(own).tolist()] == [each.name for each in own]
    assert right.sum(1).tolist() == [2] * 4
    assert right.gather(1, samples.labels(own)[:, None]).all()
    assert masks.shape == (4, 64, 64)
    assert masks.flatten(1).any(1).all()
    coloured = [sum(one.colour is not None for one in each.subjects) for each in scenes]
    assert (samples.all_right(scenes, LABELS).sum(1) - 2).tolist() == coloured


@pytest.mark.parametrize("side", [24, 64, 96])
def test_sides_grow_and_shrink_with_their_masks(side: int) -> None:
    scenes = samples.one_subject([0, 1])
    pixels, masks = samples.pixels(scenes, side), samples.masks([each.subjects[0] for each in scenes], side)

    assert pixels.shape == (2, 3, side, side)
    assert masks.shape == (2, side, side)
    assert -1 <= float(pixels.min()) < float(pixels.max()) <= 1
    whole = samples.masks([each.subjects[0] for each in scenes]).float().mean((1, 2))
    torch.testing.assert_close(masks.float().mean((1, 2)), whole, atol=0.02, rtol=0.1)


def test_every_subject_has_a_text() -> None:
    found = samples.texts()

    assert len(found) == len(SUBJECTS)
    assert {"a cat", "an apple"} <= set(found)
