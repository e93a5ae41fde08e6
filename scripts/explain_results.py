"""What `heedful explain` leaves behind: a sheet of all maps, and a file of numbers a method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from ..explain import Relevance, Tile, sheet
from ..explain.picture import readable, strips
from .explain import Question, patch_at
from .explain_settings import ExplainSettings

SIDE, ACROSS = 256, 4


@dataclass(frozen=True)
class Finding:
    """One target by one method: the model's score, where relevance peaks in the image, and on which word."""

    target: str
    score: float
    method: str
    peak: tuple[int, int]
    word: str | None


def findings(question: Question, answers: Sequence[Relevance]) -> list[Finding]:
    """One for each target and method, the methods of a target together."""
    found = []
    for row in range(len(answers[0].targets)):
        for answer in answers:
            peak, word = _peak(question, answer, row), _word(answer, row)
            found.append(Finding(answer.targets[row], answer.scores[row], answer.method, peak, word))
    return found


def save(
    out: Path, settings: ExplainSettings, question: Question, answers: Sequence[Relevance]
) -> list[Path]:
    """Write the sheet and every method's maps; returns their paths, the sheet first."""
    stem = re.sub(r"[^a-z0-9]+", "-", settings.image.stem.lower()).strip("-")[:48].strip("-") or "image"
    paths = [out / f"{stem}-sheet.png"]
    page(settings, question, answers).save(paths[0])
    for answer in answers:
        paths.append(out / f"{stem}-{answer.method}.safetensors")
        answer.save(paths[-1])
    return paths


def page(settings: ExplainSettings, question: Question, answers: Sequence[Relevance]) -> Image.Image:
    """The sheet: methods side by side for each target, or one method's targets side by side."""
    title = f"{settings.image.name}: {answers[0].model}"
    image = Tile(
        _marked(settings, question, answers[0], _enlarged(question.shown)), "the image as the model sees it"
    )
    if len(answers) == 1:
        return sheet(_targets(settings, question, answers[0], image), title=f"{title}, {answers[0].method}")
    rows: list[Cells] = []
    labels: list[str] = []
    for row, target in enumerate(answers[0].targets):
        rows += _lines([image], [(answer, row) for answer in answers], settings, question)
        labels += [target] + [""] * (len(rows) - len(labels) - 1)
    columns = ["", *(answer.method for answer in answers)]
    return sheet(rows, title=title, column_labels=columns, row_labels=labels)


Cells = list[Tile | Image.Image | None]


def _targets(settings: ExplainSettings, question: Question, answer: Relevance, image: Tile) -> list[Cells]:
    rows: list[Cells] = []
    for start in range(0, len(answer.targets), ACROSS):
        cells = [(answer, row) for row in range(start, min(start + ACROSS, len(answer.targets)))]
        rows += _lines([None if rows else image], cells, settings, question)
    return rows


def _lines(
    first: Sequence[Tile | None],
    cells: Sequence[tuple[Relevance, int]],
    settings: ExplainSettings,
    question: Question,
) -> list[Cells]:
    """Maps over the image, and under them the words of each."""
    shown = _enlarged(question.shown)
    maps: Cells = [*first]
    for answer, row in cells:
        drawn = _marked(settings, question, answer, answer.overlay(shown, row))
        maps.append(Tile(drawn, _caption(settings, answer, row)))
    under = [[column for line in strips(answer, [row], SIDE) for column in line] for answer, row in cells]
    if settings.query is not None or not any(under):
        return [maps]
    return [maps, [None, *(parts[0] if parts else None for parts in under)]]


def _caption(settings: ExplainSettings, answer: Relevance, row: int) -> str:
    if settings.query is None or answer.method != "raw_attention":
        return f"{answer.targets[row]} ({answer.scores[row]:.3g})"
    layer, head = answer.settings["layer"], answer.settings["head"]
    heads = f"{answer.settings['fusion']} of its heads" if head is None else f"head {head}"
    return f"what the patch attends to, layer {layer}, {heads}"


def _marked(
    settings: ExplainSettings, question: Question, answer: Relevance, image: Image.Image
) -> Image.Image:
    """The image with the query's patch framed, where there is one."""
    if settings.query is None or answer.image is None:
        return image
    height, width = answer.image.shape[1:]
    row, column = patch_at(question, settings.query, (height, width))
    across, down = image.width / width, image.height / height
    frame = (column * across, row * down, (column + 1) * across - 1, (row + 1) * down - 1)
    marked = image.copy()
    draw = ImageDraw.Draw(marked)
    draw.rectangle(frame, outline=(0, 0, 0), width=4)
    draw.rectangle(frame, outline=(255, 255, 255), width=2)
    return marked


def _enlarged(image: Image.Image) -> Image.Image:
    """At least as large as the sheet shows it: heat is drawn smoothly, not in the image's own few pixels."""
    scale = max(1.0, SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _peak(question: Question, answer: Relevance, row: int) -> tuple[int, int]:
    """The middle of the patch with the largest value, (x, y) in pixels of the image as it was given."""
    assert answer.image is not None
    height, width = answer.image.shape[1:]
    place = divmod(int(answer.image[row].argmax()), width)
    x = question.corner[0] + (place[1] + 0.5) * question.shown.width / width
    y = question.corner[1] + (place[0] + 0.5) * question.shown.height / height
    return int(x), int(y)


def _word(answer: Relevance, row: int) -> str | None:
    if answer.text is None or answer.words is None:
        return None
    return readable(answer.words[row][int(answer.text[row].argmax())])
