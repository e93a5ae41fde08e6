"""What the tests of `record` share: attention computed anew, in float64, from the layers' own inputs."""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch
from heedful.guidance.layers import cross_attention_layers


@contextmanager
def layer_inputs(unet):
    """Within the block, what each cross-attention layer is given: a list of (hidden states, text) a layer."""
    seen = {layer.name: [] for layer in cross_attention_layers(unet)}

    def watch(name):
        def keep(module, args, kwargs):
            text = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
            seen[name].append((args[0].detach().clone(), text.detach().clone()))

        return keep

    hooks = [
        layer.module.register_forward_pre_hook(watch(layer.name), with_kwargs=True)
        for layer in cross_attention_layers(unet)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def plain_attention(module, hidden, text, rows):
    """(image, heads, position, token) of the given rows, head by head."""
    weights = {name: getattr(module, name).weight.double() for name in ("to_q", "to_k")}
    queries = hidden[rows].double() @ weights["to_q"].T
    keys = text[rows].double() @ weights["to_k"].T
    width = queries.shape[-1] // module.heads
    heads = []
    for head in range(module.heads):
        own = slice(head * width, (head + 1) * width)
        scores = queries[..., own] @ keys[..., own].transpose(1, 2) / math.sqrt(width)
        exponents = (scores - scores.amax(-1, keepdim=True)).exp()
        heads.append(exponents / exponents.sum(-1, keepdim=True))
    return torch.stack(heads, 1)


def plain_pool(maps, grid):
    """(..., height, width) to a grid, cell by cell: the mean of all old cells that a new one touches."""
    height, width = maps.shape[-2:]
    pooled = torch.empty(*maps.shape[:-2], *grid, dtype=maps.dtype)
    for row in range(grid[0]):
        rows = slice(row * height // grid[0], -(-(row + 1) * height // grid[0]))
        for column in range(grid[1]):
            columns = slice(column * width // grid[1], -(-(column + 1) * width // grid[1]))
            pooled[..., row, column] = maps[..., rows, columns].mean((-1, -2))
    return pooled


def plain_record(unet, seen, latents_grid, rows, grid):
    """By step and layer (image, heads, token, height, width), and the mean of all on the common grid."""
    layers = {layer.name: layer for layer in cross_attention_layers(unet)}
    steps = len(next(iter(seen.values())))
    own, total, heads = [], 0, 0
    for step in range(steps):
        found = {}
        for name, layer in layers.items():
            maps = plain_attention(layer.module, *seen[name][step], rows).transpose(2, 3)
            found[name] = maps.unflatten(3, layer.grid(latents_grid))
            total = total + plain_pool(found[name].sum(1), grid)
            heads += found[name].shape[1]
        own.append(found)
    return own, total / heads
