"""The methods that the generic rules are compared with, on any wiring: rollouts, single layers, attribution.

All answer `{stream: (row, token)}` for the readout's own stream and every stream that it attends to itself.
The one token that a score is read from has relevance 0 for itself, as in the published read-outs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .errors import InputError
from .rows import Cams, Heads, Result, finish, get, last_crosses, plain, seen, start_row
from .rules import fuse, grad_cam, position, rollout_layer, row_times
from .wiring import CrossStep, Readout, Site, Wiring


def attribution(wiring: Wiring, cams: Cams, readout: Readout, *, start_layer: int = 0) -> Result:
    """Transformer attribution (Chefer et al., CVPR 2021), as a baseline of their ICCV 2021 paper.

    The readout's own stream by Eq. 6 over its self-attentions, prod(I + cam); each context by the cam of the
    last cross-attention to it. `generic` with the same cams uses all the rules instead.

    Args:
        cams: `fuse(relevance, gradient)` of the readout's own self-attentions and last cross-attentions.
        start_layer: the first self-attention layer; negative counts from the top.

    Raises:
        InputError: for an attention that is missing, or a stream or layer that is not there.
    """
    wiring = seen(wiring, readout, start_layer)
    own = Wiring(wiring.of(readout.stream))
    result = {readout.stream: plain(own, cams, readout, True)} if own.steps else {}
    start = start_row(cams, readout)
    for context, index in last_crosses(wiring, readout.stream).items():
        result[context] = row_times(start, get(cams, list(wiring.flat)[index].site))
    return result


def rollout(wiring: Wiring, maps: Cams, readout: Readout, *, start_layer: int = 0) -> Result:
    """Attention rollout: the product of 0.5 A + 0.5 I over layers (Abnar & Zuidema 2020), a row of it.

    Between streams as in the code of Chefer et al. 2021: (rollout_ss)^T A_sq rollout_qq with the last
    attention A_sq from s to q and the self-attentions before it, mixed with no identity. Rows of the own
    stream sum to 1, less the entry of a single token that is read; rows over other streams do not.

    Args:
        maps: probabilities with their heads fused, without a gradient.
        start_layer: the first self-attention layer of every stream; negative counts from its top.

    Raises:
        InputError: for an attention that is missing, or a stream or layer that is not there.
    """
    return _rolled(wiring, maps, readout, rollout_layer, start_layer)


def gradient_rollout(
    wiring: Wiring, cams: Cams, readout: Readout, *, normalise: bool = False, start_layer: int = 0
) -> Result:
    """Gradient rollout in its two forms; between streams as `rollout` does.

    Not normalised: the product of 0.5 (I + cam) with cam = E_h[(A * dA)^+]. Normalised, as in the widely used
    code of vit-explain: the cam is clamped once its heads are fused, and rows of I + cam are divided by their
    sums over the keys, each layer with its own gradient (that code divides along the wrong axis, and pairs
    layers with gradients in the reverse order). It therefore wants cams with both signs.

    Args:
        cams: `fuse(attention, gradient)`; with `signed=True` for the normalised form.
        normalise: which form.
        start_layer: the first self-attention layer of every stream; negative counts from its top.

    Raises:
        InputError: for an attention that is missing, or a stream or layer that is not there.
    """
    if normalise:
        clamped = {site: cam.clamp(min=0) for site, cam in cams.items()}
        return _rolled(wiring, clamped, readout, rollout_layer, start_layer)
    return _rolled(wiring, cams, readout, _halved, start_layer)


def raw_attention(
    wiring: Wiring,
    attention: Heads,
    readout: Readout,
    *,
    layer: int = -1,
    head: int | None = None,
    fusion: str = "mean",
    query: int | None = None,
) -> Result:
    """The attention of one layer: its own stream's, and that to each context.

    Args:
        layer: counts the self-attentions of the stream, and its attentions to a context; negative from the
            top. A pooling attention is the top one.
        head: one head alone; None fuses them by `fusion`.
        query: the token that looks, in place of the readout's; it keeps the attention that it pays itself.

    Raises:
        InputError: for a layer, head or token that is not there.
    """

    def view(site: Site) -> Tensor:
        heads = get(attention, site)
        if head is None:
            return fuse(heads, fusion=fusion)
        return heads[:, position(head, heads.shape[1], "head")]

    return _look(wiring, readout, layer, view, query)


def attention_grad_cam(
    wiring: Wiring,
    attention: Heads,
    gradient: Heads,
    readout: Readout,
    *,
    layer: int = -1,
    signed: bool = False,
) -> Result:
    """Attention Grad-CAM of one layer, see `grad_cam`; the layer as for `raw_attention`.

    Raises:
        InputError: for a layer that is not there, or an attention that is missing.
    """

    def view(site: Site) -> Tensor:
        return grad_cam(get(attention, site), get(gradient, site), signed=signed)

    return _look(wiring, readout, layer, view)


def last_relevance(
    wiring: Wiring, relevance: Heads, readout: Readout, *, layer: int = -1, signed: bool = False
) -> Result:
    """Partial LRP (Voita et al. 2019, as in Chefer et al., CVPR 2021): the relevance of one layer's
    attention.

    E_h[(R_A)^+]. Signed, the heads are averaged as they are: the ICCV 2021 code does so and then stretches
    the map from 0 to 1, which orders the tokens alike.

    Args:
        relevance: LRP relevance of the probabilities.
        layer: as for `raw_attention`.

    Raises:
        InputError: for a layer that is not there, or an attention that is missing.
    """

    def view(site: Site) -> Tensor:
        heads = get(relevance, site)
        return (heads if signed else heads.clamp(min=0)).mean(1)

    return _look(wiring, readout, layer, view)


def _halved(cam: Tensor) -> Tensor:
    return (cam + torch.eye(cam.shape[-1], dtype=cam.dtype, device=cam.device)) / 2


def _rolled(
    wiring: Wiring, maps: Cams, readout: Readout, mix: Callable[[Tensor], Tensor], start_layer: int
) -> Result:
    """A row of the product of mixed self-attentions, and of the products over each context."""
    wiring = seen(wiring, readout, start_layer)
    start, own = _mixed_start(maps, readout, mix), wiring.of(readout.stream)
    row = start
    for step in reversed(own):
        row = row_times(row, mix(get(maps, step.site)))
    result = {readout.stream: finish(row, readout)} if own else {}
    steps = list(wiring.flat)
    for context, index in last_crosses(wiring, readout.stream).items():
        below = Wiring(tuple(steps[:index]))
        row = start
        for step in below.of(readout.stream):  # the transposed product, hence the bottom layer first
            row = row_times(row, mix(get(maps, step.site)).mT)
        row = row_times(row, get(maps, steps[index].site))
        for step in reversed(below.of(context)):
            row = row_times(row, mix(get(maps, step.site)))
        result[context] = row
    return result


def _mixed_start(maps: Cams, readout: Readout, mix: Callable[[Tensor], Tensor]) -> Tensor:
    """The first row of a rollout: a pooling query is mixed as one more token, which sees all the others."""
    if readout.pool is None:
        return readout.weights
    pool = get(maps, readout.pool)
    queries = pool.shape[1]
    square = pad(pool, (queries, 0, 0, pool.shape[2]))  # the queries come first, and tokens do not see them
    return row_times(readout.weights, mix(square)[:, :queries, queries:])


def _look(
    wiring: Wiring, readout: Readout, layer: int, view: Callable[[Site], Tensor], query: int | None = None
) -> Result:
    """The row of one layer's maps: the stream's own, and that over each context."""
    wiring, stream = seen(wiring, readout), readout.stream
    own = [step.site for step in wiring.of(stream)]
    if readout.pool is not None and query is None:
        own.append(readout.pool)
    result: Result = {}
    if own:
        chosen = own[position(layer, len(own), f"attention layer of stream {stream!r}")]
        if readout.pool is not None and query is None and chosen != readout.pool:
            raise InputError(
                f"stream {stream!r} is read by a pooling attention, its layer {len(own) - 1}: for another "
                "layer say which token looks (query)"
            )
        row = _gaze(view(chosen), readout, query)
        result[stream] = row if query is not None else finish(row, readout)
    for context in last_crosses(wiring, stream):
        sites = [
            s.site
            for s in wiring.flat
            if isinstance(s, CrossStep) and (s.stream, s.context) == (stream, context)
        ]
        what = f"attention layer of stream {stream!r} to {context!r}"
        result[context] = _gaze(view(sites[position(layer, len(sites), what)]), readout, query)
    return result


def _gaze(cam: Tensor, readout: Readout, query: int | None) -> Tensor:
    if query is None:
        return row_times(readout.weights, cam)
    return cam[:, position(query, cam.shape[1], "token")]
