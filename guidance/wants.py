"""What an objective's losses need of the prompts, found and checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import GuidanceError
from .groups import Group, GroupSource, Phrase, find_groups, groups_of
from .losses import Losses, name_of, required_by, taken_by, weighted
from .regions import Region, region
from .tokens import Span

Groups = Sequence[Phrase] | Sequence[Sequence[Phrase]] | GroupSource | None
Placed = Mapping[str, Any]
Boxes = Placed | Sequence[Placed] | None
FoundSpans = Sequence[Sequence[Span]]


def needed(losses: Losses) -> frozenset[str]:
    """All that any of the losses needs or takes."""
    return frozenset(need for loss, _ in weighted(losses) for need in required_by(loss) | taken_by(loss))


def find_context(
    losses: Losses,
    tokenizer: Any,
    prompts: Sequence[str] | None,
    spans: FoundSpans,
    groups: Groups,
    boxes: Boxes,
) -> dict[str, list[Any]]:
    """What the losses take of each prompt beside its spans, by their keyword, one entry a prompt.

    Raises:
        GuidanceError: a loss does not get what it needs; a box for a word that is none of the spans.
        TokenNotFoundError: a group whose words the prompt does not hold.
    """
    wanted = needed(losses)
    found: dict[str, list[Any]] = {}
    if "groups" in wanted:
        found["groups"] = _groups(tokenizer, prompts, spans, groups)
    if "boxes" in wanted:
        found["boxes"] = _boxes(spans, boxes)
    for loss, _ in weighted(losses):
        _check(name_of(loss), required_by(loss), spans, found)
    return found


def one_a_prompt(given: Any, images: int, name: str, is_one: Callable[[Any], bool]) -> list[Any]:
    """What was given for each prompt: one value for all of them (`is_one` tells), or a list of one each.

    Raises:
        GuidanceError: a list of another length.
    """
    if given is None or is_one(given):
        return [given] * images
    if len(given) != images:
        raise GuidanceError(
            f"{name} has {len(given)} lists for {images} prompt{'s'[: images != 1]}; give one list a prompt"
        )
    return list(given)


def _groups(
    tokenizer: Any, prompts: Sequence[str] | None, spans: FoundSpans, given: Groups
) -> list[tuple[Group, ...]]:
    if prompts is None:
        return [()] * len(spans)
    asked = [given(prompt) for prompt in prompts] if callable(given) else None
    phrases = asked or one_a_prompt(given, len(prompts), "groups", _are_phrases)
    return [
        groups_of(tokenizer, prompt, own) if named is None else find_groups(tokenizer, prompt, named)
        for prompt, own, named in zip(prompts, spans, phrases, strict=True)
    ]


def _are_phrases(given: Any) -> bool:
    return not given or all(isinstance(one, str | tuple) for one in given)


def _boxes(spans: FoundSpans, given: Boxes) -> list[tuple[Region | None, ...]]:
    placed = one_a_prompt(given, len(spans), "boxes", lambda one: isinstance(one, Mapping))
    return [_placed(own, boxes or {}) for own, boxes in zip(spans, placed, strict=True)]


def _placed(spans: Sequence[Span], boxes: Placed) -> tuple[Region | None, ...]:
    names = {word.casefold(): region(given) for word, given in boxes.items()}
    labels = [span.label.casefold() for span in spans]
    strange = [word for word in boxes if word.casefold() not in labels]
    if strange and spans:
        raise GuidanceError(
            f"a box is given for {', '.join(map(repr, strange))}, which is none of the guided words: "
            f"{', '.join(span.label for span in spans)}"
        )
    return tuple(names.get(label) for label in labels)


def _check(name: str, required: frozenset[Any], spans: FoundSpans, found: Mapping[str, list[Any]]) -> None:
    for image, own in enumerate(spans):
        labels = ", ".join(span.label for span in own)
        if not own:
            continue
        if "pairs" in required and len(own) < 2:
            raise GuidanceError(
                f"{name} compares words and needs at least two; prompt {image} has one: {labels}"
            )
        if "groups" in required and not found["groups"][image]:
            raise GuidanceError(
                f"{name} needs a noun with a modifier; prompt {image} has none among its words: {labels}. "
                'Give words=["red bow"] or groups=["red bow"], or groups=spacy_groups()'
            )
        if "boxes" in required and not any(box is not None for box in found["boxes"][image]):
            raise GuidanceError(
                f"{name} needs a box or a mask; prompt {image} has none for its words: {labels}. Give "
                f'boxes={{"{own[0].label}": (left, top, right, bottom)}} in shares of the image'
            )
