"""Which layers, heads and steps carry which word's place: maps of attention against true regions; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import GuidanceError
from .records import AttentionRecord
from .regions import Region, coverage, region

MEASURES: Final = ("auc", "focus")


@dataclass(frozen=True)
class Carrier:
    """A head of a layer, and how well it finds places.

    Attributes:
        layer, head: which one; `head` from 0.
        value: the mean over steps and words of the measure it was ranked by.
    """

    layer: str
    head: int
    value: float


@dataclass(frozen=True, eq=False)
class Places:
    """How well the map of every word, in every layer, head and step, tells the word's region from the rest.

    Attributes:
        words: what the rows of `word` are, in order; of several images' words each is a row.
        auc: by layer, the chance that a spot drawn in the region has more attention than one drawn outside:
            0 to 1, .5 for a map that does not know, 1 where all of the region is above all of the rest.
        focus: by layer, the share of the map that lies in the region over the region's share of the image: 0
            or more, 1 for an even map.
        areas: the regions' shares of the image, 0 to 1; `focus` is at most 1 / area.
        steps: timesteps, as long as `step`; empty where none were told.
    """

    words: tuple[str, ...]
    auc: Mapping[str, Float[Tensor, "_step word _head"]]
    focus: Mapping[str, Float[Tensor, "_step word _head"]]
    areas: Float[Tensor, "word"]
    steps: tuple[float, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order they came in."""
        return tuple(self.auc)

    def by_layer(self, measure: str = "auc") -> Float[Tensor, "layer step"]:
        """The mean over words and heads, for every layer and step.

        Raises:
            GuidanceError: for another measure.
        """
        return torch.stack([found.mean((1, 2)) for found in self._measure(measure).values()])

    def carriers(self, measure: str = "auc") -> tuple[Carrier, ...]:
        """Every head of every layer, the best first, by its mean over steps and words.

        Raises:
            GuidanceError: for another measure.
        """
        found = [
            Carrier(layer, head, value)
            for layer, scores in self._measure(measure).items()
            for head, value in enumerate(scores.mean((0, 1)).tolist())
        ]
        return tuple(sorted(found, key=lambda each: -each.value))

    def _measure(self, measure: str) -> Mapping[str, Tensor]:
        if measure not in MEASURES:
            raise GuidanceError(f"measure must be one of {', '.join(MEASURES)}; got {measure!r}")
        return self.auc if measure == "auc" else self.focus


def places(
    maps: Mapping[str, Float[Tensor, "_step word _head _height _width"]],
    regions: Sequence[Any],
    words: Sequence[str] = (),
    steps: Sequence[float] = (),
) -> Places:
    """Compare words' maps with where the words really are.

    Args:
        maps: by layer, each on its own grid; what `AttentionRecord.layer_maps` holds of one image, or of
            several joined along `word`.
        regions: for every word where it is, of which `coverage` says how much of each cell: a box (left, top,
            right, bottom) in shares of the image, or a mask (height, width) of any size, 0 outside, 1 inside.
        words: what to call them.
        steps: timesteps of `step`.

    Raises:
        GuidanceError: for no map, numbers of words or steps that do not agree, a region that is empty or all.
    """
    known = [region(each) for each in regions]
    for layer, found in maps.items():
        if found.ndim != 5 or found.shape[1] != len(known) or (steps and len(steps) != len(found)):
            raise GuidanceError(
                f"maps of {layer} have shape {tuple(found.shape)}; wanted (step, word, head, height, width) "
                f"with {len(steps) or 'any number of'} steps and {len(known)} words, as many as regions"
            )
    if not maps or not known or len(words) not in (0, len(known)):
        raise GuidanceError(
            f"wanted maps of at least one layer, and a name for each region or for none; got {len(maps)} "
            f"layers, {len(known)} regions, {len(words)} names"
        )
    scores = {layer: _of_layer(found, known) for layer, found in maps.items()}
    return Places(
        words=tuple(words) or tuple(f"word {number}" for number in range(len(known))),
        auc={layer: auc for layer, (auc, _) in scores.items()},
        focus={layer: focus for layer, (_, focus) in scores.items()},
        areas=torch.tensor([_area(each) for each in known]),
        steps=tuple(steps),
    )


def places_in(record: AttentionRecord, regions: Mapping[str, Any], image: int = 0) -> Places:
    """The places of words in a record that was resolved by "layer", and where wanted by "head" and "step".

    Args:
        record: what `record(pipe, resolve=["step", "layer", "head"])` left behind.
        regions: by word where it is in the image, as in `places`.
        image: number of the image, from 0.

    Raises:
        TokenNotFoundError: a word that was not recorded.
        GuidanceError: a recording that was not resolved by layer; as in `places`.
    """
    if not record.layer_maps:
        raise GuidanceError('the recording was not resolved: ask for record(pipe, resolve=["layer", "head"])')
    rows = [record._place(word, image) for word in regions]
    maps = {layer: found[image][:, rows] for layer, found in record.layer_maps.items()}
    by_step = "step" in record.settings.get("resolve", ())
    return places(maps, list(regions.values()), list(regions), record.steps if by_step else ())


def place_scores(
    maps: Float[Tensor, "*maps height width"], covered: Float[Tensor, "height width"]
) -> tuple[Float[Tensor, "*maps"], Float[Tensor, "*maps"]]:
    """AUC and focus of maps A against c, how much of each cell lies in the region, 0 to 1.

    AUC = (sum_ij c_i (1 - c_j) ([A_i > A_j] + [A_i = A_j] / 2)) / (sum c sum (1 - c)): cells on the border
    count on both sides by their parts. Focus = (sum A c / sum A) / mean c; 1 for a map of zeros.

    Raises:
        GuidanceError: for a region that covers nothing or everything.
    """
    maps = maps if maps.dtype == torch.float64 else maps.float()
    inside = covered.flatten().to(maps)
    if not (inside.sum() > 0 and (1 - inside).sum() > 0):
        raise GuidanceError("a region that covers nothing, or the whole image, has no place to be found")
    values, order = maps.flatten(-2).sort(-1)
    within, without = inside[order], (1 - inside)[order]
    below = torch.nn.functional.pad(without.cumsum(-1), (1, 0))
    first = below.gather(-1, torch.searchsorted(values, values))
    last = below.gather(-1, torch.searchsorted(values, values, right=True))
    auc = (within * (first + last) / 2).sum(-1) / (inside.sum() * (1 - inside).sum())
    total, kept = values.sum(-1), (values * within).sum(-1)
    focus = torch.where(total > 0, kept / total.clamp(min=1e-30) / inside.mean(), 1.0)
    return auc, focus


def _of_layer(
    maps: Float[Tensor, "step word head height width"], regions: Sequence[Region]
) -> tuple[Float[Tensor, "step word head"], Float[Tensor, "step word head"]]:
    grid = maps.shape[3], maps.shape[4]
    scores = [place_scores(maps[:, row], coverage(each, grid)) for row, each in enumerate(regions)]
    return torch.stack([auc for auc, _ in scores], 1), torch.stack([focus for _, focus in scores], 1)


def _area(given: Region) -> float:
    if isinstance(given, Tensor):
        return float(given.mean())
    return (given.right - given.left) * (given.bottom - given.top)
