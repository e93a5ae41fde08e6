"""Sums equal the mean of all that came, however it came, and hold no more than what was asked for."""

from __future__ import annotations

import pytest
import torch
from heedful.guidance import AttentionMaps
from heedful.guidance.sums import AttentionSums, merging
from hypothesis import given
from hypothesis import strategies as st

IMAGES, TOKENS, GRID = 2, 6, (4, 3)
LAYERS = {"fine": ((8, 6), 2), "middle": ((4, 3), 4), "coarse": ((2, 2), 2)}
SPANS = [[(1,), (2, 3)], [(4,)]]


def passes(steps, seed=0):
    """So many passes of a denoiser, each a layer's probabilities by its name."""
    torch.manual_seed(seed)
    return [
        {name: torch.rand(IMAGES, heads, *grid, TOKENS).softmax(-1) for name, (grid, heads) in LAYERS.items()}
        for _ in range(steps)
    ]


def summed(found, resolve=(), portion=99):
    sums = AttentionSums(GRID, merging(SPANS, TOKENS), resolve)
    for one in found:
        sums.begin_step()
        for name, layer in one.items():
            parts = layer.flatten(2, 3).split(portion, dim=1)
            sums.add(name, LAYERS[name][0], iter(parts))
        sums.end_step()
    return sums


def words(maps):
    """(..., height, width, token) as (..., height, width, span), images along the first axis."""
    merge = merging(SPANS, TOKENS)
    return torch.stack([maps[image] @ merge[image] for image in range(IMAGES)])


@given(st.integers(1, 4), st.integers(0, 9), st.integers(1, 4))
def test_the_mean_is_that_of_all_heads_layers_and_steps(steps, seed, portion):
    found = passes(steps, seed)
    expected = torch.stack([AttentionMaps(one).mean(GRID) for one in found]).mean(0)
    torch.testing.assert_close(summed(found, portion=portion).mean(), expected)


def test_the_comparison_can_fail():
    found = passes(2)
    expected = torch.stack([AttentionMaps(one).mean(GRID) for one in found[:1]]).mean(0)
    assert not torch.allclose(summed(found).mean(), expected, atol=1e-3)


@pytest.mark.parametrize("portion", [1, 99])
def test_resolved_by_step_layer_and_head(portion):
    found = passes(3)
    steps = summed(found, ["step"], portion).step_means()
    expected = torch.stack([words(AttentionMaps(one).mean(GRID)) for one in found])
    torch.testing.assert_close(steps, expected)
    by_layer = summed(found, ["layer"], portion).layer_means()
    by_head = summed(found, ["step", "head"], portion).layer_means()
    for name in LAYERS:
        heads = torch.stack([words(one[name]) for one in found])
        torch.testing.assert_close(by_head[name], heads)
        torch.testing.assert_close(by_layer[name], heads.mean((0, 2))[None, :, None])


def test_what_it_holds_does_not_grow_with_the_steps():
    for resolve in ([], ["layer"], ["head"]):
        held = [summed(passes(steps), resolve).bytes_held for steps in (1, 50)]
        assert held[0] == held[1]
    plain, resolved = (summed(passes(50), resolve).bytes_held for resolve in ([], ["step"]))
    assert resolved - plain == 50 * IMAGES * 4 * 3 * 2 * 4  # a float32 a step, image, cell and span
    assert plain == 4 * (IMAGES * 4 * 3 * TOKENS + IMAGES * TOKENS * 2)


def test_a_step_that_was_broken_off_leaves_no_map_of_its_own():
    sums = AttentionSums(GRID, merging(SPANS, TOKENS), ["step"])
    sums.begin_step()
    sums.add("middle", (4, 3), iter([passes(1)[0]["middle"].flatten(2, 3)]))
    sums.begin_step()
    assert sums.seen == set()
    assert sums.step_sums == []


def test_images_without_spans_are_merged_to_nothing():
    assert merging([[], [(1, 2)]], 4).tolist() == [[[0], [0], [0], [0]], [[0], [1], [1], [0]]]
    assert merging([[], []], 4).shape == (2, 4, 0)
