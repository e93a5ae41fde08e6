"""Masks of found boxes: planted, random and inverted maps; the box that is meant is the box that is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from explain_tiny import tiny
from heedful.explain import InputError, explain
from heedful.explain.evaluation import Asked, Batch, Method, Patches, Perturbation
from heedful.explain.evaluation.asking import probabilities
from heedful.explain.evaluation.detection import (
    NOTHING,
    FoundMasks,
    FoundMasksTest,
    Things,
    boxes_of,
    detections,
    stacked_things,
)
from torch import Tensor

GRID, SIDE, IMAGES = 8, 64, 40


def squares() -> Things:
    """Images of two things of 3 x 3 cells each, both found rightly."""
    rng = np.random.default_rng(0)
    masks, labels = [], []
    for _ in range(IMAGES):
        own = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
        for thing, left in enumerate((0, 4)):
            top = int(rng.integers(0, 6)) * 8
            own[thing, top : top + 24, left * 8 : left * 8 + 24] = True
        masks += [own, own]
        pair = rng.choice(5, 2, replace=False).tolist()
        labels += [pair, pair]
    rows = list(range(2 * IMAGES))
    return stacked_things(
        masks, labels, [row % 2 for row in rows], [row // 2 for row in rows], [0.9] * len(rows),
        [labels[row][row % 2] for row in rows], most=2,
    )  # fmt: skip


def cells(things: Things) -> Tensor:
    """The things of all rows as maps."""
    own = things.masks[torch.arange(len(things.own)), things.own.clamp_min(0)]
    return torch.nn.functional.avg_pool2d(own[:, None].float(), SIDE // GRID)[:, 0]


def figures(maps: Tensor, things: Things) -> dict[str, float]:
    found = FoundMasks().measure(maps, things)
    columns = {name: np.asarray(one, dtype=float) for name, one in found.items()}
    return {name: one.value for name, one in FoundMasks().summary(columns).items()}


def test_planted_masks_are_found_random_and_inverted_ones_are_not() -> None:
    things = squares()
    planted = figures(cells(things), things)
    random = figures(torch.rand(len(things.own), GRID, GRID), things)
    inverted = figures(1 - cells(things), things)

    assert planted == pytest.approx({"mask IoU": 1, "box IoU": 1, "AP": 1, "AP50": 1})
    assert 0.05 < random["mask IoU"] < 0.2
    assert random["AP50"] == 0
    assert inverted["mask IoU"] == 0 == inverted["AP"]


def test_the_other_thing_is_not_the_own() -> None:
    things = squares()
    swapped = cells(replace(things, own=1 - things.own))

    assert figures(swapped, things)["mask IoU"] < 0.01


def test_a_wrong_box_counts_against_precision_and_not_for_overlaps() -> None:
    things = squares()
    own, label = things.own.clone(), things.label.clone()
    own[::2] = NOTHING
    label[::2] = 7
    found = figures(cells(things), replace(things, own=own, label=label))

    assert found["mask IoU"] == 1
    assert 0.4 < found["AP50"] < 0.75


def test_boxes_of_one_image_are_one_detection() -> None:
    things = squares()
    measured = FoundMasks().measure(cells(things), things)
    found = detections({name: np.asarray(one, dtype=float) for name, one in measured.items()})

    assert len(found) == IMAGES
    assert all(len(one.scores) == len(one.truth) == 2 for one in found)


def test_images_with_fewer_things_are_filled_up() -> None:
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    found = stacked_things(
        [mask, mask.repeat(3, 1, 1)], [[4], [1, 2, 3]], [0, 2], [0, 1], [0.8, 0.7], [4, 3], most=3
    )

    assert found.masks.sum((2, 3)).tolist() == [[16, 0, 0], [16, 16, 16]]
    assert found.labels.tolist() == [[4, NOTHING, NOTHING], [1, 2, 3]]
    with pytest.raises(InputError, match="an image shows 1 things, but most=0"):
        stacked_things([mask], [[4]], [0], [0], [0.8], [4], most=0)
    with pytest.raises(InputError, match="shows a thing that is not there"):
        replace(found, own=torch.tensor([1, 0]))
    with pytest.raises(InputError, match="wanted 2 rows of everything"):
        replace(found, score=torch.tensor([1.0]))


def found_batch(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Asked:
    """Two boxes of a tiny DETR, each of an image of its own."""
    model, inputs = tiny("detr")
    model = model.to(device, dtype)
    own = {name: one.to(device, dtype if one.is_floating_point() else None) for name, one in inputs.items()}
    query = torch.tensor([3, 5])
    labels = probabilities(boxes_of(model), {**own, "query": query}).argmax(1)
    masks = torch.zeros(2, 1, 32, 48, dtype=torch.bool)
    masks[:, :, 8:16, 8:24] = True
    things = stacked_things(list(masks), [[1], [2]], [0, 0], [0, 1], [0.9, 0.9], [1, 2], most=3)
    batch = Batch(
        (0, 1), own, query.tolist(), labels, labels, masks=masks[:, 0], beside={"query": query},
        extra={"things": things},
    )  # fmt: skip
    methods = (Method("generic", "generic"), Method("rollout", "rollout"), Method("legrad", "legrad"))
    return Asked(model, boxes_of(model), batch, methods)


def test_the_ask_is_about_the_box_that_is_meant() -> None:
    case = found_batch()
    inputs = case.batch.asked
    with torch.no_grad():
        whole = case.model(**case.batch.inputs).logits.softmax(-1).double()
        found = probabilities(case.ask, inputs)

    torch.testing.assert_close(found, whole[[0, 1], [3, 5]], atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match='a tensor "query", beside the inputs'):
        case.ask(case.batch.inputs)
    explained = explain(case.model, case.batch.inputs, case.batch.target)
    assert [name.split(":")[0] for name in explained.targets] == ["box 3", "box 5"]


def test_boxes_go_through_other_protocols_too() -> None:
    case = found_batch()
    change = Perturbation((Patches((4, 6)),), steps=(0.0, 0.5, 1.0))
    maps = case.maps("image")["generic"]
    curves = change.measure(case.ask, case.batch.asked, case.batch.labels, [maps])

    assert curves["positive"][:, 0].tolist() == [1, 1]
    assert curves["positive"].shape == (2, 3)


def test_a_study_measures_masks_of_every_method_and_control() -> None:
    case = found_batch()
    found = FoundMasksTest().measure(case)

    assert {"generic", "rollout", "random", "edges"} <= set(found)
    assert "legrad" in case.left_out
    maps = case.found["rollout"].image
    assert maps is not None
    expected = FoundMasks().measure(maps, case.batch.extra["things"])["mask IoU"]
    torch.testing.assert_close(found["rollout"]["mask IoU"], expected)
    case.batch = replace(case.batch, extra={})
    with pytest.raises(InputError, match=r'set Batch\.extra\["things"\]'):
        FoundMasksTest().measure(case)


@pytest.mark.gpu
def test_masks_on_a_gpu_in_half_precision() -> None:
    found = FoundMasksTest().measure(found_batch("cuda", torch.float16))

    assert all(0 <= one <= 1 for one in found["generic"]["mask IoU"].tolist())
