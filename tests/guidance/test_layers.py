"""Layers are found in running order with their true grids, and a choice that matches nothing is an error."""

from __future__ import annotations

import pytest
import torch
from heedful.guidance import LayerNotFoundError, UnsupportedError
from heedful.guidance.layers import choose, cross_attention_layers, shrink
from tiny import tiny_unet
from torch import nn

SIZES = [(32, 32), (32, 24), (20, 33), (9, 17)]


def seen_token_counts(unet, grid):
    counts = {}

    def watch(layer):
        def count(module, args):
            counts[layer.name] = args[0].shape[1]

        return layer.module.register_forward_pre_hook(count)

    hooks = [watch(layer) for layer in cross_attention_layers(unet)]
    with torch.no_grad():
        unet(torch.randn(1, 4, *grid), 10, torch.randn(1, 5, 16))
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize("grid", SIZES)
def test_grids_and_order_are_those_of_a_real_pass(grid):
    unet = tiny_unet()
    expected = {
        layer.name: layer.grid(grid)[0] * layer.grid(grid)[1] for layer in cross_attention_layers(unet)
    }
    seen = seen_token_counts(unet, grid)
    assert seen == expected
    assert list(seen) == list(expected)


def test_shrinking_rounds_up_at_each_level():
    assert shrink((33, 20), 1) == (17, 10)
    assert shrink((33, 20), 2) == (9, 5)
    assert shrink((7, 7), 0) == (7, 7)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ((64, 64), {(16, 16)}),  # Stable Diffusion 1 at 512 pixels
        ((96, 96), {(24, 24)}),  # at 768
        ((64, 96), {(16, 24)}),
        ((16, 16), {(8, 8)}),  # a quarter would be 4x4: too coarse to tell two subjects apart
        ((24, 40), {(12, 20)}),
    ],
)
def test_default_is_a_quarter_of_the_latents_but_not_below_eight(grid, expected):
    layers = cross_attention_layers(tiny_unet())
    assert {layer.grid(grid) for layer in choose(layers, grid)} == expected


def test_default_takes_the_next_grid_where_there_is_no_quarter():
    layers = [layer for layer in cross_attention_layers(tiny_unet()) if layer.level < 2]
    assert {layer.grid((128, 128)) for layer in choose(layers, (128, 128))} == {(64, 64)}


def test_choices_by_grid_name_and_test():
    layers = cross_attention_layers(tiny_unet())
    assert {layer.level for layer in choose(layers, (32, 32), (16, 16))} == {1}
    assert [layer.name for layer in choose(layers, (32, 32), ["mid_block"])] == [
        "mid_block.attentions.0.transformer_blocks.0.attn2"
    ]
    assert all("up_blocks.1" in layer.name for layer in choose(layers, (32, 32), "up_blocks.1"))
    assert {layer.level for layer in choose(layers, (32, 32), lambda layer: layer.level == 0)} == {0}


@pytest.mark.parametrize(
    "choice", [(5, 5), ["down_blocks.7"], ["mid_block", "nothing"], [], lambda layer: False, ["mid"]]
)
def test_a_choice_that_matches_nothing_lists_the_layers(choice):
    with pytest.raises(LayerNotFoundError, match=r"the layers are: down_blocks\.0.*\(32x32\)"):
        choose(cross_attention_layers(tiny_unet()), (32, 32), choice)


def test_a_model_without_cross_attention_is_refused():
    with pytest.raises(UnsupportedError, match="Linear has no cross-attention layer"):
        cross_attention_layers(nn.Linear(2, 2))
