"""What the adapters share: inputs looked at before the forward, classes found by id, label or function."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError, TargetError, UnsupportedMethodError
from ..wiring import CrossStep, SelfStep, Site, Step, Wiring
from .family import Reading, Target


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size that a config gives as one number or as two."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


def grid_of(pixels: Float[Tensor, "_ _ height width"], patch: int | Sequence[int]) -> tuple[int, int]:
    """How many whole patches lie over the image, (height, width): what remains at the edge is not seen."""
    height, width = pair(patch)
    return pixels.shape[2] // height, pixels.shape[3] // width


def check_call(model: Any, inputs: Mapping[str, Any], *needed: str) -> None:
    """Refuse a call whose inputs are not all there as tensors, or that would answer with a bare tuple.

    Raises:
        InputError: names what is needed, and what came.
    """
    for name in needed:
        if not isinstance(inputs.get(name), Tensor):
            came = type(inputs[name]).__name__ if name in inputs else f"only {', '.join(inputs) or 'nothing'}"
            raise InputError(
                f"{type(model).__name__} needs {', '.join(needed)} as tensors; for {name} came {came}. "
                'Pass what the model\'s processor returns with return_tensors="pt"'
            )
    if inputs.get("return_dict", getattr(model.config, "return_dict", True)) is False:
        raise InputError("return_dict=False hides the names of the model's outputs: leave it out")


def check_image(inputs: Mapping[str, Any], config: Any, *, interpolates: bool) -> None:
    """Refuse `pixel_values` that the model would fail on obscurely, or place wrongly.

    Args:
        config: with `num_channels`, `image_size` and `patch_size`.
        interpolates: whether this call fits the positions to the size of the image.

    Raises:
        InputError: says what was wanted, and what came.
    """
    pixels: Tensor = inputs["pixel_values"]
    if pixels.ndim != 4 or pixels.shape[0] == 0 or pixels.shape[1] != config.num_channels:
        raise InputError(
            f"pixel_values must be (batch, {config.num_channels} channels, height, width), "
            f"got shape {tuple(pixels.shape)}"
        )
    if not pixels.is_floating_point():
        raise InputError(
            f"pixel_values must be floats, scaled as the model's processor does, got {pixels.dtype}"
        )
    if not pixels.isfinite().all():
        raise InputError("pixel_values hold NaN or infinite values")
    _check_size(tuple(pixels.shape[2:]), pair(config.image_size), pair(config.patch_size), interpolates)


def _check_size(
    came: tuple[int, ...], trained: tuple[int, int], patch: tuple[int, int], interpolates: bool
) -> None:
    if not interpolates and came != trained:
        raise InputError(
            f"the images are {came[0]} x {came[1]} (height x width), the model's {trained[0]} x "
            f"{trained[1]}: resize them, or pass interpolate_pos_encoding=True if the model takes it"
        )
    if interpolates and trained[0] != trained[1]:
        raise InputError(
            f"transformers cannot interpolate the positions of a model for {trained[0]} x {trained[1]} "
            "images: it takes their grid for a square"
        )
    if came[0] < patch[0] or came[1] < patch[1]:
        raise InputError(
            f"the images are {came[0]} x {came[1]}, smaller than one patch of {patch[0]} x {patch[1]}"
        )


def check_tokens(inputs: Mapping[str, Any], *, vocabulary: int, longest: int) -> None:
    """Refuse `input_ids` that are not ids of this vocabulary, too long, or unlike their mask.

    Raises:
        InputError: says what was wanted, and what came.
    """
    ids: Tensor = inputs["input_ids"]
    if ids.ndim != 2 or 0 in ids.shape or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(
            f"input_ids must be whole numbers, (batch, token), got {ids.dtype} of shape {tuple(ids.shape)}"
        )
    if ids.shape[1] > longest:
        raise InputError(f"the texts are {ids.shape[1]} tokens long, the model reads at most {longest}")
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise InputError(
            f"input_ids must lie between 0 and {vocabulary - 1}, got {int(ids.min())} to {int(ids.max())}: "
            "are they another model's?"
        )
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids.shape):
        came = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"attention_mask must have the shape of input_ids, {tuple(ids.shape)}, got {came}")


def label_of(config: Any, index: int) -> str:
    """The name of a class, as far as the config knows it."""
    return str((getattr(config, "id2label", None) or {}).get(index, f"class {index}"))


def class_id(config: Any, target: int | str, count: int) -> int:
    """The class that an id or a label names; 0 is a class, negative numbers are none.

    Raises:
        TargetError: an id outside the classes, a label that is unknown (naming the nearest) or ambiguous.
    """
    if isinstance(target, bool) or not isinstance(target, Integral | str):
        raise TargetError(f"a class is an id or a label, got {type(target).__name__} {target!r}")
    if isinstance(target, Integral):
        if not 0 <= target < count:
            raise TargetError(
                f"there is no class {target}: the model has {count}, 0 ({label_of(config, 0)}) to "
                f"{count - 1} ({label_of(config, count - 1)})"
            )
        return int(target)
    labels = [label_of(config, index) for index in range(count)]
    found = [index for index, label in enumerate(labels) if label == target]
    if len(found) > 1:
        raise TargetError(f'several classes are called "{target}": pass one of their ids, {found}')
    if not found:
        near = difflib.get_close_matches(target, labels, n=3, cutoff=0.0)
        raise TargetError(
            f'no label "{target}" among the model\'s {count}; nearest: {", ".join(near)}. '
            "model.config.id2label lists them all"
        )
    return found[0]


Answer = tuple[Callable[[Any], Tensor], tuple[str, ...], Target]
"""What gives the rows' scores from outputs, the targets in words, and a target that fixes these rows."""


