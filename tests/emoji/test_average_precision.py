"""Average precision on cases small enough to reckon by hand."""

from __future__ import annotations

import numpy as np
import pytest
from heedful.emoji.average_precision import Boxes, average_precision, overlap

CORNERS = np.array([[0.0, 0, 10, 10], [20, 20, 40, 30], [5, 0, 15, 10]])


def test_overlap_by_counting_pixels() -> None:
    masks = np.zeros((3, 50, 50), dtype=bool)
    for mask, (left, top, right, bottom) in zip(masks, CORNERS.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    counted = [[(a & b).sum() / (a | b).sum() for b in masks] for a in masks]
    assert np.allclose(overlap(CORNERS, CORNERS), counted)


def claims(*rows: tuple[str, int, float]) -> Boxes:
    names, boxes, scores = zip(*rows, strict=True)
    return Boxes(names, CORNERS[list(boxes)], np.array(scores))


def test_perfect_claims_are_worth_one_and_none_nothing() -> None:
    truth = [Boxes(("cat", "bow"), CORNERS[:2])]
    assert average_precision([claims(("cat", 0, 0.9), ("bow", 1, 0.2))], truth) == {"bow": 1.0, "cat": 1.0}
    assert average_precision([claims(("cat", 1, 0.9))], truth) == {"bow": 0.0, "cat": 0.0}


def test_a_box_is_found_once_and_surer_mistakes_cost() -> None:
    truth = [Boxes(("cat",), CORNERS[:1]), Boxes(("cat",), CORNERS[1:2])]
    doubled = [claims(("cat", 0, 0.9), ("cat", 0, 0.8)), claims(("cat", 1, 0.7))]
    # right, wrong (taken), right: precision 1 up to recall 1/2, then 2/3
    assert average_precision(doubled, truth)["cat"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    wrong_first = [claims(("cat", 2, 0.99), ("cat", 0, 0.9)), claims(("cat", 1, 0.7))]
    assert average_precision(wrong_first, truth)["cat"] == pytest.approx(2 / 3)  # a third overlaps too little
    assert average_precision(wrong_first, truth, threshold=0.3)["cat"] < 1


def test_claims_need_scores() -> None:
    truth = [Boxes(("cat",), CORNERS[:1])]
    with pytest.raises(ValueError, match="claims of image 0 have no scores"):
        average_precision(truth, truth)
