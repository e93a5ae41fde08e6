"""Carries out `heedful explain`: opens the image, loads model and processor, asks every method."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from .. import explain as room
from ..explain.evidence import Evidence
from ..explain.models import Family, family_of
from ..explain.relevance import prepared
from .explain_settings import ExplainSettings
from .loading import embedded, load_model, load_processor, seen_box
from .machine import choose, one_line
from .settings import UsageError


@dataclass(frozen=True, eq=False)
class Question:
    """A model with an image as it takes it, and what is asked of both.

    Attributes:
        inputs: what the model takes, on its device.
        shown: the part of the image that the model sees.
        corner: where that part begins in the image, (x, y) in pixels.
        words: the tokens of the texts, as text.
    """

    model: Any
    family: Family
    inputs: dict[str, Any]
    shown: Image.Image
    corner: tuple[float, float]
    target: list[Any] | None = None
    words: list[list[str]] | None = None


def open_image(path: Path) -> Image.Image:
    """The image in RGB, upright, what is transparent in white.

    Raises:
        UsageError: a file that is not there or is no image.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as problem:
        reason = getattr(problem, "strerror", None) or one_line(problem)
        raise UsageError(f"cannot read the image {path}: {reason}") from problem
    paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, image).convert("RGB")


def pose(settings: ExplainSettings, image: Image.Image) -> Question:
    """Load the model, and prepare the image and the texts for it.

    Raises:
        UsageError: a model that is not there, or that cannot be asked this.
        ExplainError: a model of no known family.
    """
    device, dtype = choose(settings.device, settings.dtype)
    name = settings.model or embedded("clip" if settings.texts else "classifier")
    model = load_model(name, device, getattr(torch, dtype), named=settings.model is not None)
    family = family_of(model)
    _check_kind(model, settings)
    processor = load_processor(name, texts=bool(settings.texts))
    pictured = getattr(processor, "image_processor", processor)
    left, top, right, bottom = seen_box(pictured, image.size)
    inputs, words = _encoded(model, processor, settings, image)
    return Question(
        model=model,
        family=family,
        inputs=_paired(model, family, inputs),
        shown=image.crop((round(left), round(top), round(right), round(bottom))),
        corner=(left, top),
        target=[_label(model, label) for label in settings.labels] or None,
        words=words,
    )


def answer(settings: ExplainSettings, question: Question) -> Iterator[room.Relevance]:
    """Every method's answer, in the order of the methods; texts are the targets' names.

    Raises:
        ExplainError: what the model or a method refuses.
        UsageError: a query outside what the model sees, or too little memory.
    """
    for method in settings.chosen:
        asked = {"layer": settings.layer, "head": settings.head, "seed": settings.seed}
        if method == "raw_attention" and settings.query is not None:
            asked["query"] = token_at(question, settings.query)
        known = room.settings_of(method)
        own = {name: value for name, value in asked.items() if value is not None and name in known}
        try:
            found = room.explain(
                question.model, question.inputs, question.target, method, words=question.words, **own
            )
        except torch.OutOfMemoryError as problem:
            raise UsageError(f"out of memory at {method}; ask for fewer texts or labels at once") from problem
        yield replace(found, targets=settings.texts) if settings.texts else found


def patch_at(question: Question, query: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """The (row, column) of the patch at a point of the image.

    Raises:
        UsageError: a point that the model does not see.
    """
    x, y = query[0] - question.corner[0], query[1] - question.corner[1]
    width, height = question.shown.size
    if not (0 <= x < width and 0 <= y < height):
        left, top = round(question.corner[0]), round(question.corner[1])
        raise UsageError(
            f"--query {query[0]:g},{query[1]:g} lies outside what the model sees of the image: x {left} to "
            f"{left + width - 1}, y {top} to {top + height - 1}"
        )
    return int(y * grid[0] / height), int(x * grid[1] / width)


def token_at(question: Question, query: tuple[float, float]) -> int:
    """The token of the patch at a point of the image."""
    inputs = prepared(question.model, question.inputs)
    reading = Evidence(question.model, question.family, inputs, question.target).reading
    segment = next(part for part in reading.segments if part.kind == "image")
    assert segment.grid is not None
    row, column = patch_at(question, query, segment.grid)
    return int(segment.positions.start or 0) + row * segment.grid[1] + column


def _check_kind(model: Any, settings: ExplainSettings) -> None:
    """Refuse questions that this kind of model does not answer."""
    takes = inspect.signature(model.forward).parameters
    kind = type(model).__name__
    if "pixel_values" not in takes:
        raise UsageError(f"{kind} takes no image; explain it in Python with heedful.explain.explain")
    if settings.texts and "input_ids" not in takes:
        raise UsageError(f"{kind} takes no text; use --label, or nothing for what it predicts")
    if not settings.texts and "input_ids" in takes:
        raise UsageError(f'{kind} compares an image with texts; give it one or several: --text "a cat"')


def _encoded(
    model: Any, processor: Any, settings: ExplainSettings, image: Image.Image
) -> tuple[dict[str, Any], list[list[str]] | None]:
    try:
        if not settings.texts:
            return dict(processor(images=image, return_tensors="pt")), None
        # SigLIP was trained on texts filled up to its full length, and reads their last place.
        padding = "max_length" if model.config.model_type.startswith("siglip") else True
        found = processor(text=list(settings.texts), images=image, padding=padding, return_tensors="pt")
    except (ValueError, TypeError, AttributeError) as problem:
        raise UsageError(f"the model's processor refused: {one_line(problem)}") from problem
    words = [processor.tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in found["input_ids"]]
    return dict(found), words


def _paired(model: Any, family: Family, inputs: dict[str, Any]) -> dict[str, Any]:
    """An image for each text, where a model reads both together and cannot share it."""
    texts = len(inputs.get("input_ids", ()))
    if texts < 2:
        return inputs
    try:
        family.check(model, inputs)
    except room.InputError:
        return {**inputs, "pixel_values": inputs["pixel_values"].repeat(texts, 1, 1, 1)}
    return inputs


def _label(model: Any, label: str) -> int | str:
    """A class by its number, unless a label is called so."""
    labels = (getattr(model.config, "id2label", None) or {}).values()
    return int(label) if label.isdecimal() and label not in labels else label
