"""What every head of an image tower does with many images: how far it looks, how sharply, and at what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import InputError
from ..relevance import versions
from .distance import among_patches, attention_distance, entropy, share_on_patches, uniform_distance
from .files import read, write
from .tower import Tower, attention_of, tower_of

FORMAT: Final = "heedful.head-statistics/1"
"""What a saved file says of itself."""


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """How far and how sharply each head looks, image by image; float32 on the CPU.

    Attributes:
        distance: mean distance of attention among patches in pixels (`distance.attention_distance`), 0 or
            more; beyond `uniform` a head prefers what is far.
        entropy: of the rows among patches in bits, 0 to log2(patches).
        on_patches: the share of the patches' attention that goes to patches, 0 to 1; the rest goes to [CLS],
            registers and other special tokens, and takes no part in distance and entropy.
        grid: patches (height, width); `patch`: pixels (height, width) of one.
        layers: names of the layers, bottom first.
        model: class and name of the model.
        settings, versions: where these numbers come from.

    Raises:
        InputError: for figures whose shapes do not agree.
    """

    distance: Float[Tensor, "image layer head"]
    entropy: Float[Tensor, "_image _layer _head"]
    on_patches: Float[Tensor, "_image _layer _head"]
    grid: tuple[int, int]
    patch: tuple[int, int]
    layers: tuple[str, ...]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {tuple(found.shape) for found in (self.distance, self.entropy, self.on_patches)}
        if len(shapes) > 1 or self.distance.ndim != 3 or self.distance.shape[1] != len(self.layers):
            raise InputError(
                f"distance, entropy and on_patches must be (image, {len(self.layers)} layers, head) alike, "
                f"got {', '.join(map(str, sorted(shapes)))}"
            )

    @property
    def uniform(self) -> float:
        """The distance of attention that is the same everywhere, in pixels."""
        return uniform_distance(self.grid, self.patch)

    @property
    def reach(self) -> Float[Tensor, "layer head"]:
        """The distance over `uniform`, the mean of all images: 0 for a head that looks at itself, 1 even."""
        return self.distance.mean(0) / max(self.uniform, 1e-12)

    def local(self, below: float = 0.5) -> Bool[Tensor, "layer head"]:
        """Which heads are local: their reach is less than `below`. The others are global.

        Nobody has published such a border; half of what even attention has is ours.

        Raises:
            InputError: for a border that is not positive.
        """
        if not below > 0:
            raise InputError(f"below must be positive, a share of even attention's distance; got {below}")
        return self.reach < below

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; `HeadStatistics.load` reads it."""
        tensors = {"distance": self.distance, "entropy": self.entropy, "on_patches": self.on_patches}
        told = {name: getattr(self, name) for name in ("grid", "patch", "layers", "model")}
        told |= {"settings": dict(self.settings), "versions": dict(self.versions)}
        write(path, FORMAT, tensors, told)

    @classmethod
    def load(cls, path: str | Path) -> HeadStatistics:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        tensors, told = read(path, FORMAT)
        try:
            told |= {name: tuple(told[name]) for name in ("grid", "patch", "layers")}
            return cls(**{**told, **tensors})
        except (KeyError, TypeError) as problem:
            raise InputError(f"{path} is damaged: {problem}") from problem


def head_statistics(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> HeadStatistics:
    """Distance, entropy and share on patches of every head of a model's image tower.

    Raghu et al. 2021 (arXiv 2108.08810), Sec. 4; special tokens are taken out, and rows divided
    by what is left.

    Args:
        model: of transformers, with patches that attend to each other; see `tower.tower_of`.
        inputs: as the model takes them; of these `pixel_values` and `interpolate_pos_encoding` are used.
        batch_size: images at once; memory grows with it, the result does not change.
        progress: told how many images of how many are done.

    Raises:
        UnknownFamilyError: for a model without such patches.
        InputError: for images that do not fit the model, or with fewer than two patches.
        CaptureError: for attention that could not be seen.
    """
    tower = tower_of(model)
    taken = tower.inputs(inputs)
    pixels = taken["pixel_values"]
    grid = tower.grid(pixels)
    if grid[0] * grid[1] < 2:
        raise InputError(f"{tower.model} sees one patch in images of {tuple(pixels.shape[2:])}: no distance")
    found: list[Tensor] = []
    for attention in attention_of(tower, taken, batch_size):
        found.append(torch.stack([_figures(tower, layer, grid) for layer in attention], 2))
        if progress is not None:
            progress(sum(part.shape[1] for part in found), len(pixels))
    distance, sharpness, share = torch.cat(found, 1).float().cpu()
    return HeadStatistics(
        distance=distance,
        entropy=sharpness,
        on_patches=share,
        grid=grid,
        patch=tower.patch,
        layers=tower.layers,
        model=tower.model,
        settings={"images": len(pixels), "special_tokens": tower.specials},
        versions=versions(),
    )


def _figures(
    tower: Tower, attention: Float[Tensor, "image head query key"], grid: tuple[int, int]
) -> Float[Tensor, "3 image head"]:
    patches = tower.patches(grid)
    among = among_patches(attention, patches)
    return torch.stack(
        [
            attention_distance(among, grid, tower.patch),
            entropy(among),
            share_on_patches(attention, patches),
        ]
    )
