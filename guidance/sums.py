"""Running sums of attention, so that what a recording holds does not grow with what it has seen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .layers import Grid
from .maps import pool

Axis = Literal["step", "layer", "head"]
AXES: tuple[Axis, ...] = ("step", "layer", "head")
"""What a recording can be resolved by."""


class AttentionSums:
    """Attention of one call of a pipeline, summed while it comes: over heads, layers and steps.

    Always kept: one sum (image, height, width, token) on the common grid. By step: that of the spans, one a
    step. By layer and by head: those of the spans on the layer's own grid, summed over the steps unless these
    are resolved too. All are float32 on the device of the attention.

    Args:
        grid: (height, width) of the common grid.
        merge: (image, token, span): 1 where a token belongs to a span, else 0.
        resolve: by what to keep apart; "head" means heads of layers, so it resolves layers too.
    """

    def __init__(
        self, grid: Grid, merge: Float[Tensor, "image token span"], resolve: Collection[Axis] = ()
    ) -> None:
        self.grid, self.merge = grid, merge
        self.by_step = "step" in resolve
        self.by_layer = "layer" in resolve or "head" in resolve
        self.by_head = "head" in resolve
        self.empty()

    def empty(self) -> None:
        """Forget all that was added."""
        self.steps = 0
        self.total: Tensor | None = None
        self.step_sums: list[Tensor] = []
        self.layer_sums: dict[str, list[Tensor]] = {}
        self.heads: dict[str, int] = {}
        self._step: Tensor | None = None
        self._seen: set[str] = set()

    @property
    def seen(self) -> Collection[str]:
        """Names of the layers that have been added since the step began."""
        return self._seen

    @property
    def bytes_held(self) -> int:
        """Bytes of all tensors that are kept."""
        kept = [self.merge, *self.step_sums, *(one for sums in self.layer_sums.values() for one in sums)]
        kept += [one for one in (self.total, self._step) if one is not None]
        return sum(one.numel() * one.element_size() for one in kept)

    def begin_step(self) -> None:
        """Begin a step; what an unfinished one has added to resolved steps is forgotten."""
        self._seen, self._step = set(), None

    def add(
        self, layer: str, grid: Grid, portions: Iterator[Float[Tensor, "image _heads position token"]]
    ) -> None:
        """Add one layer's attention, a portion of its heads at a time."""
        self._seen.add(layer)
        heads, spans, summed = 0, [], None
        for portion in portions:
            heads += portion.shape[1]
            part = portion.sum(1)
            summed = part if summed is None else summed.add_(part)
            if self.by_head:
                spans.append(portion @ self._merge(portion.device)[:, None])
        assert summed is not None
        self.heads[layer] = heads
        self._add_pooled(pool(summed.unflatten(1, grid), self.grid))
        if self.by_layer:
            merged = torch.cat(spans, 1) if self.by_head else self._of_spans(summed)[:, None] / heads
            self._add_layer(layer, merged.unflatten(2, grid))

    def end_step(self) -> None:
        """End a step: from here on it counts."""
        self.steps += 1
        if self.by_step and self._step is not None:
            self.step_sums.append(self._step)
        self._step = None

    def mean(self) -> Float[Tensor, "image height width token"]:
        """Mean over steps, layers and heads: each step and each head of each layer weighs the same."""
        assert self.total is not None
        return self.total / (self.steps * sum(self.heads.values()))

    def step_means(self) -> Float[Tensor, "step image height width span"]:
        """Of each step the mean over layers and heads."""
        return torch.stack(self.step_sums) / sum(self.heads.values())

    def layer_means(self) -> Mapping[str, Float[Tensor, "step image head _height _width span"]]:
        """Of each layer all steps, or one: their mean; all heads, or one: their mean."""
        steps = 1 if self.by_step else self.steps
        return {name: torch.stack(sums) / steps for name, sums in self.layer_sums.items()}

    def _add_pooled(self, pooled: Float[Tensor, "image height width token"]) -> None:
        self.total = pooled.clone() if self.total is None else self.total.add_(pooled)
        if self.by_step:
            spans = self._of_spans(pooled.flatten(1, 2)).unflatten(1, self.grid)
            self._step = spans if self._step is None else self._step.add_(spans)

    def _add_layer(self, layer: str, merged: Float[Tensor, "image head _height _width span"]) -> None:
        sums = self.layer_sums.setdefault(layer, [])
        if self.by_step or not sums:
            sums.append(merged)
        else:
            sums[0].add_(merged)

    def _of_spans(self, maps: Float[Tensor, "image position token"]) -> Tensor:
        return maps @ self._merge(maps.device)

    def _merge(self, device: torch.device) -> Tensor:
        self.merge = self.merge.to(device)
        return self.merge


def merging(spans: Sequence[Sequence[tuple[int, ...]]], tokens: int) -> Float[Tensor, "image token span"]:
    """1 where a token belongs to a span; images with fewer spans than others get empty ones."""
    most = max((len(image) for image in spans), default=0)
    merge = torch.zeros(len(spans), tokens, most)
    for image, own in enumerate(spans):
        for place, indices in enumerate(own):
            merge[image, list(indices), place] = 1.0
    return merge
