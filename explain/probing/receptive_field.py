"""Effective receptive field: how far a layer's central feature really looks, by gradients of the pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ...pictures.draw import colours, sheet
from ..errors import CaptureError, InputError
from ..relevance import model_name, versions
from .files import read, write
from .plots import short
from .vision import look, tokens_of

FORMAT: Final = "heedful.receptive-field/1"
"""What a saved file says of itself."""


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """How much each pixel moves the central feature of each layer.

    Attributes:
        maps: by layer (height, width) in pixels, of sum 1.
        centres: by layer (x, y) of the central patch or cell, in pixels of the model's input.
        images: how many were seen.
        model: class and name of the model.
        settings: how many random directions, and their seed.
        versions: of heedful and the libraries it stands on.
    """

    maps: Mapping[str, Float[Tensor, "_height _width"]]
    centres: Mapping[str, tuple[float, float]]
    images: int
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def reach(self) -> dict[str, float]:
        """By layer the mean distance of what moves the feature from its centre, in pixels."""
        return {name: reach(each, self.centres[name]) for name, each in self.maps.items()}

    @property
    def half(self) -> dict[str, float]:
        """By layer the share of the image's pixels, 0..1, in which half of the influence lies."""
        return {name: half_share(each) for name, each in self.maps.items()}

    def picture(self, side: int = 160) -> Image.Image:
        """The maps beside each other; colours grow with the square root, and are each layer's own."""
        tiles = [
            Image.fromarray(colours((each / each.max()).sqrt().numpy())).resize(
                (
                    round(side * each.shape[1] / max(each.shape)),
                    round(side * each.shape[0] / max(each.shape)),
                ),
                Image.Resampling.NEAREST,
            )
            for each in self.maps.values()
        ]
        names = zip(short(tuple(self.maps)), self.reach.values(), strict=True)
        labels = [f"{name} ({pixels:.1f} px)" for name, pixels in names]
        return sheet([tiles], column_labels=labels, title=self.model, side=side)

    def plot(self, path: str | Path) -> Path:
        """Write `picture` as a PNG."""
        self.picture().save(path)
        return Path(path)

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; `ReceptiveField.load` reads it."""
        told = {name: getattr(self, name) for name in ("centres", "images", "model", "settings", "versions")}
        write(path, FORMAT, self.maps, told | {"layers": list(self.maps)})

    @classmethod
    def load(cls, path: str | Path) -> ReceptiveField:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        tensors, told = read(path, FORMAT)
        try:
            maps = {name: tensors[name] for name in told.pop("layers")}
            told["centres"] = {name: tuple(each) for name, each in told["centres"].items()}
            return cls(maps, **told)
        except (KeyError, TypeError) as problem:
            raise InputError(f"the file {path} is damaged: {problem}") from problem


def receptive_field(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    layers: str | Sequence[str] | None = None,
    draws: int = 2,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> ReceptiveField:
    """Measure the effective receptive field of every layer's central feature.

    Luo et al. 2016, arXiv 1701.04128, as Raghu et al. 2021, arXiv 2108.08810, Sec. 4: the size of the
    gradient of the central patch (or cell) by each pixel, averaged over images. A gradient needs one number
    of the feature's channels. Their sum says nothing behind a layer norm, which keeps it constant, so here it
    is a sum with random signs: over `draws` of them sqrt(mean (d sum_c s_c f_c / dx)^2) estimates
    sqrt(sum_c (df_c / dx)^2), the norm over the channels of feature and pixel.

    Args:
        model: a model of images in eval mode; it is left as it was.
        batches: pixels (image, channel, height, width) as the model takes them, all of one size,
            square or not.
        layers: names or patterns (default: all layers of the image part).
        draws: how many random signs are drawn; the estimate's variance falls as 1 / draws.
        seed: of the signs.
        progress: called with the number of images seen so far.

    Raises:
        InputError: for no images, images of several sizes, or fewer than one draw.
        CaptureError: for layers that are not there, or gradients that are not finite.
    """
    if draws < 1:
        raise InputError(f"draws must be at least 1, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    centres: dict[str, tuple[float, float]] = {}
    images = 0
    for pixels in batches:
        centres = _add(model, pixels, layers, draws, generator, sums)
        images += len(pixels)
        if progress is not None:
            progress(images)
    if not images:
        raise InputError("wanted at least one image, got none")
    maps = {name: (each / each.sum().clamp_min(torch.finfo(each.dtype).tiny)) for name, each in sums.items()}
    told = {"draws": draws, "seed": seed}
    return ReceptiveField(maps, centres, images, model_name(model), told, versions())


def reach(influence: Float[Tensor, "height width"], centre: tuple[float, float]) -> float:
    """The mean distance of a map's mass from a point (x, y), in pixels; pixels lie at their middles."""
    height, width = influence.shape
    down = torch.arange(height, dtype=torch.float64)[:, None] + 0.5 - centre[1]
    across = torch.arange(width, dtype=torch.float64)[None, :] + 0.5 - centre[0]
    weights = influence.double()
    return float((weights * (down.square() + across.square()).sqrt()).sum() / weights.sum())


def half_share(influence: Float[Tensor, "height width"]) -> float:
    """The share of pixels, the strongest first, that hold half of a map's mass; 0.5 where all are equal."""
    ordered = influence.double().flatten().sort(descending=True).values
    cumulated = ordered.cumsum(0) / ordered.sum()
    return (int((cumulated < 0.5).sum()) + 1) / len(ordered)


def _add(
    model: nn.Module,
    pixels: Tensor,
    layers: str | Sequence[str] | None,
    draws: int,
    generator: torch.Generator,
    sums: dict[str, Tensor],
) -> dict[str, tuple[float, float]]:
    """Add the influence of a batch's pixels on every layer; returns the layers' centres."""
    moved = pixels.detach().clone().requires_grad_()
    wanted = [layers] if isinstance(layers, str) else layers
    with torch.enable_grad():
        seen = look(model, moved, wanted)
    centres = {}
    for name, output in seen.items():
        tokens = tokens_of(model, pixels, output, name)
        feature = tokens.values[:, tokens.central].float()
        squares = torch.zeros_like(pixels[:, 0], dtype=torch.float32)
        for _ in range(draws):
            signs = torch.randint(0, 2, feature.shape, generator=generator).to(feature) * 2 - 1
            (gradient,) = torch.autograd.grad((feature * signs).sum(), moved, retain_graph=True)
            squares += gradient.float().square().sum(1)
        influence = (squares / draws).sqrt().sum(0).cpu()
        if not influence.isfinite().all():
            raise CaptureError(
                f"the gradients of {name} are not finite; load the model in bfloat16 or float32"
            )
        if name in sums and sums[name].shape != influence.shape:
            raise InputError(
                f"all images must have one size: got {tuple(sums[name].shape)} and then "
                f"{tuple(influence.shape)} (height, width)"
            )
        sums[name] = sums.get(name, torch.zeros(())) + influence
        centres[name] = _centre(pixels, tokens.grid)
    return centres


def _centre(pixels: Tensor, grid: tuple[int, int]) -> tuple[float, float]:
    """(x, y) of the middle of the central patch or cell, in pixels."""
    (height, width), (down, across) = pixels.shape[2:], grid
    return (across // 2 + 0.5) * width / across, (down // 2 + 0.5) * height / down
