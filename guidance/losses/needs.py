"""What a loss needs beside maps and spans, declared on it so that it is checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import GuidanceError
from ..maps import AttentionMaps
from .reading import Spans

Need = Literal["pairs", "last", "groups", "boxes", "self_attention", "previous"]
Loss = Callable[..., Float[Tensor, "batch"]]
Losses = Mapping[Loss, float] | Sequence[Loss]

F = TypeVar("F", bound=Callable[..., Any])

_KEYWORDS: frozenset[str] = frozenset({"last", "groups", "boxes", "previous"})


def needs(*required: str, optional: Sequence[str] = ()) -> Callable[[F], F]:
    """Declare on a loss what it needs beside maps and spans; a loss without it is called as `(maps, spans)`.

    - "pairs": at least two spans an image (an image without any is left alone).
    - "last": the keyword `last`, where each prompt's own tokens end (see `Reading`).
    - "groups": the keyword `groups`, each image's nouns with their modifiers, at least one.
    - "boxes": the keyword `boxes`, for each image and span its box, mask or None, at least one.
    - "self_attention": `maps.self_attention()`, which is recorded only where a loss needs it.
    - "previous": the keyword `previous`, each image's maps of the step before, or None at the first step.

    What is `optional` is passed where it is known, and nothing is demanded.

    Raises:
        GuidanceError: a need that there is not.
    """
    unknown = [name for name in (*required, *optional) if name not in get_args(Need)]
    if unknown:
        raise GuidanceError(
            f"a loss cannot need {', '.join(map(repr, unknown))}; the needs are: {', '.join(get_args(Need))}"
        )

    def declared(loss: F) -> F:
        loss.required = frozenset(required)  # type: ignore[attr-defined]
        loss.optional = frozenset(optional)  # type: ignore[attr-defined]
        return loss

    return declared


def required_by(loss: Loss) -> frozenset[str]:
    """What a loss cannot do without, also where it was given settings by `functools.partial`."""
    return frozenset(getattr(_bare(loss), "required", ()))


def taken_by(loss: Loss) -> frozenset[str]:
    """The keywords that a loss takes beside maps and spans."""
    return (required_by(loss) | frozenset(getattr(_bare(loss), "optional", ()))) & _KEYWORDS


def name_of(loss: Loss) -> str:
    """A loss by the name that messages and records call it."""
    bare = _bare(loss)
    return str(getattr(bare, "__name__", type(bare).__name__))


def weighted(losses: Any) -> tuple[tuple[Loss, float], ...]:
    """Losses with their weights, in their order; a sequence of losses means the weight 1 for each.

    Raises:
        GuidanceError: no loss at all, something that cannot be called, or a weight that is no finite number.
    """
    if not isinstance(losses, Mapping | Sequence) or isinstance(losses, str) or not losses:
        raise GuidanceError(
            "losses are a mapping of loss to weight, such as {attend_and_excite: 1.0, overlap: 0.5}, or a "
            f"list of losses; got {losses!r}"
        )
    pairs = tuple(losses.items()) if isinstance(losses, Mapping) else tuple((loss, 1.0) for loss in losses)
    for loss, weight in pairs:
        if not callable(loss):
            raise GuidanceError(f"a loss is a function (maps, spans) -> one value an image; got {loss!r}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise GuidanceError(f"the weight of {name_of(loss)} is a finite number; got {weight!r}")
    return pairs


def weighted_sum(losses: Losses, maps: AttentionMaps, spans: Spans, **given: Any) -> Float[Tensor, "batch"]:
    """The sum of losses times their weights, one value an image.

    Formula: sum over losses l of w_l L_l(maps, spans, and what l declares to need of `given`). Its range is
    the sum of their ranges times their weights.

    Raises:
        GuidanceError: a loss that needs what is not given, that gives no value an image, or whose value
        does not depend on the maps although it is not 0.
    """
    values = [weight * _value(loss, maps, spans, given) for loss, weight in weighted(losses)]
    return torch.stack(values).sum(0) if len(values) > 1 else values[0]


def beyond(loss: Loss, aim: float) -> Loss:
    """A loss that is satisfied at an aim: relu(loss - aim), 0 where the aim is reached; needs the same.

    Raises:
        GuidanceError: an aim that is no finite number.
    """
    if not math.isfinite(aim):
        raise GuidanceError(f"an aim is a finite number; got {aim}")

    @needs(*required_by(loss), optional=tuple(taken_by(loss) - required_by(loss)))
    def hinge(maps: AttentionMaps, spans: Spans, **given: Any) -> Float[Tensor, "batch"]:
        return (loss(maps, spans, **given) - aim).relu()

    hinge.__name__ = f"{name_of(loss)} beyond {aim:g}"
    return hinge


def _value(loss: Loss, maps: AttentionMaps, spans: Spans, given: Mapping[str, Any]) -> Tensor:
    missing = (required_by(loss) & _KEYWORDS) - set(given)
    if missing:
        raise GuidanceError(
            f"{name_of(loss)} needs {', '.join(sorted(missing))}; got {', '.join(given) or 'none'}"
        )
    value = loss(maps, spans, **{name: given[name] for name in taken_by(loss) & set(given)})
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != (maps.batch,):
        raise GuidanceError(f"{name_of(loss)} gives one value an image, shape ({maps.batch},); got {shape}")
    followed = any(layer.requires_grad for layer in maps.layers.values()) and torch.is_grad_enabled()
    if followed and not value.requires_grad and bool(value.any()):
        raise GuidanceError(
            f"the value of {name_of(loss)} has no gradient: compute it from the maps with torch, and "
            "without detach() or item()"
        )
    return value


def _bare(loss: Any) -> Any:
    while isinstance(loss, partial):
        loss = loss.func
    return loss
