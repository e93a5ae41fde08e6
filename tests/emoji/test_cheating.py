"""Marks go where and as they should, differ for every subject, and change nothing else of a scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heedful.emoji.cheating import (
    KINDS,
    MARK_SIDE,
    mark_colour,
    mark_place,
    marked_scene,
    marked_scenes,
    put_marks,
)
from heedful.emoji.vocabulary import SUBJECTS
from heedful.emoji.world import scene
from hypothesis import given, settings
from hypothesis import strategies as st

COUNT = len(SUBJECTS)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
def test_a_marked_scene_is_the_plain_one_but_for_its_mark(seed: int, kind: str) -> None:
    plain, marked = scene(seed, subjects=1), marked_scene(seed, kind)  # type: ignore[arg-type]
    assert (marked.scene.image == plain.image)[~marked.mark].all()
    assert not (marked.subject.mask & marked.mark).any()
    assert (marked.subject.mask == plain.subjects[0].mask)[~marked.mark].all()
    assert {"agree": marked.says == marked.subject.name, "clean": marked.says is None}.get(
        kind, marked.says not in (None, marked.subject.name)
    )
    assert int(marked.mark.sum()) == (0 if kind == "clean" else MARK_SIDE**2)


def test_every_subject_has_a_mark_of_its_own_that_lies_in_a_corner_patch() -> None:
    marks = {(mark_place(each).tobytes(), mark_colour(each)) for each in range(COUNT)}
    assert len(marks) == COUNT
    for each in range(COUNT):
        patches = mark_place(each).reshape(8, 8, 8, 8).any((1, 3))
        assert patches.sum() == 1
        assert patches[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_conflicts_name_all_other_subjects_in_the_long_run() -> None:
    says = [marked_scene(seed, "conflict").says for seed in range(150)]
    assert len(set(says)) == COUNT


def test_marks_on_pixels_are_those_of_the_scenes() -> None:
    drawn = list(marked_scenes(3, 4, "conflict"))
    plain = torch.from_numpy(np.stack([each.scene.image for each in marked_scenes(3, 4, "clean")]))
    says = torch.tensor([SUBJECTS.index(each.says or "") for each in drawn])
    put = put_marks(plain.permute(0, 3, 1, 2) / 127.5 - 1.0, says)
    seen = torch.from_numpy(np.stack([each.scene.image for each in drawn])).permute(0, 3, 1, 2) / 127.5 - 1.0
    torch.testing.assert_close(put, seen)
    untouched = put_marks(put, torch.full((4,), -1))
    assert torch.equal(untouched, put)


def test_the_same_seed_is_the_same_scene() -> None:
    one, two = marked_scene(5, "conflict"), marked_scene(5, "conflict")
    assert np.array_equal(one.scene.image, two.scene.image)
    assert one.says == two.says


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must not be negative"):
        marked_scene(-1)
