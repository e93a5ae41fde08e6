"""The same seed gives the same scene, the truth agrees with the pixels, held-out pairs stay unseen."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from heedful.emoji.sprites import RGB, SETS, load_sprite, painted, recolour
from heedful.emoji.vocabulary import LABELS
from heedful.emoji.world import (
    ANIMALS,
    COLOURS,
    HELD_OUT,
    OBJECTS,
    SIDE,
    SUBJECTS,
    Scene,
    is_seen,
    scene,
    scenes,
)
from hypothesis import given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**40)


def names(found: Scene) -> tuple[str, ...]:
    return tuple(name for name, _ in found.named)


@given(SEEDS)
def test_a_seed_always_gives_the_same_scene(seed: int) -> None:
    first, second = scene(seed, noisy=0.5), scene(seed, noisy=0.5)
    assert np.array_equal(first.image, second.image)
    assert (first.caption, first.named) == (second.caption, second.named)
    assert [s.box for s in first.subjects] == [s.box for s in second.subjects]


def test_other_seeds_give_other_scenes() -> None:
    images = {scene(seed, subjects=1).image.tobytes() for seed in range(20)}
    assert len(images) == 20


@given(SEEDS, st.sampled_from([1, 2, 3]))
def test_boxes_are_the_bounds_of_masks_that_share_no_pixel(seed: int, count: int) -> None:
    found = scene(seed, subjects=count)
    assert len(found.subjects) == count
    assert sum(subject.mask.astype(int) for subject in found.subjects).max() == 1
    for subject in found.subjects:
        left, top, right, bottom = subject.box
        assert 0 <= left < right <= SIDE
        assert 0 <= top < bottom <= SIDE
        assert subject.mask[top:bottom, left:right].sum() == subject.mask.sum()
        assert subject.mask[top, left:right].any()
        assert subject.mask[top:bottom, right - 1].any()


@given(SEEDS, st.sampled_from(OBJECTS), st.sampled_from(COLOURS))
def test_an_object_has_the_colour_that_its_caption_names(seed: int, thing: str, colour: str) -> None:
    found = scene(seed, named=((thing, colour),))
    assert found.subjects[0].colour == colour
    assert f"{colour} {thing}" in found.caption


@given(SEEDS, st.sampled_from([2, 3]))
def test_a_held_out_pair_is_never_drawn_nor_named_for_training(seed: int, count: int) -> None:
    found = scene(seed, subjects=count, noisy=0.5)
    assert not any(pair <= set(names(found)) for pair in HELD_OUT)
    assert {subject.name for subject in found.subjects} <= set(names(found))


@given(SEEDS, st.sampled_from([2, 3, None]))
def test_held_out_scenes_hold_a_held_out_pair(seed: int, count: int | None) -> None:
    found = scene(seed, subjects=count, pairs="held-out")
    assert any(pair <= set(names(found)) for pair in HELD_OUT)
    assert len(found.subjects) == len(found.named)


def test_the_check_of_held_out_pairs_can_fail() -> None:
    assert not is_seen(("lion", "bird", "turtle"))
    assert is_seen(("cat", "frog"))
    drawn = [scene(seed, subjects=2, pairs="any") for seed in range(200)]
    assert not all(is_seen(names(found)) for found in drawn)


def test_every_subject_is_in_seen_and_in_held_out_pairs() -> None:
    assert len(HELD_OUT) == 36
    kinds = [sum(name in ANIMALS for name in pair) for pair in HELD_OUT]
    assert [kinds.count(count) for count in (2, 1, 0)] == [14, 14, 8]
    for name in SUBJECTS:
        partners = sum(name in pair for pair in HELD_OUT)
        assert 2 <= partners <= 4


@given(SEEDS)
def test_a_noisy_scene_lacks_one_of_its_named_subjects(seed: int) -> None:
    found = scene(seed, subjects=2, noisy=1.0)
    assert len(found.named) == 2
    assert len(found.subjects) == 1
    assert found.subjects[0].name in names(found)


def test_the_share_of_noisy_scenes_is_as_asked() -> None:
    lacking = sum(len(found.subjects) < 2 for found in scenes(5, 300, subjects=2, noisy=0.3))
    assert 60 <= lacking <= 120


def test_numbers_of_subjects_come_in_their_shares() -> None:
    counts = [len(found.named) for found in scenes(6, 300)]
    assert 105 <= counts.count(1) <= 165
    assert 105 <= counts.count(2) <= 165
    assert 10 <= counts.count(3) <= 55


def test_scenes_are_drawn_as_they_are_asked_for() -> None:
    three = list(islice(scenes(7, 10**6), 3))
    assert [found.caption for found in three] == [scene(7_000_000 + index).caption for index in range(3)]


def test_a_subject_differs_from_the_background_where_its_mask_is() -> None:
    """A shifted mask would be useless: its pixels must differ more from the corner than the rest."""
    found = scene(3, named=(("frog", None),))
    corner = found.image[0, 0].astype(float)
    distance = np.abs(found.image.astype(float) - corner).sum(-1)
    mask = found.subjects[0].mask
    assert distance[mask].mean() > 3 * distance[~mask].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "must not be negative"),
        ({"seed": 0, "subjects": 4}, "subjects must be 1, 2, 3 or None"),
        ({"seed": 0, "noisy": 1.5}, "between 0 and 1"),
        ({"seed": 0, "pairs": "held-out", "subjects": 1}, "one subject makes no pair"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_wanted(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scene(**arguments)


def test_every_subject_has_every_drawing() -> None:
    for name in SUBJECTS:
        for drawing in range(len(SETS)):
            sprite = load_sprite(name, drawing)
            assert sprite.shape == (96, 96, 4)
            assert (sprite[..., 3] > 128).mean() > 0.08


@pytest.mark.parametrize("thing", OBJECTS)
def test_a_recoloured_object_is_closest_to_its_own_colour(thing: str) -> None:
    """Most of its pixels are nearer to the named colour than to any other."""
    palette = np.array(list(RGB.values()), dtype=float)
    right = 0
    for colour in COLOURS:
        sprite = recolour(load_sprite(thing, 0), colour).astype(float)
        body = sprite[sprite[..., 3] > 200][:, :3]
        nearest = np.abs(body[:, None] - palette).sum(-1).argmin(1)
        right += np.bincount(nearest, minlength=len(COLOURS)).argmax() == list(RGB).index(colour)
    assert right >= 7  # the clock is mostly its white face


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match='no subject "unicorn"; the subjects are: bear, bird'):
        load_sprite("unicorn", 0)
    with pytest.raises(ValueError, match='no colour "beige"; the colours are: black'):
        recolour(load_sprite("bow", 0), "beige")
    with pytest.raises(ValueError, match="drawing must be 0 to 1"):
        load_sprite("bow", 2)
    with pytest.raises(ValueError, match='no "red frog"'):
        painted("frog", 0, "red")


def test_labels_are_the_subjects_and_the_coloured_objects() -> None:
    assert len(LABELS) == len(set(LABELS)) == 24 + 132
