"""The generic rules on any wiring: one stream, two that attend to each other, encoder and decoder.

All methods on wirings can be had from here. They answer `{stream: (row, token)}`: the relevance of the tokens
of the readout's own stream, and of every stream that it attends to. The one token that a score is read from
has relevance 0 for itself, as in the published read-outs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .baselines import (
    attention_grad_cam,
    attribution,
    gradient_rollout,
    last_relevance,
    raw_attention,
    rollout,
)
from .errors import InputError
from .rows import Cams, Heads, Result, finish, get, plain, seen, start_row
from .rules import normalise_residual, row_times
from .wiring import CrossStep, Readout, SelfStep, TogetherStep, Wiring

__all__ = [
    "Cams",
    "Heads",
    "Result",
    "attention_grad_cam",
    "attribution",
    "generic",
    "gradient_rollout",
    "last_relevance",
    "raw_attention",
    "rollout",
]

Matrices = dict[tuple[str, str], Tensor]
"""R by (stream, context), (row, query, key)."""


def generic(
    wiring: Wiring,
    cams: Cams,
    readout: Readout,
    *,
    normalise: bool = True,
    aggregate: bool = True,
    self_in_rule_10: bool = True,
    start_layer: int = 0,
) -> Result:
    """The generic rules, Chefer et al. 2021 (ICCV), Eq. 6 to 11, in the order of the wiring.

    From R_ss = I and R_sq = 0, with the context q of a stream s and any stream x:

        self-attention    R_sx <- R_sx + cam R_sx                      Eq. 6 and 7
        cross-attention   R_sq <- R_sq + (R-bar_ss)^T cam R-bar_qq     Eq. 10
                          R_sx <- R_sx + cam R_qx, x not q             Eq. 11, which is x = s

    all from the values before the step, and before all steps of a `TogetherStep`. Where nothing attends from
    the context (DETR's encoder) there is no R_qs and Eq. 11 adds nothing. A stream of self-attentions alone
    is read by one row, carried from the top down. The identity that R starts with is no evidence and is taken
    off.

    Args:
        cams: Eq. 5, see `fuse`; with LRP relevance in place of probabilities the rules of transformer
            attribution.
        normalise: use Eq. 8 and 9 in Eq. 10.
        aggregate: add to R. False is the published ablation: what a step makes replaces R, so under
            co-attention R_ss becomes cam R_qs, which is 0 after the first such step.
        self_in_rule_10: False is the published ablation: Eq. 10 adds the cam alone.
        start_layer: the first self-attention layer of every stream; negative counts from its top.

    Raises:
        InputError: for an attention that is missing, a stream or layer that is not there, or normalisation
            without aggregation of cross-attentions: R then holds no identity for Eq. 8 to take off.
    """
    wiring = seen(wiring, readout, start_layer)
    if wiring.is_plain:
        return {readout.stream: plain(wiring, cams, readout, aggregate)}
    if normalise and not aggregate:
        raise InputError(
            "without aggregation there is no identity in R for Eq. 8 to take off: set normalise=False too, "
            "as the paper's own ablation does, or aggregate=True"
        )
    relevance = _start(wiring, cams)
    for step in wiring.steps:
        found = (
            _self_addition(relevance, step.stream, get(cams, step.site))
            if isinstance(step, SelfStep)
            else _cross_additions(relevance, step, cams, normalise, self_in_rule_10)
        )
        for key, addition in found.items():
            relevance[key] = relevance[key] + addition if aggregate and key in relevance else addition
    return _read(relevance, cams, readout, aggregate)


def _start(wiring: Wiring, cams: Cams) -> Matrices:
    """R before the first step: I for every stream, 0 for every stream and its context."""
    sizes: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    for step in wiring.flat:
        cam = get(cams, step.site)
        sizes[step.stream] = cam.shape[1]
        if isinstance(step, CrossStep):
            sizes[step.context] = cam.shape[2]
            pairs.append((step.stream, step.context))
    zeros = {(s, q): cam.new_zeros(len(cam), sizes[s], sizes[q]) for s, q in pairs}
    eyes = {name: torch.eye(size, dtype=cam.dtype, device=cam.device) for name, size in sizes.items()}
    return zeros | {(name, name): eye.expand(len(cam), *eye.shape) for name, eye in eyes.items()}


def _self_addition(relevance: Matrices, stream: str, cam: Tensor) -> Matrices:
    """Eq. 6 and 7."""
    return {(s, x): cam @ matrix for (s, x), matrix in relevance.items() if s == stream}


def _cross_additions(
    relevance: Matrices, step: CrossStep | TogetherStep, cams: Cams, normalise: bool, self_in_rule_10: bool
) -> Matrices:
    """Eq. 10 and 11 of one cross-attention, or of several that see the same old values."""
    found: Matrices = {}
    for part in step.steps if isinstance(step, TogetherStep) else (step,):
        cam = get(cams, part.site)
        own, other = (relevance[name, name] for name in (part.stream, part.context))
        if normalise:
            own, other = normalise_residual(own), normalise_residual(other)
        additions = {(part.stream, part.context): own.mT @ cam @ other if self_in_rule_10 else cam}
        for (q, x), matrix in relevance.items():
            if q == part.context and x != q:
                additions[part.stream, x] = cam @ matrix
        for key, addition in additions.items():
            found[key] = found[key] + addition if key in found else addition
    return found


def _read(relevance: Matrices, cams: Cams, readout: Readout, aggregate: bool) -> Result:
    row = start_row(cams, readout)
    rows = {x: row_times(row, matrix) for (s, x), matrix in relevance.items() if s == readout.stream}
    return rows | {readout.stream: finish(rows[readout.stream], readout, has_identity=aggregate)}
