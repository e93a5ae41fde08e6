"""Finds a denoiser's cross-attention layers and their grids, and chooses the ones that guidance reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from .errors import LayerNotFoundError, UnsupportedError

Grid = tuple[int, int]
LayerChoice = Sequence[str] | Callable[["Layer"], bool] | Grid | None

_SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Layer:
    """One attention site of a denoiser, over the text or, where a loss needs it, over the image itself.

    Attributes:
        name: the diffusers name of the attention module, such as
            `down_blocks.2.attentions.0.transformer_blocks.0.attn2`.
        level: how often the latents' sides were halved (rounding up) before this layer.
        module: the attention module itself.
        over_image: it is self-attention: its keys are the image's own positions.
        text: where the text stands in the sequence of a joint attention, of which a layer is a part: the
            image's queries with the text's keys, or with the image's. None: image and text are apart.
    """

    name: str
    level: int
    module: nn.Module
    over_image: bool = False
    text: Literal["first", "last"] | None = None

    def grid(self, latents_grid: Grid) -> Grid:
        """(height, width) of this layer's image tokens for latents of (height, width) `latents_grid`."""
        return shrink(latents_grid, self.level)


def shrink(grid: Grid, level: int) -> Grid:
    """Sides after `level` convolutions of stride 2: ceil(n / 2^level), as diffusers' are."""
    return -(-grid[0] // 2**level), -(-grid[1] // 2**level)


def cross_attention_layers(unet: nn.Module) -> tuple[Layer, ...]:
    """All cross-attention layers of a UNet of diffusers, in the order in which they run.

    Levels are read off the blocks themselves (which ones halve, which ones double), not off a configuration.

    Raises:
        UnsupportedError: the module has no blocks named as diffusers' UNets name them, or no cross-attention.
    """
    levels = _block_levels(unet)
    order = {block: place for place, block in enumerate(levels)}
    found = [
        Layer(name, levels[block], module)
        for name, module in unet.named_modules()
        if getattr(module, "is_cross_attention", False) and (block := _block_of(name)) in levels
    ]
    if not found:
        raise UnsupportedError(
            f"{type(unet).__name__} has no cross-attention layer in blocks named down_blocks, mid_block or "
            "up_blocks; guidance works on UNets such as diffusers' UNet2DConditionModel"
        )
    return tuple(sorted(found, key=lambda layer: order[_block_of(layer.name)]))


def self_attention_layers(unet: nn.Module, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The self-attention that stands in the same transformer blocks as the given cross-attention layers.

    Raises:
        UnsupportedError: none of these blocks has any.
    """
    found = []
    for layer in layers:
        block = layer.name.rpartition(".")[0]
        for name, module in unet.get_submodule(block).named_children():
            if getattr(module, "is_cross_attention", None) is False:
                found.append(Layer(f"{block}.{name}", layer.level, module, over_image=True))
    if not found:
        raise UnsupportedError(
            "a loss needs self-attention, which none of these layers' blocks has: "
            f"{', '.join(layer.name for layer in layers)}; choose other layers, or leave that loss out"
        )
    return tuple(found)


def choose(layers: Sequence[Layer], latents_grid: Grid, choice: LayerChoice = None) -> tuple[Layer, ...]:
    """The layers to read, for latents of the given (height, width).

    Args:
        layers: what `cross_attention_layers` found.
        latents_grid: (height, width) of the latents, in latent pixels.
        choice: None takes the layers whose grid is closest to a quarter of the latents' (16x16 for 64x64, as
            in Attend-and-Excite; the finer ones at a tie), among those of at least 8 on the short side where
            there are any. Otherwise a grid `(height, width)`, names, parts of names (`"mid_block"`) or
            patterns (`"up_blocks.*.attentions.0"`, a star for one component), or a test `(Layer) -> bool`.

    Raises:
        LayerNotFoundError: the choice, or one of its names, matches no layer; the message lists the layers.
    """
    if choice is None:
        return _closest_to_quarter(layers, latents_grid)
    if callable(choice):
        chosen = tuple(layer for layer in layers if choice(layer))
        return chosen or _refuse("the layer test", layers, latents_grid)
    if isinstance(choice, str):
        choice = [choice]
    if len(choice) == 2 and all(isinstance(side, int) for side in choice):
        chosen = tuple(layer for layer in layers if layer.grid(latents_grid) == tuple(choice))
        return chosen or _refuse(f"the grid {choice[0]}x{choice[1]}", layers, latents_grid)
    return _by_names(layers, latents_grid, [str(name) for name in choice])


def _closest_to_quarter(layers: Sequence[Layer], latents_grid: Grid) -> tuple[Layer, ...]:
    large_enough = [layer for layer in layers if min(layer.grid(latents_grid)) >= _SMALLEST_SIDE]
    candidates = large_enough or list(layers)
    level = min({layer.level for layer in candidates}, key=lambda level: (abs(level - 2), level))
    return tuple(layer for layer in candidates if layer.level == level)


def _by_names(layers: Sequence[Layer], latents_grid: Grid, names: Sequence[str]) -> tuple[Layer, ...]:
    for name in names:
        if not any(matches(layer.name, name) for layer in layers):
            _refuse(f"the layer name {name!r}", layers, latents_grid)
    chosen = tuple(layer for layer in layers if any(matches(layer.name, name) for name in names))
    return chosen or _refuse("an empty list of layers", layers, latents_grid)


def matches(layer: str, part: str) -> bool:
    """Whether a layer's name holds `part` as whole components, such as "mid_block" or "up_blocks.1".

    A star is any one component, or the rest of one.
    """
    components = re.escape(part).replace(r"\*", r"[^.]*")
    return re.search(rf"(^|\.){components}(\.|$)", layer) is not None


def _refuse(what: str, layers: Iterable[Layer], latents_grid: Grid) -> tuple[Layer, ...]:
    listing = ", ".join(f"{layer.name} ({'x'.join(map(str, layer.grid(latents_grid)))})" for layer in layers)
    raise LayerNotFoundError(f"{what} matches no cross-attention layer; the layers are: {listing}")


def _block_of(name: str) -> str:
    match = re.match(r"(down_blocks|up_blocks)\.\d+|mid_block", name)
    return match.group(0) if match else ""


def _block_levels(unet: nn.Module) -> dict[str, int]:
    levels: dict[str, int] = {}
    level = 0
    for place, block in enumerate(getattr(unet, "down_blocks", ())):
        levels[f"down_blocks.{place}"] = level
        level += getattr(block, "downsamplers", None) is not None
    levels["mid_block"] = level
    for place, block in enumerate(getattr(unet, "up_blocks", ())):
        levels[f"up_blocks.{place}"] = level
        level -= getattr(block, "upsamplers", None) is not None
    return levels
