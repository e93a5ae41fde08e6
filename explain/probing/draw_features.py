"""Draws what features answer to: a sheet with a line a layer, maps over the images that move them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ...pictures import Tile, overlay, sheet
from ...pictures.draw import scaled
from ..errors import InputError
from .units import Feature

if TYPE_CHECKING:
    from .features import Visualisation

SIDE = 128
Line = list[Tile | Image.Image | None]


def feature_sheet(found: Visualisation, title: str = "", side: int = SIDE) -> Image.Image:
    """The images of a result, a line for each layer and kind; under each its channel and strength.

    Raises:
        ValueError: a side of less than 16 pixels.
    """
    tiles: dict[tuple[int, str], Line] = {}
    for feature, picture, strength in zip(found.features, found.pictures(), found.strengths, strict=True):
        line = tiles.setdefault((feature.layer, feature.kind), [])
        line.append(Tile(_blocks(picture, side), f"{feature.channel}: {strength:.2f}"))
    order = sorted(tiles)
    labels = [f"layer {layer}, {kind.replace('_', ' ')}" for layer, kind in order]
    return sheet([tiles[key] for key in order], title=title or found.model, row_labels=labels, side=side)


def kinds_sheet(found: Visualisation, each: int, title: str = "", side: int = SIDE) -> Image.Image:
    """Features of several kinds beside each other: a line a layer, and `each` columns a kind.

    Raises:
        InputError: a layer that has fewer features of a kind.
        ValueError: a side of less than 16 pixels.
    """
    pictures = dict(zip(found.features, found.pictures(), strict=True))
    layers = sorted({feature.layer for feature in found.features})
    kinds = list(dict.fromkeys(feature.kind for feature in found.features))
    lines: list[Line] = []
    for layer in layers:
        line: Line = []
        for kind in kinds:
            own = [one for one in found.features if (one.layer, one.kind) == (layer, kind)][:each]
            if len(own) < each:
                raise InputError(f"layer {layer} has {len(own)} {kind} features here, wanted are {each}")
            line += [Tile(_blocks(pictures[one], side), f"channel {one.channel}") for one in own]
        lines.append(line)
    heads = [kind.replace("_", " ") for kind in kinds for _ in range(each)]
    labels = [f"layer {layer}" for layer in layers]
    return sheet(lines, title=title or found.model, row_labels=labels, column_labels=heads, side=side)


def beside_scenes(
    found: Visualisation,
    scenes: Sequence[Sequence[Image.Image]],
    maps: Sequence[Float[Tensor, "scene rows columns"]],
    title: str = "",
    side: int = SIDE,
) -> Image.Image:
    """A line a feature: its image, then the real images that move it most, each with its map under it.

    Args:
        scenes: for each feature its images, as many for every one.
        maps: for each feature what `patch_activations` says of these images.

    Raises:
        InputError: not as many images or maps as features.
        ValueError: a side of less than 16 pixels.
    """
    if not len(found.features) == len(scenes) == len(maps):
        raise InputError(
            f"wanted images and maps for each of {len(found.features)} features, got {len(scenes)} and "
            f"{len(maps)}"
        )
    lines: list[Line] = []
    labels = []
    for feature, picture, own, heat in zip(found.features, found.pictures(), scenes, maps, strict=True):
        line: Line = [Tile(_blocks(picture, side))]
        for scene, values in zip(own, heat, strict=True):
            enlarged = _blocks(scene, side)
            line += [Tile(enlarged), Tile(overlay(enlarged, _heat(values)))]
        lines.append(line)
        labels.append(str(feature))
    most = max(len(own) for own in scenes)
    heads = ["made for it"] + [text for number in range(most) for text in _heads(number)]
    return sheet(lines, title=title or found.model, row_labels=labels, column_labels=heads, side=side)


def strongest(
    strengths: Float[Tensor, "image feature"], features: Sequence[Feature], count: int
) -> list[list[int]]:
    """For every feature the images that move it most, the strongest first.

    Raises:
        InputError: more images asked for than there are, or columns that are no features.
    """
    if not 0 < count <= len(strengths) or strengths.shape[1] != len(features):
        raise InputError(
            f"wanted 1 to {len(strengths)} images of {len(features)} features, got count {count} and "
            f"{strengths.shape[1]} columns"
        )
    return strengths.topk(count, dim=0).indices.T.tolist()


def _heads(number: int) -> list[str]:
    return [f"real image {number + 1}", "where in it"]


def _heat(values: Float[Tensor, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    return scaled(values)


def _blocks(image: Image.Image, side: int) -> Image.Image:
    """Enlarged by whole pixels as far as that goes: these images are small, and their pixels are meant."""
    times = max(1, side // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
