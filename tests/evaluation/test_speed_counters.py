"""Counted operations and bytes are those that are there, whoever holds them and for however long."""

from __future__ import annotations

import pytest
import torch
from heedful.evaluation.speed_counters import Counted, LiveBytes, Seconds, divided
from heedful.evaluation.speed_weightless import heeding, neglecting
from heedful.guidance.processors import probabilities
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_unet


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=12))
def test_the_peak_is_that_of_what_was_held_at_once(plan):
    """Against a list of sizes: each number is made, and some are let go at once."""
    held, sizes, peak = [], [], 0
    with LiveBytes() as live:
        for numbers, keep in plan:
            held.append(torch.empty(numbers, device="meta"))
            sizes.append(4 * numbers)
            peak = max(peak, sum(sizes))
            if not keep:
                del held[-1], sizes[-1]
        assert (live.now, live.peak) == (sum(sizes), peak)


def test_views_weights_and_what_a_graph_holds():
    layer = torch.nn.Linear(10, 10, device="meta")
    with LiveBytes(layer) as live:
        given = torch.empty(5, 10, device="meta", requires_grad=True)
        assert live.now == 200
        assert given.view(10, 5).t().storage_offset() == 0
        assert live.now == 200
        out = torch.relu(layer(given))  # relu keeps its output, the layer's own is let go
        assert live.now == 400
        loss = out.exp().sum()
        assert live.now == 600 + 4  # the graph keeps what exp made, though nobody else does
        del loss
        assert live.now == 400


def test_repeated_scores_of_fused_attention_are_told_apart():
    query = torch.empty(1, 2, 16, 8, device="meta", requires_grad=True)
    with Counted() as counted:
        attend = torch.ops.aten._scaled_dot_product_flash_attention
        attend(query, query, query, 0.0, False, False)[0].sum().backward()
    product = 2 * 2 * 16 * 16 * 8
    assert counted.total == 2 * product + 4 * product
    assert counted.again == product


def test_parts_add_up_to_the_whole():
    denoiser, counted = tiny_unet().eval(), Counted()
    with torch.no_grad(), counted, divided(denoiser, counted) as parts:
        denoiser(torch.zeros(1, 4, 16, 16), torch.ones(1), torch.zeros(1, 7, 16))
        torch.ones(3, 4) @ torch.ones(4, 5)
    assert sum(parts.values()) == counted.total
    assert parts["rest"] == 2 * 3 * 4 * 5
    assert parts["own pass"] == counted.total - parts["rest"]


def test_parts_are_given_back_after_an_error():
    denoiser, seconds = tiny_unet(), Seconds("cpu")
    with pytest.raises(KeyboardInterrupt), divided(denoiser, seconds):
        raise KeyboardInterrupt
    assert not denoiser._forward_hooks
    assert not denoiser._forward_pre_hooks


@pytest.mark.parametrize("gaze", [neglecting, heeding([2, 5])], ids=["neglecting", "heeding"])
def test_made_up_attention_is_attention(gaze):
    found = gaze((2, 3, 15, 77))
    assert found.shape == (2, 3, 15, 77)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 15))


def test_heeded_words_have_a_place_and_neglected_ones_none():
    heeded, neglected = heeding([2, 5])((1, 16, 77)), neglecting((1, 16, 77))
    assert heeded[..., [2, 5]].amax(1).tolist() == [[1.0, 1.0]]
    assert heeded[0, :, 2].sum() == heeded[0, :, 5].sum() == 8
    assert neglected.max() < 0.1
    assert probabilities(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 3, 2)).max() < 0.4  # the real one stays
