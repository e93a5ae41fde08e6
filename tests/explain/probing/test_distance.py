"""Attention distance against a slow twin in float64, and what holds of any attention."""

from __future__ import annotations

import math

import pytest
import torch
from heedful.explain.errors import InputError
from heedful.explain.probing.distance import (
    among_patches,
    attention_distance,
    entropy,
    pixel_distances,
    share_on_patches,
    uniform_distance,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

GRID, PATCH = (3, 5), (8, 4)
grids = st.tuples(st.integers(1, 5), st.integers(1, 6)).filter(lambda grid: grid[0] * grid[1] > 1)
patches = st.tuples(st.integers(1, 32), st.integers(1, 32))


def slow_distance(attention: Tensor, specials: int, grid: tuple[int, int], patch: tuple[int, int]) -> float:
    """One head (token, token), number by number: special tokens out, rows divided by what is left."""
    places = [(row * patch[0], column * patch[1]) for row in range(grid[0]) for column in range(grid[1])]
    total = 0.0
    for i, (y, x) in enumerate(places):
        row = [float(value) for value in attention.double()[specials + i, specials:]]
        total += sum(
            share * math.sqrt((y - v) ** 2 + (x - u) ** 2) for share, (v, u) in zip(row, places, strict=True)
        ) / sum(row)
    return total / len(places)


def some_attention(tokens: int, seed: int = 0, heads: tuple[int, ...] = (2, 3), sharp: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(sharp * torch.randn(*heads, tokens, tokens, generator=generator), -1)


@given(grid=grids, patch=patches, specials=st.integers(0, 3), seed=st.integers(0, 10**6))
def test_distance_equals_the_slow_twin(
    grid: tuple[int, int], patch: tuple[int, int], specials: int, seed: int
) -> None:
    tokens = specials + grid[0] * grid[1]
    attention = some_attention(tokens, seed, (2,))
    found = attention_distance(among_patches(attention, slice(specials, tokens)), grid, patch)

    assert found.tolist() == pytest.approx(
        [slow_distance(head, specials, grid, patch) for head in attention], rel=1e-4
    )


def test_the_twin_tells_a_turned_grid_and_rows_that_keep_the_special_tokens_apart() -> None:
    attention = some_attention(17, heads=())
    wanted = slow_distance(attention, 2, GRID, PATCH)
    kept = attention[2:, 2:]

    turned = attention_distance(kept / kept.sum(-1, keepdim=True), (GRID[1], GRID[0]), PATCH)
    undivided = (kept * pixel_distances(GRID, PATCH)).sum(-1).mean()

    assert abs(float(turned) - wanted) > 0.1
    assert abs(float(undivided) - wanted) > 0.1


@given(grid=grids, patch=patches)
def test_attention_that_is_even_has_the_mean_distance_of_all_pairs(
    grid: tuple[int, int], patch: tuple[int, int]
) -> None:
    count = grid[0] * grid[1]
    even = torch.full((1, count, count), 1 / count, dtype=torch.float64)
    places = [(row * patch[0], column * patch[1]) for row in range(grid[0]) for column in range(grid[1])]
    mean = sum(math.dist(one, other) for one in places for other in places) / count**2

    assert float(attention_distance(even, grid, patch)) == pytest.approx(mean)
    assert uniform_distance(grid, patch) == pytest.approx(mean)


@given(grid=grids, seed=st.integers(0, 10**6), factor=st.integers(2, 9))
def test_distance_lies_within_the_image_and_grows_with_the_pixels(
    grid: tuple[int, int], seed: int, factor: int
) -> None:
    attention = some_attention(grid[0] * grid[1], seed)
    found = attention_distance(attention, grid, (4, 7))
    far = math.hypot(4 * (grid[0] - 1), 7 * (grid[1] - 1))

    assert (found >= 0).all()
    assert (found <= far * (1 + 1e-5)).all()
    torch.testing.assert_close(
        attention_distance(attention, grid, (4 * factor, 7 * factor)), factor * found, rtol=1e-4, atol=1e-4
    )


def test_who_looks_at_itself_looks_nowhere_else() -> None:
    found = attention_distance(torch.eye(15)[None], GRID, PATCH)

    assert found.tolist() == [0.0]
    assert entropy(torch.eye(15)[None]).tolist() == [0.0]


def test_a_head_of_one_shift_has_the_length_of_that_shift() -> None:
    left = torch.zeros(15, 15)
    for row in range(3):
        for column in range(5):
            left[row * 5 + column, row * 5 + max(0, column - 1)] = 1

    assert float(attention_distance(left, GRID, PATCH)) == pytest.approx(4 * 12 / 15)


@given(seed=st.integers(0, 10**6), specials=st.integers(1, 4))
def test_special_tokens_take_no_part(seed: int, specials: int) -> None:
    tokens = specials + 15
    attention = some_attention(tokens, seed)
    among = among_patches(attention, slice(specials, tokens))
    louder = attention.clone()
    louder[..., :specials] *= 7
    louder = louder / louder.sum(-1, keepdim=True)

    torch.testing.assert_close(among.sum(-1), torch.ones(2, 3, 15))
    torch.testing.assert_close(among, among_patches(louder, slice(specials, tokens)))
    share = share_on_patches(attention, slice(specials, tokens))
    assert (share_on_patches(louder, slice(specials, tokens)) < share).all()
    assert ((share > 0) & (share < 1)).all()


@given(seed=st.integers(0, 10**6), sharp=st.floats(0, 5))
def test_entropy_equals_the_slow_twin_and_stays_within_its_range(seed: int, sharp: float) -> None:
    attention = some_attention(6, seed, (2,), sharp)
    slow = [-sum(float(p) * math.log2(float(p)) for p in row) for head in attention.double() for row in head]
    found = entropy(attention)

    assert found.tolist() == pytest.approx([sum(slow[:6]) / 6, sum(slow[6:]) / 6], abs=1e-4)
    assert (found <= math.log2(6) + 1e-5).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: among_patches(torch.ones(2, 4, 5), slice(1, 4)), r"\(2, 4, 5\)"),
        (lambda: among_patches(torch.ones(2, 4, 4), slice(1, 6)), "tokens 1 to 5"),
        (lambda: among_patches(torch.eye(4)[[0, 0, 0, 0]], slice(1, 4)), "3 of 3 rows"),
        (lambda: attention_distance(torch.eye(16), GRID, PATCH), "3 x 5 has 15 patches"),
        (lambda: attention_distance(2 * torch.eye(15), GRID, PATCH), "2.0000 to 2.0000"),
        (lambda: entropy(torch.zeros(3, 3)), "0.0000"),
        (lambda: pixel_distances((0, 3), PATCH), "both positive"),
        (lambda: uniform_distance(GRID, (0, 8)), "both positive"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()  # type: ignore[operator]
