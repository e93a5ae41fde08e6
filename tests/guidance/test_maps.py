"""Attention maps: the mean over heads, pooling by area, and what is refused."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch
from heedful.guidance.errors import GridMismatchError, GuidanceError, LayerNotFoundError
from heedful.guidance.maps import AttentionMaps, pool
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def recorded(*shape: int, seed: int = 0) -> Tensor:
    """Random attention in float64: positive, summing to 1 over the last axis."""
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * logits).softmax(-1)


def test_the_mean_weighs_every_head_of_every_layer_alike():
    maps = AttentionMaps({"a": recorded(2, 3, 4, 6, 5), "b": recorded(2, 1, 4, 6, 5, seed=1)})
    expected = torch.cat(list(maps.layers.values()), dim=1).mean(1)

    torch.testing.assert_close(maps.mean(), expected)

    by_layer = (maps.layers["a"].mean(1) + maps.layers["b"].mean(1)) / 2
    assert not torch.allclose(maps.mean(), by_layer), "this comparison could not fail"


@given(st.sampled_from([(4, 6), (2, 3), (3, 5), (8, 12), (1, 1)]), st.integers(0, 1000))
def test_pooling_to_a_grid_equals_the_mean_of_the_cells_it_touches(grid: tuple[int, int], seed: int):
    maps = AttentionMaps({"a": recorded(1, 2, 8, 12, 3, seed=seed), "b": recorded(1, 1, 4, 6, 3, seed=seed)})
    layers = {name: layer.numpy() for name, layer in maps.layers.items()}

    expected = oracles.mean_map(layers, 0, grid)

    np.testing.assert_allclose(maps.mean(grid)[0].numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(maps.mean(grid).sum(-1).numpy(), 1, rtol=1e-10)


def test_the_pooling_comparison_can_fail():
    image = recorded(1, 8, 12, 2)
    expected = oracles.area_mean(image[0, :, :, 0].numpy(), (4, 6))
    subsampled = image[0, ::2, ::2, 0].numpy()

    assert not np.allclose(subsampled, expected)


@pytest.mark.parametrize(("grid", "place"), [((4, 6), (3, 5)), ((4, 6), (0, 4)), ((6, 4), (5, 1))])
def test_a_peak_on_a_non_square_grid_stays_where_it_was_put(grid: tuple[int, int], place: tuple[int, int]):
    layer = torch.zeros(1, 2, grid[0] * 2, grid[1] * 2, 3)
    layer[:, :, 2 * place[0], 2 * place[1] + 1, 2] = 1.0

    found = AttentionMaps({"a": layer}).mean(grid)[0, :, :, 2]

    assert torch.nonzero(found).tolist() == [list(place)]


def test_gradients_reach_every_layer_through_the_pooling():
    layers = {
        "a": recorded(1, 2, 8, 4, 3).requires_grad_(),
        "b": recorded(1, 1, 4, 2, 3).requires_grad_(),
    }

    AttentionMaps(layers).mean((4, 2)).square().sum().backward()

    assert all(layer.grad is not None and layer.grad.abs().min() > 0 for layer in layers.values())


def test_half_precision_is_averaged_in_float32():
    layer = torch.full((1, 1, 2, 2, 3), 0.1, dtype=torch.float16)

    assert AttentionMaps({"a": layer}).mean().dtype == torch.float32


def test_grids_select_and_sizes_tell_what_was_recorded():
    maps = AttentionMaps({"a": recorded(2, 3, 4, 6, 5), "b": recorded(2, 1, 8, 12, 5)})

    assert maps.grids == {"a": (4, 6), "b": (8, 12)}
    assert (maps.batch, maps.tokens) == (2, 5)
    assert list(maps.select(["b"]).layers) == ["b"]
    assert maps.select("a").grids == {"a": (4, 6)}


def test_layers_of_different_grids_are_refused_by_name():
    maps = AttentionMaps({"mid": recorded(1, 1, 4, 6, 5), "up.1": recorded(1, 1, 8, 12, 5)})

    with pytest.raises(GridMismatchError, match=r"grids differ: mid: 4x6, up\.1: 8x12; select layers"):
        maps.mean()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mid", "low"], "asked for: 'low'; layers recorded: mid"),
        ([], "asked for: none; layers recorded: mid"),
    ],
)
def test_selecting_an_unknown_layer_lists_the_recorded_ones(names: list[str], message: str):
    with pytest.raises(LayerNotFoundError, match=message):
        AttentionMaps({"mid": recorded(1, 1, 4, 6, 5)}).select(names)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ({}, GuidanceError, "no layer has recorded anything"),
        (
            {"a": torch.rand(1, 4, 6, 5)},
            GridMismatchError,
            r"'a' has shape \(1, 4, 6, 5\); wanted \(batch, heads",
        ),
        ({"a": torch.rand(1, 0, 4, 6, 5)}, GridMismatchError, "'a' has shape"),
        (
            {"a": recorded(1, 1, 2, 2, 5), "b": recorded(2, 1, 2, 2, 5)},
            GuidanceError,
            "batch sizes differ: a: 1, b: 2",
        ),
        (
            {"a": recorded(1, 1, 2, 2, 5), "b": recorded(1, 1, 2, 2, 6)},
            GuidanceError,
            "token counts differ: a: 5, b: 6",
        ),
    ],
)
def test_what_no_pass_can_have_recorded_is_refused(layers: dict[str, Tensor], error: type, message: str):
    with pytest.raises(error, match=message):
        AttentionMaps(layers)


@pytest.mark.parametrize("grid", [(0, 4), (4, -1)])
def test_an_impossible_grid_is_refused(grid: tuple[int, int]):
    with pytest.raises(GridMismatchError, match="both at least 1"):
        pool(recorded(1, 4, 4, 2), grid)
