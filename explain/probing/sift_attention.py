"""Whether heads look from one patch with keypoints to the next, and how widely each patch looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from ..relevance import versions
from .distance import among_patches
from .files import read, write
from .interrelation import (
    bins_of,
    by_bin,
    interrelation_of_orders,
    orders,
    p_values,
    query_entropy,
)
from .sift import Concentration
from .tower import Tower, attention_of, tower_of

FORMAT: Final = "heedful.sift-attention/1"
"""What a saved file says of itself."""
STATISTICS: Final = {
    "between": "from concentrated patches to concentrated patches",
    "received": "from any patch to concentrated patches",
    "from [CLS]": "from the first special token to concentrated patches",
}
"""What is compared with the null, and in words."""


@dataclass(frozen=True, eq=False)
class SiftAttention:
    """Attention of every head to patches with many keypoints; float32 on the CPU.

    A value is a ratio: the attention that the weights gather over what they gather when they are put in other
    places; 1 is chance. A reconstruction, see `interrelation.py`.

    Attributes:
        ratios: by statistic of `STATISTICS` the ratio of each image and head; NaN between the patches of an
            image all of whose keypoints lie in one.
        null: the same of each draw, the mean of all images.
        entropy: of the queries, 0 to 1, by image, head and bin of keypoints; NaN where an image has no such
            patch.
        bins: how many keypoints (or how much response) each bin holds.
        patches: how many patches lie in each bin.
        layers: names of the layers, bottom first.
        grid: patches (height, width).
        model, settings, versions: where the numbers come from.
    """

    ratios: Mapping[str, Float[Tensor, "image layer head"]]
    null: Mapping[str, Float[Tensor, "draw layer head"]]
    entropy: Float[Tensor, "image layer head bin"]
    bins: tuple[str, ...]
    patches: tuple[int, ...]
    layers: tuple[str, ...]
    grid: tuple[int, int]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {tuple(one.shape[1:]) for one in (*self.ratios.values(), *self.null.values())}
        shapes.add(tuple(self.entropy.shape[1:3]))
        if len(shapes) != 1 or self.ratios.keys() != self.null.keys() or not self.ratios:
            raise InputError(f"ratios, null and entropy must be of the same layers and heads, got {shapes}")

    def ratio(self, statistic: str = "between") -> Float[Tensor, "layer head"]:
        """The mean over images."""
        return self._one(self.ratios, statistic).nanmean(0)

    def tested(
        self, statistic: str = "between"
    ) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
        """z, p and p adjusted for looking at all heads, see `interrelation.p_values`."""
        return p_values(self.ratio(statistic), self._one(self.null, statistic))

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; `SiftAttention.load` reads it."""
        tensors = {f"ratio.{name}": found for name, found in self.ratios.items()}
        tensors |= {f"null.{name}": found for name, found in self.null.items()}
        told = {name: getattr(self, name) for name in ("bins", "patches", "layers", "grid", "model")}
        told |= {"settings": dict(self.settings), "versions": dict(self.versions)}
        write(path, FORMAT, {**tensors, "entropy": self.entropy}, told)

    @classmethod
    def load(cls, path: str | Path) -> SiftAttention:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        tensors, told = read(path, FORMAT)
        parts: dict[str, dict[str, Tensor]] = {
            kind: {name: tensors[f"{kind}.{name}"] for name in STATISTICS if f"{kind}.{name}" in tensors}
            for kind in ("ratio", "null")
        }
        try:
            told |= {name: tuple(told[name]) for name in ("bins", "patches", "layers", "grid")}
            return cls(ratios=parts["ratio"], null=parts["null"], entropy=tensors["entropy"], **told)
        except (KeyError, TypeError) as problem:
            raise InputError(f"{path} is damaged: {problem}") from problem

    def _one(self, of: Mapping[str, Tensor], statistic: str) -> Tensor:
        if statistic not in of:
            raise InputError(f"statistic must be one of {', '.join(of)}; got {statistic!r}")
        return of[statistic]


