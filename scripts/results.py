"""What `heedful generate` leaves behind: images, a contact sheet a prompt, a record to make them again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from ..explain import Tile, overlay, sheet
from ..pipelines.retry import best
from .generate import Drawing
from .settings import RECORD_FORMAT, GenerateSettings, Request, UsageError, to_record


@dataclass(frozen=True)
class WordReport:
    """One word of one image: the attention it reached (0..1, None if none was read), the verdicts on it.

    `verdict` is the judge's, `checked` that of the check by which an image was drawn again.
    """

    word: str
    attention: float | None
    attended: bool | None
    verdict: str | None
    checked: str | None = None

    def __str__(self) -> str:
        if self.attention is None:
            return "not read"
        return f"{self.attention:.2f} {'attended' if self.attended else 'weak'}"


def word_reports(drawing: Drawing) -> list[WordReport]:
    """The report of each watched word, in the order of the words."""
    count = len(drawing.spans)
    peaks = drawing.run.word_attention[0] if drawing.run.word_attention else [None] * count
    attended = drawing.run.attended[0] if drawing.run.attended else [None] * count
    verdicts = drawing.verdicts or [None] * count
    checked = [one.verdict for one in best(drawing.tried).verdict.words] if drawing.tried else [None] * count
    rows = zip(drawing.spans, peaks, attended, verdicts, checked, strict=True)
    return [
        WordReport(span.label, peak, reached, verdict, check) for span, peak, reached, verdict, check in rows
    ]


def make_folder(out: Path) -> None:
    """Make the folder before anything is drawn; `UsageError` if it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UsageError(f"cannot make the folder {out}: {problem.strerror}") from problem


def save_image(out: Path, settings: GenerateSettings, drawing: Drawing) -> None:
    """Write one image as soon as it is there, so that an interrupted run keeps what it has made."""
    drawing.image.save(out / image_name(settings, drawing))


def save_summary(out: Path, settings: GenerateSettings, drawings: Sequence[Drawing]) -> list[Path]:
    """Write a contact sheet a prompt and the record `run.json`; returns their paths, the record last."""
    sheets = [_save_sheet(out, settings, request, own) for request, own in _by_request(drawings)]
    path = out / "run.json"
    text = json.dumps(_record(settings, drawings), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return [*sheets, path]


def image_name(settings: GenerateSettings, drawing: Drawing) -> str:
    """`a-cat-and-a-frog-seed-0-guided.png`; with several prompts numbered, so that no two are the same."""
    return f"{_stem(settings, drawing.request)}-seed-{drawing.seed}-{drawing.kind}.png"


def differences(record: dict[str, Any], settings: GenerateSettings, drawings: Sequence[Drawing]) -> list[str]:
    """The names of images whose pixels are not those of the record."""
    recorded = {image.get("file"): image.get("pixels") for image in record.get("images", [])}
    made = {image_name(settings, drawing): fingerprint(drawing.image) for drawing in drawings}
    return [name for name, pixels in made.items() if recorded.get(name) != pixels]


def fingerprint(image: Image.Image) -> str:
    """SHA-256 of size and pixels: equal for equal images, whatever wrote their files."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def _record(settings: GenerateSettings, drawings: Sequence[Drawing]) -> dict[str, Any]:
    return {
        "format": RECORD_FORMAT,
        "settings": to_record(settings),
        "images": [
            {
                "file": image_name(settings, drawing),
                "prompt": drawing.request.prompt,
                "seed": drawing.seed,
                "kind": drawing.kind,
                "pixels": fingerprint(drawing.image),
                "verdicts": list(drawing.verdicts),
                "run": drawing.run.to_dict(),
                "tried": [one.to_dict() for one in drawing.tried],
            }
            for drawing in drawings
        ],
    }


def _by_request(drawings: Iterable[Drawing]) -> Iterator[tuple[Request, list[Drawing]]]:
    for request, own in groupby(drawings, key=lambda drawing: drawing.request):
        yield request, list(own)


def _save_sheet(out: Path, settings: GenerateSettings, request: Request, drawings: Sequence[Drawing]) -> Path:
    path = out / f"{_stem(settings, request)}-sheet.png"
    words = [report.word for report in word_reports(drawings[0])]
    page = sheet(
        [_row(drawing) for drawing in drawings],
        row_labels=[f"{drawing.kind}, seed {drawing.seed}" for drawing in drawings],
        column_labels=["image", *(f"attention of {word}" for word in words)],
        title=request.prompt,
    )
    page.save(path)
    return path


def _row(drawing: Drawing) -> list[Image.Image | Tile | None]:
    reports = word_reports(drawing)
    maps = drawing.run.maps[0] if drawing.run.maps else [None] * len(reports)
    tiles: list[Image.Image | Tile | None] = [Tile(drawing.image)]
    for report, heat in zip(reports, maps, strict=True):
        caption = f"{report}, {report.verdict}" if report.verdict else str(report)
        tiles.append(None if heat is None else Tile(overlay(drawing.image, heat.clamp(0, 1)), caption))
    return tiles


def _stem(settings: GenerateSettings, request: Request) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", request.prompt.lower()).strip("-")[:48].strip("-") or "image"
    if len(settings.requests) == 1:
        return slug
    width = len(str(len(settings.requests)))
    return f"{settings.requests.index(request) + 1:0{width}d}-{slug}"
