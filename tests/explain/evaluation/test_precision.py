"""Average precision of pixels and of detections against hand-made cases and slow twins."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from heedful.explain import InputError
from heedful.explain.evaluation import DetectionPrecision, Detections, average_precision
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_pixels_are_those_of_a_loop_over_thresholds(pairs: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([float(one) for one, _ in pairs]), np.array([one for _, one in pairs])
    found = average_precision(scores, truth)

    if not truth.any():
        assert math.isnan(found)
        return
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        recall = (truth & taken).sum() / truth.sum()
        total += (recall - before) * (truth & taken).sum() / taken.sum()
        before = recall
    assert found == pytest.approx(total)


def test_pixels_perfect_and_worst() -> None:
    truth = np.array([True, True, False, False])

    assert average_precision(np.array([4.0, 3, 2, 1]), truth) == 1
    assert average_precision(np.array([1.0, 2, 3, 4]), truth) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert average_precision(np.ones(4), truth) == 0.5


def image(*found: tuple[float, int, tuple[float, ...]], truth: tuple[int, ...]) -> Detections:
    scores, labels, overlaps = zip(*found, strict=True) if found else ((), (), ())
    return Detections(scores, labels, truth, overlaps)


def ap(*images: Detections) -> float:
    return DetectionPrecision((0.5,), draws=20).estimate(images)["AP"].value


def test_detections_by_hand() -> None:
    assert ap(image((0.9, 0, (0.8,)), truth=(0,))) == 1
    assert ap(image((0.9, 1, (0.8,)), truth=(0,))) == 0  # another label
    assert ap(image((0.9, 0, (0.4,)), truth=(0,))) == 0  # too little in common
    assert ap(image(truth=(0,))) == 0  # nothing found
    assert ap(image((0.9, 0, (0.1,)), (0.8, 0, (0.7,)), truth=(0,))) == 0.5  # a false one first
    assert ap(image((0.9, 0, (0.7,)), (0.8, 0, (0.7,)), truth=(0,))) == 1  # a second one after it
    half = ap(image((0.9, 0, (0.7, 0.0)), truth=(0, 0)))
    assert half == pytest.approx(51 / 101)  # recalls 0 to .5
    assert ap(image((0.9, 0, (0.7, 0.0)), truth=(0, 1))) == 0.5  # the mean over labels


def test_a_detection_takes_the_truth_that_is_still_free() -> None:
    assert ap(image((0.9, 0, (0.8, 0.6)), (0.8, 0, (0.9, 0.6)), truth=(0, 0))) == 1


def test_the_surest_counts_first_over_all_images() -> None:
    right, wrong = image((0.5, 0, (0.9,)), truth=(0,)), image((0.9, 0, ()), truth=())

    assert ap(right, wrong) == 0.5
    assert ap(image((0.95, 0, (0.9,)), truth=(0,)), wrong) == 1


def test_thresholds_are_averaged_and_half_is_told_apart() -> None:
    found = DetectionPrecision(draws=50).estimate([image((0.9, 0, (0.61,)), truth=(0,))] * 3)

    assert found["AP"].value == pytest.approx(9 / 16)  # .20, .25 ... .60 of 16 thresholds
    assert (found["AP50"].value, found["AP50"].low, found["AP50"].n) == (1, 1, 3)
    assert DetectionPrecision().told["IoU"] == "0.2 to 0.95, 16 thresholds"


def test_the_bootstrap_counts_an_image_as_often_as_it_is_drawn() -> None:
    images = [image((0.9, 0, (0.9,)), truth=(0,)), image((0.8, 0, (0.1,)), truth=(0,))]
    found = DetectionPrecision((0.5,), draws=200).estimate(images)["AP"]

    assert (found.low, found.high) == (0, 1)  # either image twice
    assert found.value == pytest.approx(ap(*images, *images))


def test_masks_overlap_and_methods_share_a_table() -> None:
    masks = torch.zeros(3, 2, 4, dtype=torch.bool)
    masks[0, 0], masks[1, 0, 2:], masks[2, 1] = True, True, True
    found = Detections.of_masks((0.9, 0.8), (0, 1), masks[:2], (0, 1), masks[[0, 2]])

    assert found.overlaps == [[1.0, 0.0], [0.5, 0.0]]
    nothing = image(truth=(0,))
    table = DetectionPrecision((0.5,), draws=20).table({"generic": [found], "none": [nothing]}, "DETR")
    assert table.get("generic", "AP50", "DETR").value == 0.5
    assert table.get("none", "AP").value == 0
    assert Detections(**json.loads(json.dumps(asdict(found)))).overlaps == found.overlaps


def test_detections_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="2 overlaps for each"):
        image((0.9, 0, (0.7,)), truth=(0, 1))
    with pytest.raises(InputError, match="no image has anything"):
        DetectionPrecision().estimate([image(truth=())])
