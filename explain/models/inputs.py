"""Checks of words, masks and regions, and their segments, shared by the adapters of models that take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import InputError
from ..wiring import Segment
from .common import check_tokens

_BYPASSES = ("inputs_embeds", "encoder_outputs", "past_key_values", "decoder_inputs_embeds")


def check_whole(inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that skip a part of the model, whose attention would then be missing.

    Raises:
        InputError: names the input that must go.
    """
    for name in _BYPASSES:
        if inputs.get(name) is not None:
            raise InputError(f"leave out {name}: it skips a part of the model, which could not be explained")


def check_mask(inputs: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> None:
    """Refuse a mask of another shape, or one that hides the whole of an input.

    Raises:
        InputError: says what was wanted, and what came.
    """
    mask = inputs.get(name)
    if mask is None:
        return
    if not isinstance(mask, Tensor) or tuple(mask.shape) != shape:
        came = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"{name} must be a tensor of shape {shape}, got {came}")
    seen = mask.bool().flatten(1).any(-1)
    if not seen.all():
        raise InputError(
            f"{name} hides the whole of input {int(seen.float().argmin())}: nothing is left to see"
        )


def check_words(inputs: Mapping[str, Any], config: Any, longest: int) -> None:
    """Refuse token ids that are no text: not of this vocabulary, too many, or nothing but [CLS] and [SEP].

    Raises:
        InputError: says which of these.
    """
    check_tokens(inputs, vocabulary=config.vocab_size, longest=longest)
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    check_mask(inputs, "attention_mask", tuple(ids.shape))
    counts = real_tokens(ids, mask, config.pad_token_id).sum(-1)
    if counts.min() < 3:
        raise InputError(
            f"text {int(counts.argmin())} is empty: it has {int(counts.min())} tokens, of which the first "
            "and the last only open and close it"
        )


def real_tokens(ids: Tensor, mask: Tensor | None, padding: int | None) -> Bool[Tensor, "batch token"]:
    """Which tokens are not padding."""
    if mask is not None:
        return mask.bool()
    return ids.ne(-1 if padding is None else padding)


def word_tokens(ids: Tensor, mask: Tensor | None, padding: int | None) -> Bool[Tensor, "batch token"]:
    """Which tokens are parts of words: not padding, nor what opens and closes texts, wherever it stands.

    A pair of texts has a closing token in its midst, too.
    """
    real = real_tokens(ids, mask, padding)
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    first = places.masked_fill(~real, ids.shape[1]).amin(-1, keepdim=True)
    last = places.masked_fill(~real, -1).amax(-1, keepdim=True)
    return real & (places != first) & (ids != ids.gather(1, last))


def word_segment(stream: str, inputs: Mapping[str, Any], padding: int | None, rows: int) -> Segment:
    """The words of `input_ids`, which come first in their stream."""
    ids = inputs["input_ids"]
    words = word_tokens(ids, inputs.get("attention_mask"), padding)
    return Segment("text", stream, slice(0, ids.shape[1]), mask=words.expand(rows, -1))


def check_regions(inputs: Mapping[str, Any], name: str, channels: int) -> None:
    """Refuse region features of another width, not as many as texts, or with a mask that does not fit them.

    Raises:
        InputError: says what was wanted, and what came.
    """
    regions, texts = inputs[name], len(inputs["input_ids"])
    shape = tuple(regions.shape)
    if len(shape) != 3 or 0 in shape or shape[0] != texts or shape[2] != channels:
        raise InputError(f"{name} must be ({texts} texts, regions, {channels} channels), got shape {shape}")
    check_mask(inputs, "visual_attention_mask", shape[:2])


def check_boxes(boxes: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse boxes of another shape, or in pixels where parts of the image are wanted.

    Raises:
        InputError: says what was wanted, and what came.
    """
    if tuple(boxes.shape) != shape:
        raise InputError(f"visual_pos must be of shape {shape}, got {tuple(boxes.shape)}")
    lowest, highest = float(boxes.min()), float(boxes.max())
    if lowest < -1e-3 or highest > 1 + 1e-3:
        raise InputError(
            "visual_pos must hold boxes as parts of the image's width and height, 0 to 1, got "
            f"{lowest:g} to {highest:g}: divide them by the image's size"
        )


def region_segment(stream: str, positions: slice, inputs: Mapping[str, Any], rows: int) -> Segment:
    """The regions that a detector found, padding left out."""
    mask: Tensor | None = inputs.get("visual_attention_mask")
    return Segment("regions", stream, positions, mask=None if mask is None else mask.bool().expand(rows, -1))
