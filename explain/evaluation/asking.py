"""How protocols ask a model: inputs as a mapping, answers as (row, label), whatever the family is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import InputError

Inputs = Mapping[str, Any]
"""What the model takes. Every tensor has one entry a row; what is no tensor is an option for all rows."""
Ask = Callable[[Inputs], Float[Tensor, "row label"]]
"""Logits of every label for every row, in the autograd graph. Rows must not influence each other."""
_NAMES = ("logits", "question_answering_score", "logits_per_image")


def logits_of(model: nn.Module, name: str | None = None) -> Ask:
    """Ask a model of transformers.

    Args:
        name: the output that holds (row, label); None: logits, question_answering_score (LXMERT), or
            logits_per_image.

    Raises:
        InputError: a model in training mode; when asked, an output that is not there.
    """
    if model.training:
        raise InputError(
            f"{type(model).__name__} is in training mode, where answers are random: model.eval()"
        )

    def ask(inputs: Inputs) -> Tensor:
        outputs = model(**inputs)
        names = _NAMES if name is None else (name,)
        found = next((one for one in names if getattr(outputs, one, None) is not None), None)
        if found is None:
            raise InputError(
                f"wanted the output {' or '.join(names)}; there are: {', '.join(outputs.keys())}"
            )
        return getattr(outputs, found)

    return ask


def zero_shot(model: nn.Module, texts: Inputs) -> Ask:
    """Ask a CLIP or SigLIP which of fixed texts fits an image: labels are texts, rows are images."""
    return lambda inputs: model(**inputs, **texts).logits_per_image


def retrieval(model: nn.Module, images: Inputs) -> Ask:
    """Ask a CLIP or SigLIP which of fixed images fits a text: labels are images, rows are texts."""
    return lambda inputs: model(**inputs, **images).logits_per_text


def remembered(ask: Ask) -> Ask:
    """The same ask, which answers a row that it has seen before from memory; not where gradients are wanted.

    Methods that agree on what goes first ask the same questions, and so do protocols. Rows are told apart by
    the bytes of all their tensors. What it has seen is kept as long as it lives: one for each batch of cases.
    """
    seen: dict[tuple[bytes, ...], Tensor] = {}

    def answer(inputs: Inputs) -> Tensor:
        if torch.is_grad_enabled():
            return ask(inputs)
        keys = _keys(inputs)
        fresh = list({key: row for row, key in enumerate(keys) if key not in seen}.values())
        if fresh:
            found = ask(picked(inputs, torch.tensor(fresh)))
            if len(found) != len(fresh):
                return ask(inputs)  # for `answers` to refuse
            seen.update(zip((keys[row] for row in fresh), found, strict=True))
        return torch.stack([seen[key] for key in keys])

    return answer


def _keys(inputs: Inputs) -> list[tuple[bytes, ...]]:
    """A digest of every row."""
    whole = [value.detach().cpu().contiguous() for value in inputs.values() if isinstance(value, Tensor)]
    rows = [each.reshape(len(each), -1).view(torch.uint8).numpy() for each in whole]
    options = repr({name: each for name, each in inputs.items() if not isinstance(each, Tensor)}).encode()
    return [
        (options, *(hashlib.blake2b(each[row].tobytes(), digest_size=16).digest() for each in rows))
        for row in range(row_count(inputs))
    ]


def probabilities(ask: Ask, inputs: Inputs) -> Float[Tensor, "row label"]:
    """The softmax of the answers, without a graph, on the CPU in float64.

    In float32 a sure answer's probability is 1 up to rounding, and so would be all differences of it.

    Raises:
        InputError: answers that are not (row, label), or not finite.
    """
    with torch.no_grad():
        return answers(ask, inputs).cpu().double().softmax(-1)


def answers(ask: Ask, inputs: Inputs) -> Float[Tensor, "row label"]:
    """The logits, in float32, looked at.

    Raises:
        InputError: as `probabilities`.
    """
    rows, found = row_count(inputs), ask(inputs)
    if found.ndim != 2 or len(found) != rows:
        raise InputError(f"the model must answer with ({rows} rows, label), got shape {tuple(found.shape)}")
    if not found.isfinite().all():
        raise InputError("the model's answer holds NaN or infinite values; load it in float32")
    return found.float()


def chosen(values: Float[Tensor, "row label"], labels: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Each row's value of its own label.

    Raises:
        InputError: a label that the model does not have.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < values.shape[1]:
        raise InputError(
            f"labels must lie between 0 and {values.shape[1] - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    return values.gather(1, labels.to(values.device)[:, None])[:, 0]


def row_count(inputs: Inputs) -> int:
    """How many rows the inputs hold.

    Raises:
        InputError: tensors of different lengths, or none.
    """
    lengths = {name: len(value) for name, value in inputs.items() if isinstance(value, Tensor)}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InputError(
            f"every tensor of the inputs must have one entry a row; lengths: {lengths or 'none'}"
        )
    return next(iter(lengths.values()))


def picked(inputs: Inputs, rows: Tensor) -> dict[str, Any]:
    """The inputs of these rows, which a mask or indices name; indices may repeat."""
    return {
        name: value[rows.to(value.device)] if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
