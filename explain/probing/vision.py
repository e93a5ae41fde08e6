"""The image part of any model: its layers by name, a forward that shows them, and what of it are patches."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from ..models.common import check_image, grid_of, pair
from .activations import activations, matching

_PARTS: Final = ("vision_model", "vision_tower", "visual")
"""What models of images and texts call the part that sees."""
_ENTRANCES: Final = ("embeddings", "embedder", "pre_layrnorm")
"""What models call the module whose output enters the first layer; of several the last."""


@dataclass(frozen=True)
class Tokens:
    """A layer's output as tokens: `specials` ([CLS], registers) first, then those of the grid, row by row.

    Attributes:
        values: of a convolutional layer every cell is a token.
        grid: (height, width) of the patches or cells.
    """

    values: Float[Tensor, "image token channel"]
    specials: int
    grid: tuple[int, int]

    @property
    def central(self) -> int:
        """The token in the middle of the grid; of an even side the one behind the middle."""
        height, width = self.grid
        return self.specials + (height // 2) * width + width // 2


def image_part(model: nn.Module) -> tuple[str, nn.Module]:
    """The part of a model that takes pixels alone, and its name with a dot; often the model itself."""
    model = getattr(model, "_orig_mod", model)
    for name in _PARTS:
        if isinstance(part := getattr(model, name, None), nn.Module):
            return f"{name}.", part
    return "", model


def image_layers(model: nn.Module) -> tuple[str, ...]:
    """The layers that an image passes: what enters the first one, and then every block.

    Blocks are the children of a list of modules of one class: a transformer's layers, the residual layers of
    a ResNet's stages.

    Raises:
        InputError: for a model without such lists.
    """
    prefix, part = image_part(model)
    blocks = _blocks(part, "")
    if not blocks:
        raise InputError(
            f"{type(model).__name__} has no list of layers of one class: name the layers, as "
            "model.named_modules() has them"
        )
    before = [name for name, _ in part.named_modules() if name.split(".")[-1] in _ENTRANCES]
    outer = [name for name in before if not any(name.startswith(f"{block}.") for block in blocks)]
    shallow = [name for name in outer if name.count(".") == min(each.count(".") for each in outer)]
    return tuple(prefix + name for name in (*shallow[-1:], *blocks))


def look(model: nn.Module, pixels: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The outputs of layers of the image part for these pixels, in the order of the model.

    Args:
        model: in eval mode.
        pixels: (image, channel, height, width) as the model takes them; moved to its device and type.
            Positions are fitted to images of another size than the model's where it can do that.
        layers: names or patterns as in `activations`; None takes `image_layers`.

    Raises:
        InputError: for pixels that the model cannot take.
        CaptureError: for layers that are not there, or do not run when an image is seen.
    """
    names = image_layers(model) if layers is None else matching(model, layers)
    _, part = image_part(model)
    inputs = _inputs(model, part, pixels)
    like = next((each for each in part.parameters() if each.is_floating_point()), torch.empty(0))
    moved = pixels.to(like.device, like.dtype)
    with activations(model, names) as seen:
        try:
            part(**{**inputs, "pixel_values": moved}) if inputs else part(moved)
        except ValueError as problem:
            raise InputError(f"{type(model).__name__} cannot take these pixels: {problem}") from problem
    return {name: seen[name] for name in names}


def tokens_of(
    model: nn.Module, pixels: Float[Tensor, "image channel height width"], output: Tensor, layer: str = ""
) -> Tokens:
    """A layer's output as tokens, with the grid that the images' patches have.

    Raises:
        InputError: for an output that is neither cells nor as many tokens as there are patches, or more.
    """
    if output.ndim == 4:
        return Tokens(output.flatten(2).transpose(1, 2), 0, (output.shape[2], output.shape[3]))
    grid = grid_of(pixels, patch_size(model))
    specials = output.shape[1] - grid[0] * grid[1] if output.ndim == 3 else -1
    if specials < 0:
        raise InputError(
            f"the output of {layer or 'this layer'} has shape {tuple(output.shape)}; wanted (image, channel, "
            f"height, width), or (image, token, channel) with a token for each of {grid[0]} x {grid[1]} "
            "patches"
        )
    return Tokens(output, specials, grid)


def patch_size(model: nn.Module) -> tuple[int, int]:
    """(height, width) of a patch in pixels.

    Raises:
        InputError: for a model without patches.
    """
    size = getattr(getattr(image_part(model)[1], "config", None), "patch_size", None)
    if size is None:
        raise InputError(
            f"{type(model).__name__} has no patches (its config names no patch_size): take a vision "
            "transformer, such as a ViT, DeiT, DINOv2, CLIP or SigLIP"
        )
    return pair(size)


def _inputs(model: nn.Module, part: nn.Module, pixels: Tensor) -> dict[str, Any]:
    """The pixels, and the wish to fit positions where their size is not the model's."""
    whole = isinstance(pixels, Tensor)
    if not whole or pixels.ndim != 4 or 0 in pixels.shape or not pixels.is_floating_point():
        came = f"{pixels.dtype} of shape {tuple(pixels.shape)}" if whole else type(pixels).__name__
        raise InputError(f"pixels must be floats, (image, channel, height, width), got {came}")
    if not pixels.isfinite().all():
        raise InputError("the pixels hold NaN or infinite values")
    config = getattr(part, "config", None)
    if config is None:
        return {}
    takes = inspect.signature(part.forward).parameters
    if "pixel_values" not in takes:
        raise InputError(f"{type(model).__name__} takes no pixel_values: it is no model of images alone")
    inputs: dict[str, Any] = {"pixel_values": pixels}
    fits = "interpolate_pos_encoding" in takes
    if fits or "dinov2" in str(config.model_type):
        trained = pair(config.image_size)
        other = tuple(pixels.shape[2:]) != trained
        channels = getattr(config, "num_channels", 3)
        told = SimpleNamespace(num_channels=channels, image_size=trained, patch_size=config.patch_size)
        check_image(inputs, told, interpolates=other)
        if other and fits:
            inputs["interpolate_pos_encoding"] = True
    return inputs


def _blocks(module: nn.Module, name: str) -> list[str]:
    """The names of all blocks below a module, in its order; blocks are not looked into."""
    found: list[str] = []
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        if not _is_list(child):
            found += _blocks(child, path)
            continue
        inner = {place: _only_list(block) for place, block in child.named_children()}
        if all(inner.values()):
            for place, deeper in inner.items():
                blocks = child.get_submodule(f"{place}.{deeper}").named_children()
                found += [f"{path}.{place}.{deeper}.{number}" for number, _ in blocks]
        else:
            found += [f"{path}.{place}" for place in inner]
    return found


def _is_list(module: nn.Module) -> bool:
    """Whether it is a list of modules of one class that have parts themselves."""
    blocks = list(module.children())
    alike = len({type(each) for each in blocks}) == 1
    listed = isinstance(module, nn.ModuleList | nn.Sequential)
    return listed and alike and all(any(True for _ in each.children()) for each in blocks)


def _only_list(block: nn.Module) -> str | None:
    """The name of a list that is all that a block holds: such a block is a stage of blocks."""
    children = dict(block.named_children())
    if len(children) != 1:
        return None
    ((name, child),) = children.items()
    return name if _is_list(child) else None
