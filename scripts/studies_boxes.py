"""The studies of DETR: embedded model and scenes, bound to tests; a row is a box that it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from heedful.emoji import samples_detection as found
from heedful.emoji.judge import to_tensor
from heedful.emoji.models import load_detr
from heedful.emoji.vocabulary import SUBJECTS
from heedful.emoji.world import SIZES
from heedful.explain.evaluation import (
    Batch,
    Method,
    PointingTest,
    SegmentationTest,
    SpecificityTest,
    Study,
)
from heedful.explain.evaluation.detection import QUERY, FoundMasksTest, Things, boxes_of, stacked_things
from heedful.scripts.studies_methods import COUNT, fitting, of_two

_MOST: Final = max(SIZES)
"""Subjects of a scene."""
_SLOW: Final = ("attribution", "occlusion")
"""What takes most of the time on DETR: a third of a second a box."""


def detr(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = found.SEED,
) -> Study:  # fmt: skip
    """DETR, every box that it found in so many scenes: an item is a box."""
    model = load_detr(device, dtype)
    boxes = found.found_boxes(model, count or COUNT, seed=seed)

    def source(items: Sequence[int]) -> Batch:
        return _boxes(model, [boxes[item] for item in items], tuple(items), None, seed)

    tests = (
        FoundMasksTest(),
        PointingTest(correct_only=True),
        SegmentationTest(correct_only=True),
    )
    about = {
        "data": f"the {len(boxes)} boxes found in {count or COUNT} fresh emoji scenes, seed {seed}",
        "found": f"surer than {found.SURE:g}, else the surest of a scene; right with IoU {found.RIGHT:g}",
    }
    return Study(
        "detr", "DETR", model, boxes_of(model), source, len(boxes), fitting(methods, of_two()), tests,
        about=about,
    )  # fmt: skip


def detr_pairs(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = found.SEED + 1,
) -> Study:  # fmt: skip
    """DETR on scenes of two subjects that it found both: one's box against the other's."""
    model, wanted = load_detr(device, dtype), count or COUNT
    pairs = _found_pairs(model, wanted, seed)

    def source(items: Sequence[int]) -> Batch:
        one = _boxes(model, [pairs[item][0] for item in items], tuple(items), 2, seed)
        other = _boxes(model, [pairs[item][1] for item in items], tuple(items), 2, seed)
        return Batch(
            items=one.items, inputs=one.inputs, target=one.target, labels=one.labels, truth=one.truth,
            masks=one.masks, other=other.target, other_masks=other.masks, beside=one.beside,
            pictures=one.pictures, titles=one.titles, extra=one.extra,
        )  # fmt: skip

    fast = tuple(one for one in of_two() if one.rule not in _SLOW)
    about = {"data": f"fresh emoji scenes of two subjects, both found rightly, seed {seed}"}
    about |= {} if methods else {"not asked, for their cost": ", ".join(_SLOW)}
    return Study(
        "detr-pairs", "DETR", model, boxes_of(model), source, len(pairs), fitting(methods, fast),
        (SpecificityTest(),), about=about,
    )  # fmt: skip


def _boxes(
    model: Any, boxes: Sequence[found.FoundBox], items: tuple[int, ...], subjects: int | None, seed: int
) -> Batch:
    """A row a box: its scene, asked for its query, and what the scene shows."""
    things = _things(boxes, subjects, seed)
    own = torch.tensor([box.subject for box in boxes])
    labels = torch.tensor([SUBJECTS.index(box.name) for box in boxes])
    right = torch.tensor([box.right for box in boxes])
    query = torch.tensor([box.query for box in boxes])
    images = found.images_of(boxes, subjects, seed)
    # A wrong box has no right answer: neither its label nor "no object", which is the last.
    truth = torch.nn.functional.one_hot(labels, len(SUBJECTS) + 1).float() * right[:, None]
    return Batch(
        items=items, inputs={"pixel_values": to_tensor(images).to(model.device, model.dtype)},
        target=query.tolist(), labels=labels, truth=truth, masks=things.masks[torch.arange(len(own)), own],
        beside={QUERY: query.to(model.device)}, extra={"things": things}, pictures=tuple(images),
        titles=tuple(f"{box.name}, {box.score:.2f}" for box in boxes),
    )  # fmt: skip


def _things(boxes: Sequence[found.FoundBox], subjects: int | None, seed: int) -> Things:
    drawn = [found.detection_scene(box.scene, subjects, seed).subjects for box in boxes]
    masks = [torch.stack([torch.from_numpy(one.mask) for one in own]) for own in drawn]
    names = [[SUBJECTS.index(one.name) for one in own] for own in drawn]
    return stacked_things(
        masks, names, [box.subject if box.right else -1 for box in boxes], [box.scene for box in boxes],
        [box.score for box in boxes], [SUBJECTS.index(box.name) for box in boxes], most=_MOST,
    )  # fmt: skip


def _found_pairs(model: Any, count: int, seed: int) -> list[tuple[found.FoundBox, found.FoundBox]]:
    """The two right boxes of each of the first `count` scenes that have two, of at most twice as many."""
    right: dict[int, list[found.FoundBox]] = {}
    for box in found.found_boxes(model, 2 * count, 2, seed):
        if box.right:
            right.setdefault(box.scene, []).append(box)
    pairs = [(own[0], own[1]) for own in right.values() if len(own) == 2]
    return pairs[:count]