def sift_attention(
    model: nn.Module,
    inputs: Mapping[str, Any],
    keypoints: Concentration,
    *,
    by: str = "count",
    null: str = "shift",
    draws: int = 500,
    bins: int = 3,
    seed: int = 0,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> SiftAttention:
    """Compare every head's attention to concentrated patches with chance.

    For weights w (each patch's share of the image's keypoints) and attention A between different patches,
    "between" is sum w_i w_j A_ij / sum A_ij, "received" the same with equal weights for the queries, and
    "from [CLS]" sum w_j A_cls,j / sum A_cls,j. Each is divided by its mean under the null.

    Args:
        model: of transformers, with patches that attend to each other; see `tower.tower_of`.
        inputs: as the model takes them; of these `pixel_values` and `interpolate_pos_encoding` are used.
        keypoints: of the same images, on the model's grid.
        by: "count" or "response".
        null: "shift" or "permutation", see `interrelation.orders`.
        draws: of the null; p is at least 1 / (draws + 1).
        bins: of the patches with keypoints, for the entropy.
        batch_size: images at once.
        progress: told how many images of how many are done.

    Raises:
        UnknownFamilyError: for a model without such patches.
        InputError: for images that do not fit the model or the keypoints, or have no keypoint.
        CaptureError: for attention that could not be seen.
    """
    tower = tower_of(model)
    taken = tower.inputs(inputs)
    grid = tower.grid(taken["pixel_values"])
    count = len(taken["pixel_values"])
    check_keypoints(keypoints, count, grid)
    weights = keypoints.weights(by).flatten(1)
    if not ((weights > 0).sum(1) > 1).any():
        raise InputError(
            "each image has all its keypoints in one patch, so there is nothing between patches: take larger "
            "images, smaller patches, or a lower contrast"
        )
    where, names = bins_of((keypoints.count if by == "count" else keypoints.response).flatten(1), bins)
    drawn = orders(count, grid, draws, null=null, seed=seed)
    ratios: dict[str, list[Tensor]] = {}
    sums: dict[str, Tensor] = {}
    spread: list[Tensor] = []
    for attention in attention_of(tower, taken, batch_size):
        layers = torch.stack(attention, 1).cpu()
        own = slice(sum(map(len, spread)), sum(map(len, spread)) + len(layers))
        for name, found in _statistics(tower, layers, grid, weights[own], drawn[:, own]).items():
            ratios.setdefault(name, []).append(found[0])
            sums[name] = sums.get(name, torch.zeros(())) + found[1:].nansum(1)
        rows = query_entropy(among_patches(layers, tower.patches(grid)))
        spread.append(by_bin(rows, where[own], len(names)))
        if progress is not None:
            progress(own.stop, count)
    whole = {name: torch.cat(parts).float() for name, parts in ratios.items()}
    return SiftAttention(
        ratios=whole,
        null={name: (found / (~whole[name].isnan()).sum(0)).float() for name, found in sums.items()},
        entropy=torch.cat(spread).float(),
        bins=names,
        patches=tuple(torch.bincount(where.flatten(), minlength=len(names)).tolist()),
        layers=tower.layers,
        grid=grid,
        model=tower.model,
        settings={"images": count, "by": by, "null": null, "draws": draws, "seed": seed}
        | {"keypoints": dict(keypoints.settings)},
        versions={**versions(), **keypoints.versions},
    )


def check_keypoints(keypoints: Concentration, images: int, grid: tuple[int, int]) -> None:
    """Refuse keypoints of other images, or on another grid.

    Raises:
        InputError: says what was wanted, and what came.
    """
    if len(keypoints.count) != images or keypoints.grid != grid:
        raise InputError(
            f"wanted keypoints of {images} images on the model's grid {grid}; got {len(keypoints.count)} on "
            f"{keypoints.grid}: concentration(images, {grid}) counts them"
        )


def _statistics(
    tower: Tower, layers: Tensor, grid: tuple[int, int], weights: Tensor, drawn: Tensor
) -> dict[str, Float[Tensor, "draw image layer head"]]:
    """Each statistic over its mean under the null: first as it is, then of each draw."""
    patches = tower.patches(grid)
    among = layers[..., patches, patches]
    same = torch.arange(weights.shape[1]).expand(1, *weights.shape)
    whole = torch.cat([same, drawn])
    even = torch.full_like(weights, 1 / weights.shape[1])
    found = {
        "between": interrelation_of_orders(among, weights, weights, whole),
        "received": interrelation_of_orders(among, even, weights, whole),
    }
    if tower.specials:
        row = layers[..., 0, patches]
        shuffled = torch.stack([weights[image][whole[:, image]] for image in range(len(weights))], 1)
        found["from [CLS]"] = torch.einsum("dip,ilhp->dilh", shuffled, row / row.sum(-1, keepdim=True))
    return {name: each / each[1:].mean(0, keepdim=True) for name, each in found.items()}
