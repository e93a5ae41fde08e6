"""Someone's own images as the cases of a study: seen as the model sees them, labelled as it labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from ..errors import InputError
from ..relevance import prepared
from .asking import Ask
from .examples import Example, Mask, plain
from .study import Batch, Source

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """How a model looks at an image.

    Attributes:
        pixels: an image as the model takes it, normalised.
        box: of an image of this (width, height) the part that is seen: left, top, right, bottom.
    """

    pixels: Callable[[Image.Image], Float[Tensor, "channel height width"]]
    box: Callable[[tuple[int, int]], Box]


def drawn(examples: Sequence[Example], seed: int = 0) -> tuple[Example, ...]:
    """All of them in a random order, so that the first few are of every label."""
    order = np.random.default_rng(seed).permutation(len(examples))
    return tuple(examples[place] for place in order)


def visible(
    examples: Sequence[Example], view: View, size: tuple[int, int]
) -> tuple[tuple[Example, ...], dict[str, str]]:
    """Those that have something of their mask in what the model sees, and why the others are left out.

    Args:
        size: (height, width) of what the model takes.
    """
    reasons = {
        one.name: "its mask is empty in what the model sees"
        for one in examples
        if one.mask is not None and not _cut(one.mask(), view, size).any()
    }
    return tuple(one for one in examples if one.name not in reasons), reasons


def numbers(examples: Sequence[Example], names: Mapping[int, str]) -> tuple[Example, ...]:
    """The same with the model's own label in place of each: its number, as text.

    A label is a number, a name as the model has it, or one of several names between commas ("tench" of
    "tench, Tinca tinca"); case, and _ for a space, do not count.

    Raises:
        InputError: a label that the model does not know, or that names two of its classes.
    """
    known: dict[str, set[int]] = {}
    for number, name in names.items():
        for each in {str(number), plain(name), *(plain(part) for part in name.split(","))}:
            known.setdefault(each, set()).add(number)
    written = {one.label for one in examples if one.label is not None}
    found = {label: known.get(plain(label), set()) for label in written}
    if strange := sorted(label for label, own in found.items() if len(own) != 1):
        what = "names several of its classes" if found[strange[0]] else "is no label of the model"
        shown = ", ".join(f"{number} or {name}" for number, name in list(names.items())[:3])
        raise InputError(
            f'"{strange[0]}" {what} ({len(strange)} of {len(written)} labels do not fit); its labels are '
            f"{shown}, ..."
        )
    return tuple(
        one if one.label is None else replace(one, label=str(min(found[one.label]))) for one in examples
    )


def source(
    examples: Sequence[Example], view: View, model: nn.Module, ask: Ask,
    target: Callable[[list[int]], Any] = list,
    beside: Callable[[list[int]], Mapping[str, Tensor]] = lambda labels: {},
) -> Source:  # fmt: skip
    """The examples as batches of a study: what is asked about is the label, or else the model's answer.

    Args:
        examples: their labels are numbers, as `numbers` gives them, for all or for none.
        target: of the labels' numbers what `explain` takes as target.
        beside: of the same what goes into the model's inputs beside the images, such as the labels as texts.

    Raises:
        InputError: when called: an image that cannot be read, images of several sizes behind the processor, a
            mask of another size than its image.
    """

    def batch(items: Sequence[int]) -> Batch:
        own = [examples[item] for item in items]
        images = [one.read() for one in own]
        pixels = _stacked(own, [view.pixels(image) for image in images])
        inputs = prepared(model, {"pixel_values": pixels})
        size = (pixels.shape[2], pixels.shape[3])
        labels = _labels(own, inputs, ask)
        inputs |= prepared(model, found) if (found := beside(labels.tolist())) else {}
        masks = [_cut(_fitting(one, image), view, size) for one, image in zip(own, images, strict=True)]
        return Batch(
            items=tuple(items),
            inputs=inputs,
            target=target(labels.tolist()),
            labels=labels,
            truth=labels,
            masks=torch.from_numpy(np.stack(masks)) if own[0].mask is not None else None,
            pictures=tuple(_shown(image, view, size) for image in images),
            titles=tuple(one.name for one in own),
        )

    return batch


def _labels(own: Sequence[Example], inputs: dict[str, Any], ask: Ask) -> Tensor:
    if own[0].label is not None:
        return torch.tensor([int(one.label or 0) for one in own])
    with torch.no_grad():
        return ask(inputs).argmax(1).cpu()


def _stacked(own: Sequence[Example], pixels: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(one.shape): example.name for one, example in zip(pixels, own, strict=True)}
    if len(shapes) > 1:
        told = "; ".join(f"{name}: {shape}" for shape, name in shapes.items())
        raise InputError(f"the processor must give all images one size, got (channel, height, width) {told}")
    return torch.stack(list(pixels))


def _fitting(one: Example, image: Image.Image) -> Mask:
    """The mask of an image; without one, everything."""
    if one.mask is None:
        return np.ones((image.height, image.width), dtype=bool)
    mask = one.mask()
    if mask.shape != (image.height, image.width):
        raise InputError(
            f"the mask of {one.name} has {mask.shape[1]} x {mask.shape[0]} pixels, its image "
            f"{image.width} x {image.height}; they must be of one size"
        )
    return mask


def _cut(mask: Mask, view: View, size: tuple[int, int]) -> Bool[np.ndarray, "high wide"]:
    """What the model sees of a mask, at the size (height, width) of its input."""
    box = view.box((mask.shape[1], mask.shape[0]))
    seen = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST, box=box)
    return np.array(seen, dtype=bool)


def _shown(image: Image.Image, view: View, size: tuple[int, int]) -> Image.Image:
    return image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=view.box(image.size))
