"""Targets that name one of a model's many answers: a box, a word's place. And where a score is read."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import TargetError
from .common import Answer
from .family import Target

One = int | str | None
"""What a single row asks for, callables aside."""


def rows_of(target: Target, batch: int) -> list[One]:
    """What every row asks: one target serves all inputs, several go one to each, or all to a single one.

    Raises:
        TargetError: something else than numbers and names, or not as many as there are inputs.
    """
    each: Sequence[Any] = target if isinstance(target, (list, tuple)) else [target] * batch
    for one in each:
        if one is not None and (isinstance(one, bool) or not isinstance(one, (Integral, str))):
            raise TargetError(f"a target is a number, a name, a function or None; it was {one!r}")
    if not each or batch not in (1, len(each)):
        raise TargetError(f"{len(each)} targets for {batch} inputs: pass one for all, or one for each")
    return list(each)


def entries(rows: int, batch: int) -> Int[Tensor, "row"]:
    """Which input of the batch each row belongs to."""
    return torch.arange(rows) if batch == rows else torch.zeros(rows, dtype=torch.long)


def one_hot(positions: Int[Tensor, "row"], tokens: int) -> Float[Tensor, "row token"]:
    """Read-out weights of scores that each read one token."""
    return torch.nn.functional.one_hot(positions, tokens).float()


def touched(
    scores: Float[Tensor, "row"], tokens: Float[Tensor, "batch token channel"]
) -> Float[Tensor, "row token"]:
    """Read-out weights of any score: equal shares of the tokens on which its gradient is not zero.

    For functions of the outputs, which may read whatever token they like.

    Raises:
        TargetError: a score that reads none of these tokens.
    """
    parts = []
    for row, entry in enumerate(entries(len(scores), len(tokens)).tolist()):
        (slope,) = torch.autograd.grad(scores[row], tokens, retain_graph=True, allow_unused=True)
        parts.append(torch.zeros_like(tokens[0, :, 0]) if slope is None else slope[entry].ne(0).any(-1))
    read = torch.stack(parts).float()
    if not read.any(-1).all():
        raise TargetError("the target function does not depend on the model's answer to its own input")
    return read / read.sum(-1, keepdim=True)


def ask_places(
    logits: Float[Tensor, "batch token word"],
    target: Target,
    *,
    mask: Tensor | None = None,
    last: bool = False,
) -> tuple[Answer, Int[Tensor, "row"]]:
    """What the rows say of places in a text: the likeliest word there; and these places.

    Args:
        mask: (batch, token), zero where padding stands.
        last: let None ask for the last place that is no padding.

    Raises:
        TargetError: a place that is not there, or none at all.
    """
    batch, length, _ = logits.shape
    rows = rows_of(target, batch)
    of = entries(len(rows), batch).to(logits.device)
    real = torch.ones(batch, length, dtype=torch.bool) if mask is None else mask.bool().cpu()
    picked = [_place(one, real[entry], last) for one, entry in zip(rows, of.tolist(), strict=True)]
    places = torch.tensor(picked, device=logits.device)
    likeliest = logits.detach()[of, places].argmax(-1)
    words = tuple(
        f"word {word} at place {place}" for word, place in zip(likeliest.tolist(), picked, strict=True)
    )

    def score(outputs: Any) -> Tensor:
        return outputs.logits[of, places, likeliest]

    return (score, words, score), places


def _place(one: One, real: Bool[Tensor, "token"], last: bool) -> int:
    if one is None and last:
        return int(real.nonzero().max())
    if isinstance(one, Integral) and 0 <= int(one) < len(real) and real[int(one)]:
        return int(one)
    raise TargetError(
        f"the target is a place in the text, 0 to {int(real.nonzero().max())} here, or a function of the "
        f"outputs; it was {one!r}"
    )
