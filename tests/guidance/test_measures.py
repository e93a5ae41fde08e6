"""Numbers of a map: their closed forms, their symmetries, and slow twins in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from heedful.guidance import GridMismatchError
from heedful.guidance.measures import WordMeasures, bright, measures_of, overlap_of, shares_within
from hypothesis import given
from hypothesis import strategies as st

SIDES = st.integers(1, 7)


@st.composite
def maps(draw, count=1):
    height, width, seed = draw(SIDES), draw(SIDES), draw(st.integers(0, 999))
    found = torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed))
    return found**4 / 2  # a few high places, as attention has them


def slow(attention):
    """The definitions, cell by cell."""
    cells = [(i, j) for i in range(attention.shape[0]) for j in range(attention.shape[1])]
    values = {cell: float(attention[cell]) for cell in cells}
    total = math.fsum(values.values())
    shares = {cell: value / total for cell, value in values.items()}
    place = {(i, j): ((i + 0.5) / attention.shape[0], (j + 0.5) / attention.shape[1]) for i, j in cells}
    row, column = (math.fsum(shares[cell] * place[cell][axis] for cell in cells) for axis in (0, 1))
    variance = math.fsum(
        shares[cell] * ((place[cell][0] - row) ** 2 + (place[cell][1] - column) ** 2) for cell in cells
    )
    entropy = -math.fsum(share * math.log2(share) for share in shares.values() if share > 0)
    return WordMeasures(
        max(values.values()), total / len(cells), entropy, (row, column), math.sqrt(max(variance, 0))
    )


def same(found, expected, tolerance=1e-6):
    return found.centre == pytest.approx(expected.centre, abs=tolerance) and all(
        getattr(found, name) == pytest.approx(getattr(expected, name), abs=tolerance)
        for name in ("peak", "mass", "entropy", "spread")
    )


@given(maps())
def test_they_equal_their_definitions(found):
    assert same(measures_of(found[0]), slow(found[0].double()))


def test_the_comparison_can_fail():
    attention = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    assert not same(measures_of(attention.T), slow(attention.double()))
    assert not same(measures_of(attention * 2), slow(attention.double()))


def test_all_in_one_cell():
    attention = torch.zeros(4, 8)
    attention[1, 6] = 0.5
    assert measures_of(attention) == WordMeasures(0.5, 0.5 / 32, 0.0, (1.5 / 4, 6.5 / 8), 0.0)


@pytest.mark.parametrize("level", [0.25, 0.0])
def test_an_even_map_and_one_of_zeros(level):
    found = measures_of(torch.full((64, 32), level))
    assert found.entropy == pytest.approx(11)
    assert found.centre == pytest.approx((0.5, 0.5))
    assert found.spread == pytest.approx(math.sqrt(1 / 6), abs=1e-3)
    assert (found.peak, found.mass) == (level, level)


def test_two_corners_are_as_far_apart_as_can_be():
    attention = torch.zeros(400, 400)
    attention[0, 0] = attention[-1, -1] = 1.0
    assert measures_of(attention).spread == pytest.approx(math.sqrt(0.5), abs=0.003)
    assert measures_of(attention).entropy == pytest.approx(1)


@given(maps())
def test_a_mirrored_map_has_a_mirrored_centre_and_else_the_same_numbers(found):
    one, other = measures_of(found[0]), measures_of(found[0].flip(1))
    mirrored = WordMeasures(one.peak, one.mass, one.entropy, (one.centre[0], 1 - one.centre[1]), one.spread)
    assert same(other, mirrored)


@given(maps(count=3))
def test_overlap_is_symmetric_and_one_with_itself(found):
    overlap = overlap_of(found)
    assert torch.equal(overlap, overlap.T)
    assert torch.equal(overlap.diagonal(), torch.ones(3))
    assert ((overlap >= 0) & (overlap <= 1)).all()
    areas = [{tuple(cell) for cell in area.nonzero().tolist()} for area in bright(found)]
    for i, own in enumerate(areas):
        for j, other in enumerate(areas):
            assert float(overlap[i, j]) == pytest.approx(len(own & other) / len(own | other))


@given(maps(count=2), st.floats(0.01, 1))
def test_a_weak_word_overlaps_like_a_strong_one(found, factor):
    weak = found.double() * torch.tensor([1.0, factor])[:, None, None].double()
    assert torch.allclose(overlap_of(weak), overlap_of(found.double()), atol=0.51 / found[0].numel())


def test_areas_are_where_a_map_reaches_half_its_peak():
    attention = torch.tensor([[[0.1, 0.2, 0.4], [0.19, 0.21, 0.0]]])
    assert bright(attention)[0].tolist() == [[False, True, True], [False, True, False]]


def test_shares_within_an_area_are_means_over_its_cells():
    attention = torch.tensor([[[0.2, 0.4], [0.6, 0.0]], [[0.8, 0.6], [0.4, 1.0]]])
    found = shares_within(attention, torch.tensor([[True, False], [True, False]]))
    assert found.tolist() == pytest.approx([0.4, 0.6])


def test_maps_without_a_cell_are_refused():
    with pytest.raises(GridMismatchError, match=r"\(height, width\); got \(0, 4\)"):
        measures_of(torch.zeros(0, 4))
    with pytest.raises(GridMismatchError, match=r"\(span, height, width\); got \(2, 0, 4\)"):
        overlap_of(torch.zeros(2, 0, 4))
