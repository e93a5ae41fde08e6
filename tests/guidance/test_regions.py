"""Boxes and masks on any grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracles_losses as slow
import pytest
import torch
from heedful.guidance import Box, GuidanceError
from heedful.guidance.regions import cells, coverage, region
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=15)
@given(st.tuples(st.integers(0, 39), st.integers(1, 40)), st.sampled_from([(4, 5), (8, 4), (1, 1)]))
def test_coverage_is_the_area_of_a_cell_in_the_box(span, grid):
    left, right = min(span) / 40, max(*span, min(span) + 1) / 40
    box = Box(left, 1 - right, right, 1 - left)
    found = coverage(box, grid)
    expected = [
        [slow.covered(dataclasses.astuple(box), row, column, grid) for column in range(grid[1])]
        for row in range(grid[0])
    ]
    np.testing.assert_allclose(found.numpy(), expected, atol=0.06)
    assert found.mean().item() == pytest.approx((right - left) ** 2)


def test_a_small_box_has_the_cell_it_lies_in():
    box = Box(0.3, 0.3, 0.32, 0.31)
    assert cells(box, (4, 4)).nonzero().tolist() == [[1, 1]]


def test_masks_are_pooled_to_the_grid():
    mask = torch.zeros(8, 10)
    mask[:3, :5] = 1
    found = coverage(region(mask), (4, 5))
    assert found[0].tolist() == [1, 1, 0.5, 0, 0]
    assert found[1].tolist() == [0.5, 0.5, 0.25, 0, 0]
    assert cells(region(mask > 0), (4, 5)).sum() == 5


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1.1, 1), (0, float("nan"), 1, 1)])
def test_boxes_that_are_none_are_refused(box):
    with pytest.raises(GuidanceError, match="shares of the image"):
        region(box)


@pytest.mark.parametrize(
    "wrong", [(0, 0, 1), "cat", torch.zeros(4, 4), torch.ones(2, 2, 2), torch.full((2, 2), 2.0)]
)
def test_regions_that_are_none_are_refused(wrong):
    with pytest.raises(GuidanceError, match="mask"):
        region(wrong)
