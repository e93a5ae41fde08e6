"""Carries out what the page's third tab asks of the layers of a vision model: a picture, and its numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..explain.probing import draw_attention, draw_similarity
from ..explain.probing.head_statistics import head_statistics
from ..explain.probing.heads import head_maps
from ..explain.probing.plots import png
from ..explain.probing.removal import Removal, without
from ..explain.probing.sift import concentration
from ..explain.probing.similarity import minibatches, similarity, twin
from ..explain.probing.spurious import Spurious, find_spurious
from ..explain.probing.tower import tower_of
from ..pictures import Tile, overlay, scaled, sheet
from .errors import Cancelled, PageError
from .probe_pictures import SIDE, circled, enlarged, framed, opened

DISTANCE, HEADS, SIMILARITY, SIFT, SPURIOUS = (
    "attention distance", "head maps", "similarity", "SIFT keypoints", "spurious patches",
)  # fmt: skip
PROBES: Final = (DISTANCE, HEADS, SIMILARITY, SIFT, SPURIOUS)
TWIN: Final = "the same, random weights"
"""What a model can be compared with besides other models: its own architecture, untrained."""
ALONE: Final = (HEADS, SIFT, SPURIOUS)
"""What looks at one image alone."""
BATCH: Final = 8
"""Images of a minibatch: intervals are over minibatches, so that there had better be many."""

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Seer:
    """A model of images, and what its processor makes of them.

    Attributes:
        model: in eval mode.
        prepare: images to pixels as the model takes them, and the part of each image that it sees.
    """

    model: Any
    prepare: Callable[
        [Sequence[Image.Image]], tuple[Float[Tensor, "image channel height width"], list[Image.Image]]
    ]


@dataclass(frozen=True, eq=False)
class ProbeQuestion:
    """What the third tab asks.

    Attributes:
        probe: one of `PROBES`.
        images: what is looked at; those of `ALONE` look at the first.
        model: a folder or a hub id, or one of the embedded models by name.
        other: the one that it is compared with, or `TWIN`.
        point: (x, y) of the patch whose attention is shown, each 0..1 of what the model sees; None is [CLS].
    """

    probe: str
    images: tuple[Image.Image, ...]
    model: str
    other: str = ""
    point: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Finding:
    """What came back: a picture with what it shows in words, and a table.

    Attributes:
        picture: what was found; `alt`: the same in words, in short.
        columns, rows: of the table, as they are shown.
        note: how to read it, and where it comes from.
        grid: the (rows, columns) of the model's patches over the image; None where several are looked at.
        shown: what the model sees of the image; None where several are looked at.
    """

    picture: Image.Image
    alt: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str
    grid: tuple[int, int] | None = None
    shown: Image.Image | None = None


def probed(
    question: ProbeQuestion,
    see: Callable[[str], Seer],
    tell: Tell = lambda what, done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Finding:
    """Ask what the question asks of the model that it names.

    Args:
        see: a model by its name, loaded.
        tell: told what is done, how many steps of how many (0 of 0 where nobody knows).
        cancelled: asked between steps; where it says so, nothing is kept.

    Raises:
        PageError: for a probe that is not there, or without an image.
        ExplainError: what the model or the images do not allow.
        Cancelled: when it was told to stop.
    """
    if question.probe not in PROBES:
        raise PageError(f'there is no probe "{question.probe}"; there are: {", ".join(PROBES)}')
    if not question.images:
        raise PageError("there is no image: upload one, or take a scene")

    def step(what: str, done: int = 0, total: int = 0) -> None:
        if cancelled():
            raise Cancelled("the probe was cancelled; nothing was kept")
        tell(what, done, total)

    step(f"loading {question.model}")
    seer = see(question.model)
    step(f"looking: {question.probe}")
    if question.probe == SIMILARITY:
        return _similarity(question, seer, see, step)
    return _CARRIED_OUT[question.probe](question, seer, step)


def _distance(question: ProbeQuestion, seer: Seer, step: Any) -> Finding:
    pixels, _ = seer.prepare(question.images)
    found = head_statistics(
        seer.model,
        {"pixel_values": pixels},
        progress=lambda done, total: step("looking: images", done, total),
    )
    local = found.local()
    rows = [
        (
            str(layer),
            f"{float(found.distance.mean(0)[layer].mean()):.1f}",
            f"{float(found.reach[layer].min()):.2f} to {float(found.reach[layer].max()):.2f}",
            f"{int(local[layer].sum())} of {local.shape[1]}",
            f"{float(found.entropy.mean(0)[layer].mean()):.2f}",
            f"{float(found.on_patches.mean(0)[layer].mean()):.0%}",
        )
        for layer in range(len(found.layers))
    ]
    return Finding(
        opened(png(draw_attention.statistics({found.model: found}))),
        "How far and how sharply each head of each layer looks",
        ("layer", "distance, pixels", "reach of heads", "local heads", "entropy, bits", "on patches"),
        tuple(rows),
        f"{_counted(question.images)}. Reach is the distance over that of even attention, "
        f"{found.uniform:.1f} pixels; a local head has less than half of it.",
    )


def _heads(question: ProbeQuestion, seer: Seer, step: Any) -> Finding:
    pixels, shown = seer.prepare(question.images[:1])
    tower = tower_of(seer.model)
    grid = tower.grid(pixels)
    query = None
    if question.point is not None:
        query = int(question.point[1] * grid[0]), int(question.point[0] * grid[1])
    elif not tower.specials:
        query = grid[0] // 2, grid[1] // 2
    found = head_maps(seer.model, {"pixel_values": pixels}, query)
    rows = [
        (
            str(layer),
            f"{float(found.maps[layer].max()):.2f}",
            f"{float(found.on_specials[layer].min()):.0%} to {float(found.on_specials[layer].max()):.0%}",
        )
        for layer in range(len(found.layers))
    ]
    place = "[CLS]" if query is None else f"the patch in row {query[0] + 1}, column {query[1] + 1}"
    return Finding(
        draw_attention.head_sheet(found, shown[0]),
        f"Where {place} looks, in every layer and head",
        ("layer", "highest attention", "on special tokens, by head"),
        tuple(rows),
        f"What {place} attends to in {found.model}, each map stretched to its own range. "
        "Click a patch of the image to see where it looks.",
        grid,
        shown[0],
    )


def _similarity(question: ProbeQuestion, seer: Seer, see: Any, step: Any) -> Finding:
    step(f"loading {question.other}")
    other = Seer(twin(seer.model), seer.prepare) if question.other == TWIN else see(question.other)
    ours, theirs = seer.prepare(question.images)[0], other.prepare(question.images)[0]
    parts = minibatches(question.images, BATCH)
    found = similarity(
        seer.model,
        other.model,
        ((ours[part], theirs[part]) for part in parts),
        progress=lambda done: step("comparing: images", done, len(question.images)),
    )
    ends = found.interval
    rows = []
    for row, (name, nearest, cka) in enumerate(found.nearest()):
        column = found.layers[1].index(nearest)
        low, high = (float(end[row, column]) for end in ends)
        told = f"{low:.2f} to {high:.2f}" if isfinite(low) else "too few images to say"
        rows.append((name, nearest, f"{cka:.2f}", told))
    return Finding(
        opened(png(draw_similarity.heatmap(found))),
        "How alike every layer of the one model is to every layer of the other",
        ("layer", "most like", "CKA", "95 % interval"),
        tuple(rows),
        f"Linear CKA, unbiased, {_counted(question.images)} in {len(parts)} minibatches: 1 where two layers "
        "tell the images apart in the same way, 0 where they are unrelated.",
    )


def _sift(question: ProbeQuestion, seer: Seer, step: Any) -> Finding:
    pixels, shown = seer.prepare(question.images[:1])
    found = concentration(shown, tower_of(seer.model).grid(pixels))
    weights = found.weights()[0]
    order = weights.flatten().argsort(descending=True)[:8].tolist()
    rows = []
    for place in order:
        row, column = divmod(place, found.grid[1])
        if found.count[0, row, column] > 0:
            rows.append(
                (
                    f"{row + 1}, {column + 1}",
                    f"{int(found.count[0, row, column])}",
                    f"{float(weights[row, column]):.0%}",
                    f"{float(found.response[0, row, column]):.3f}",
                )
            )
    image = enlarged(shown[0])
    marked = circled(image, found.points[0], image.width / shown[0].width)
    heat = overlay(image, scaled(weights))
    return Finding(
        sheet([[Tile(marked, "keypoints"), Tile(heat, "keypoints in each patch")]], side=SIDE),
        "SIFT's keypoints over the image, and how many lie in each patch",
        ("patch (row, column)", "keypoints", "share", "summed response"),
        tuple(rows),
        f"{len(found.points[0])} keypoints by OpenCV's SIFT; contrast threshold "
        f"{found.settings['contrast']:g}. The fullest patches are listed.",
        found.grid,
        shown[0],
    )


def _spurious(question: ProbeQuestion, seer: Seer, step: Any) -> Finding:
    if "input_ids" in inspect.signature(seer.model.forward).parameters:
        raise PageError(
            f"{question.model} compares images with texts and has no answer of its own; take a classifier"
        )
    pixels, shown = seer.prepare(question.images[:1])
    inputs = {"pixel_values": pixels}
    grid = tower_of(seer.model).grid(pixels)
    found = find_spurious(seer.model, inputs, concentration(shown, grid))
    asked = without(
        seer.model, inputs, found.flagged, progress=lambda done, total: step("masking", done, total)
    )
    image, count = enlarged(shown[0]), int(found.flagged.sum())
    heat = overlay(image, scaled(found.relevance[0]))
    held = f"; they hold {float(found.share[0]):.0%} of the relevance" if count else ""
    tiles = [
        Tile(framed(image, found), f"framed: {count}" if count else "no patch is flagged"),
        Tile(heat, f"relevance for {found.targets[0]}"),
    ]
    return Finding(
        sheet([tiles], side=SIDE),
        f"The image with {count} suspicious patches framed, and the relevance of its answer",
        ("", "answer", "probability"),
        tuple(_answers(asked, found, seer.model)),
        f"Framed are patches with {found.settings['above']:g} times the mean relevance or more that lie "
        f"outside the largest cluster of keypoints (lighter){held}. A subject without contours can be "
        "flagged, too: look before you believe.",
        grid,
        shown[0],
    )


def _answers(asked: Removal, found: Spurious, model: Any) -> list[tuple[str, ...]]:
    """What the model says with all patches, without those that were flagged, and without as many others."""
    many = getattr(model.config, "problem_type", None) == "multi_label_classification"

    def told(name: str, logits: Float[Tensor, "label"], more: str = "") -> tuple[str, ...]:
        sure = logits.sigmoid() if many else logits.softmax(0)
        return name, asked.labels[int(logits.argmax())] + more, f"{float(sure.max()):.0%}"

    rows = [told("all patches", asked.before[0])]
    if bool(found.flagged.any()):
        rows.append(told("without the framed ones", asked.after[0]))
        changed = float(asked.control_changed[0])
        rows.append(
            told(
                "without as many others", asked.control[:, 0].mean(0), f" (another in {changed:.0%} of draws)"
            )
        )
    return rows


def _counted(images: Sequence[Image.Image]) -> str:
    return "one image" if len(images) == 1 else f"{len(images)} images"


_CARRIED_OUT: Final[Mapping[str, Callable[[ProbeQuestion, Seer, Any], Finding]]] = {
    DISTANCE: _distance,
    HEADS: _heads,
    SIFT: _sift,
    SPURIOUS: _spurious,
}
