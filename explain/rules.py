"""Relevance rules on plain tensors: heads fused, then one row, or all rows, carried through the layers.

A *cam* is one attention with its heads fused, (row, query, key). The relevance that a score reads is one row
of the whole matrix, so that row alone is carried, from the top layer down: O(layers tokens^2) for O(layers
tokens^3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import CaptureError, InputError

Fusion = Literal["mean", "max", "min"]
"""How heads become one: the mean of the papers, or the greatest or smallest value of any head."""
_FUSED: Final[dict[str, Callable[..., Tensor]]] = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}


def fuse(
    attention: Float[Tensor, "row head query key"],
    gradient: Float[Tensor, "row head query key"] | None = None,
    *,
    fusion: str = "mean",
    signed: bool = False,
) -> Float[Tensor, "row query key"]:
    """Fuse the heads of one attention: E_h[(dA * A)^+], Chefer et al. 2021 (ICCV), Eq. 5.

    Each head is clamped before the heads are fused. Without a gradient this is the plain fusion that rollout
    takes. With LRP relevance in place of the probabilities it is the cam of transformer attribution (CVPR
    2021).

    Args:
        attention: probabilities, or their relevance.
        gradient: of the score with respect to the probabilities.
        fusion: "mean", "max" or "min" over the heads, by value.
        signed: keep the negative part, which the paper drops.

    Raises:
        InputError: for another fusion.
    """
    if fusion not in _FUSED:
        raise InputError(f"heads are fused by one of {', '.join(_FUSED)}; got {fusion!r}")
    weighted = attention if gradient is None else attention * gradient
    if gradient is not None and not signed:
        weighted = weighted.clamp(min=0)
    return _FUSED[fusion](weighted, dim=1)


def grad_cam(
    attention: Float[Tensor, "row head query key"],
    gradient: Float[Tensor, "row head query key"],
    *,
    signed: bool = False,
) -> Float[Tensor, "row query key"]:
    """Attention Grad-CAM of one layer: E_h[mean(dA_h) A_h]^+, the Grad-CAM baseline of Chefer et al. 2021.

    The heads are the channels of Grad-CAM, weighted by their mean gradient; the clamp comes after their mean.
    """
    cam = (attention * gradient.mean((-2, -1), keepdim=True)).mean(1)
    return cam if signed else cam.clamp(min=0)


def propagate_row(
    row: Float[Tensor, "row token"], cam: Float[Tensor, "row token token"]
) -> Float[Tensor, "row token"]:
    """Carry a row of relevance one layer down: r + r cam, a row of Eq. 6 when layers come top first."""
    return row + row_times(row, cam)


def row_times(
    row: Float[Tensor, "row query"], matrix: Float[Tensor, "row query key"]
) -> Float[Tensor, "row key"]:
    """Multiply the row vector of every row with its matrix."""
    return (row[:, None] @ matrix)[:, 0]


def row_relevance(
    cams_top_first: Iterable[Float[Tensor, "row token token"]], weights: Float[Tensor, "row token"]
) -> Float[Tensor, "row token"]:
    """The row `weights @ R` of the R that `self_relevance` makes, without ever making it."""
    row = weights
    for cam in cams_top_first:
        row = propagate_row(row, cam)
    return row


def self_relevance(
    cams_bottom_first: Sequence[Float[Tensor, "row token token"]], start_layer: int = 0
) -> Float[Tensor, "row token token"]:
    """All of R for a stack of self-attentions: R <- R + cam R from R = I, Chefer et al. 2021, Eq. 6.

    Raises:
        InputError: without layers, or for a start layer that is not there.
    """
    cams = cams_bottom_first[position(start_layer, len(cams_bottom_first), "layer") :]
    relevance = torch.eye(cams[0].shape[-1], dtype=cams[0].dtype, device=cams[0].device).expand_as(cams[0])
    for cam in cams:
        relevance = relevance + cam @ relevance
    return relevance


def position(index: int, count: int, what: str) -> int:
    """The index, from 0, of one of `count` layers, heads or tokens; negative ones count from the end.

    Raises:
        InputError: if there is no such one.
    """
    if not -count <= index < count:
        choices = f"give one from {-count} to {count - 1}" if count else "there are none"
        raise InputError(f"there is no {what} {index}: {choices}")
    return index % count


def normalise_residual(relevance: Float[Tensor, "row token token"]) -> Float[Tensor, "row token token"]:
    """Give what tokens gathered beside themselves the weight of 1: R-bar of Chefer et al. 2021, Eq. 8 and 9.

    R-hat = R - I is divided by its row sums and I is added again: rows sum to 2. A row of zeros stays zero,
    and its R-bar is I; the published code divides it by 0 and then drops the whole addition of Eq. 10. Signed
    rows are divided by the sum of their absolute values, which for the unsigned ones of the paper is the
    same.
    """
    identity = torch.eye(relevance.shape[-1], dtype=relevance.dtype, device=relevance.device)
    gathered = relevance - identity
    total = gathered.abs().sum(-1, keepdim=True)
    return gathered / total.masked_fill(total == 0, 1) + identity


def rollout_layer(cam: Float[Tensor, "row token token"]) -> Float[Tensor, "row token token"]:
    """One layer of attention rollout: I + cam, its rows normalised to sum to 1.

    For probabilities this is 0.5 A + 0.5 I (Abnar & Zuidema 2020, section 4).
    """
    mixed = cam + torch.eye(cam.shape[-1], dtype=cam.dtype, device=cam.device)
    return mixed / mixed.sum(-1, keepdim=True)


def legrad(
    gradients: Sequence[Float[Tensor, "row _ _ key"]], *, signed: bool = False
) -> Float[Tensor, "row key"]:
    """LeGrad (Bousselham et al. 2025): the mean over layers, heads and queries of (ds_l / dA_l)^+.

    Args:
        gradients: for every layer l the gradient of the score s_l, which the model's head reads from that
            layer's tokens, with respect to the layer's own attention. For a pooling head: of its one query,
            layer by layer.
        signed: keep the negative part. The paper then stretches the map from 0 to 1: left to who draws it.

    Raises:
        InputError: without layers.
    """
    if not gradients:
        raise InputError("LeGrad needs the gradient of at least one layer; got none")
    parts = [each if signed else each.clamp(min=0) for each in gradients]
    return torch.stack([part.mean((1, 2)) for part in parts]).mean(0)


def without_readout(
    relevance: Float[Tensor, "row token"], weights: Float[Tensor, "row token"]
) -> Float[Tensor, "row token"]:
    """Set to 0 what the token that a score is read from ([CLS], a box query) says of itself, as published.

    Where the score reads several tokens (a mean) all of them keep theirs.
    """
    return relevance.masked_fill(weights == 1, 0)


class RowAccumulator:
    """Carries the row of Eq. 5 and 6 through the layers while the gradients arrive, and stores no gradient.

    Backward reaches the attentions top layer first, which is the order that `propagate_row` wants. A hook on
    each takes its gradient, carries the row and lets the gradient go: O(head query key) of memory instead of
    O(layer head query key). It takes one backward, for instance `torch.autograd.grad(scores.sum(),
    attention[0])`; use it as a context manager, or call `remove`.

    Args:
        attention: probabilities, (row, head, query, key), bottom layer first, in the graph of the score. The
            start layer of the rule is the first that is given.
        weights: the row to start with, see `Readout`.
        pooled: the last attention is a pooling one, (row, head, pooling query, token), and the weights are
            those of its queries.
        fusion, signed: as for `fuse`.
        scale: what the score was multiplied by against underflow; gradients are divided by it.

    Raises:
        CaptureError: for an attention outside any graph.
        InputError: without attentions.
    """

    def __init__(
        self,
        attention: Sequence[Float[Tensor, "row _ _ token"]],
        weights: Float[Tensor, "row _"],
        *,
        pooled: bool = False,
        fusion: str = "mean",
        signed: bool = False,
        scale: float = 1.0,
    ) -> None:
        if not attention:
            raise InputError("a row is carried through at least one attention; got none")
        if outside := [index for index, each in enumerate(attention) if not each.requires_grad]:
            raise CaptureError(
                f"attentions {outside} of {len(attention)} are in no autograd graph: run the forward under "
                "heedful.explain.capture, with gradients enabled"
            )
        self._weights, self._row = weights, weights
        self._pooled, self._scale = pooled, scale
        self._fuse = partial(fuse, fusion=fusion, signed=signed)
        self._layers, self._next = len(attention), len(attention) - 1
        self._handles = [
            each.register_hook(partial(self._arrive, index, each.detach()))
            for index, each in enumerate(attention)
        ]

    @property
    def relevance(self) -> Float[Tensor, "row token"]:
        """What `generic` answers for the stream: without the identity, the token that is read set to 0.

        Raises:
            CaptureError: before a backward has reached all attentions.
        """
        if self._next >= 0:
            raise CaptureError(
                f"gradients of {self._next + 1} of {self._layers} attentions have not arrived: run a "
                "backward from the score down to the first attention"
            )
        return self._row if self._pooled else without_readout(self._row - self._weights, self._weights)

    def remove(self) -> None:
        """Take the hooks off; the result stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> RowAccumulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _arrive(self, index: int, attention: Tensor, gradient: Tensor) -> None:
        if index != self._next:
            raise CaptureError(
                f"the gradient of attention {index} arrived where that of {self._next} was due: give the "
                "attentions of one stream, bottom layer first, and run one backward for each accumulator"
            )
        cam = self._fuse(attention, gradient.detach().to(attention.dtype) / self._scale)
        is_pool = self._pooled and index == self._layers - 1
        self._row = row_times(self._row, cam) if is_pool else propagate_row(self._row, cam)
        self._next -= 1