def ask_classes(config: Any, logits: Float[Tensor, "batch label"], target: Target) -> Answer:
    """Which classes the rows are about, and the function that reads their scores off any outputs.

    One target goes to every image; several go one to each image, or all to a single image. None takes the
    predicted class of every image. For a callable see `ask_function`.

    Raises:
        TargetError: a class that is not there, or as many targets as there are neither images nor one image.
    """
    batch, count = logits.shape
    if target is None:
        ids = logits.argmax(dim=1).tolist()
    elif isinstance(target, Sequence) and not isinstance(target, str):
        ids = [class_id(config, each, count) for each in target]
        if not ids or (batch > 1 and len(ids) != batch):
            raise TargetError(f"{len(ids)} targets for {batch} images: pass one for all, or one for each")
    else:
        ids = [class_id(config, target, count)] * batch  # type: ignore[arg-type]

    def score(outputs: Any) -> Tensor:
        rows = torch.arange(len(ids)) if batch > 1 else torch.zeros(len(ids), dtype=torch.long)
        return outputs.logits[rows, ids]

    return score, tuple(label_of(config, index) for index in ids), ids


def ask_function(function: Callable[[Any], Tensor], outputs: Any, batch: int, *, many: bool) -> Answer:
    """A user's own score: one number for each of `batch` inputs; for a single one as many as are wanted.

    Args:
        many: whether several scores of a single input are several rows.

    Raises:
        TargetError: something else than such numbers, or numbers that do not depend on the outputs.
    """

    def score(outputs: Any) -> Tensor:
        found = function(outputs)
        wanted = f"a tensor of {batch} floats, one for each row" + (", or of any number" if many else "")
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise TargetError(f"the target function must return {wanted}; it returned {type(found).__name__}")
        rows = found.reshape(1) if found.ndim == 0 and batch == 1 else found
        if rows.ndim != 1 or not len(rows) or (len(rows) != batch and not many):
            raise TargetError(f"the target function must return {wanted}; got shape {tuple(found.shape)}")
        if not rows.requires_grad:
            raise TargetError("the target function's scores do not depend on the outputs by any gradient")
        return rows

    name = getattr(function, "__name__", type(function).__name__)
    count = len(score(outputs))
    words = (name,) * count if count == batch else tuple(f"{name}[{row}]" for row in range(count))
    return score, words, function


def ask_again(reading: Reading, outputs: Any) -> Float[Tensor, "row"]:
    """The scores of `reading`, had the model answered with `outputs` (those of a lower layer, LeGrad).

    Raises:
        UnsupportedMethodError: the target is a function of outputs that lower layers do not have.
    """
    if reading.score_of is None:
        raise UnsupportedMethodError("this reading holds no function that scores a lower layer's outputs")
    try:
        return reading.score_of(outputs)
    except (TypeError, AttributeError, KeyError, TargetError) as error:
        have = ", ".join(name for name, value in outputs.items() if value is not None)
        raise UnsupportedMethodError(
            f"the target function cannot score a lower layer, for which there are only {have}: {error}"
        ) from error


def encoder_decoder(model: Any, encoder: str, decoder: str) -> Wiring:
    """The encoder's layers, then for every decoder layer its own tokens, and these on the encoder's.

    Args:
        model: with the modules' names that BART and the models after it have.
        encoder, decoder: what their streams are called.
    """
    steps: list[Step] = [
        SelfStep(encoder, Site(f"model.encoder.layers.{layer}.self_attn"))
        for layer in range(len(model.model.encoder.layers))
    ]
    for layer in range(len(model.model.decoder.layers)):
        name = f"model.decoder.layers.{layer}"
        steps.append(SelfStep(decoder, Site(f"{name}.self_attn")))
        steps.append(CrossStep(decoder, encoder, Site(f"{name}.encoder_attn")))
    return Wiring(tuple(steps))
