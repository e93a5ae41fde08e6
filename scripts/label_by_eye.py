"""Checks the judge against a person: generated images, shuffled and numbered, labelled before it sees them.

`python scripts/label_by_eye.py draw` makes the numbered images; a person writes what is to be seen into the
labels file; `python scripts/label_by_eye.py agreement` then compares. The sheets tell no prompt, no method.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from heedful.emoji import load_judge, load_pipeline
from heedful.emoji.prompts import Prompt, held_out_prompts, seen_prompts, single_prompts
from heedful.emoji.vocabulary import SUBJECTS
from heedful.scripts.emoji_figures import wilson
from heedful.scripts.emoji_methods import Setting, drawer
from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parent.parent / "emoji" / "labels"
SIDE, COLUMNS, A_SHEET = 64, 10, 20
SHARES = (20, 15, 15)
"""How many held-out pairs, seen pairs and single subjects; each is drawn plain and guided."""
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Folder = Annotated[Path, typer.Option(help="where eye.png, key.json and eye.json lie")]


@app.command()
def draw(
    seed: Annotated[int, typer.Option(help="of the choice of prompts, the noise and the order")] = 2_024,
    sheets: Annotated[Path, typer.Option(help="folder for the numbered sheets to look at")] = Path(
        "runs/eye"
    ),
    folder: Folder = FOLDER,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
) -> None:
    """Draw 50 prompts plain and guided from the same noise, shuffle them, write images, key and sheets."""
    if threads:
        torch.set_num_threads(threads)
    prompts, pipe = _prompts(seed), load_pipeline()
    drawn: list[tuple[Image.Image, dict[str, Any]]] = []
    for method in ("plain", "default"):
        for start in range(0, len(prompts), 10):
            part = prompts[start : start + 10]
            noise = [torch.Generator().manual_seed(seed + start + index) for index in range(len(part))]
            images = drawer(method)(pipe, Setting(steps=30), part, noise)
            rows = [{"prompt": one.text, "subjects": one.subjects, "method": method} for one in part]
            drawn += zip(images, rows, strict=True)
            typer.echo(f"{method}: {start + len(part)} of {len(prompts)}")
    order = np.random.default_rng(seed).permutation(len(drawn))
    _write([drawn[index] for index in order], folder, sheets)


@app.command()
def agreement(folder: Folder = FOLDER) -> None:
    """Compare the judge with the labels, image by image, on the subjects named; print what differs."""
    key = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    eye = {int(number): set(seen) for number, seen in _labels(folder / "eye.json").items()}
    atlas = Image.open(folder / "eye.png").convert("RGB")
    sightings = load_judge()([_tile(atlas, number) for number in range(len(key))])
    same = []
    for number, (row, sighting) in enumerate(zip(key, sightings, strict=True)):
        judged, labelled = (seen & set(row["subjects"]) for seen in (set(sighting.subjects), eye[number]))
        same.append(judged == labelled)
        if judged != labelled:
            typer.echo(
                f"{number} {row['method']} {row['prompt']!r}: eye {sorted(labelled)}, judge {sorted(judged)}"
            )
    low, high = wilson(sum(same), len(same))
    typer.echo(
        f"agreement on named subjects: {np.mean(same):.2f} ({low:.2f} to {high:.2f}) of {len(same)} images"
    )


def _prompts(seed: int) -> list[Prompt]:
    rng = np.random.default_rng(seed)
    pools = (held_out_prompts(), seen_prompts(60), single_prompts())
    return [
        pool[index]
        for pool, count in zip(pools, SHARES, strict=True)
        for index in rng.choice(len(pool), count, replace=False)
    ]


def _write(drawn: list[tuple[Image.Image, dict[str, Any]]], folder: Path, sheets: Path) -> None:
    for place in (folder, sheets):
        place.mkdir(parents=True, exist_ok=True)
    atlas = Image.new("RGB", (COLUMNS * SIDE, -(-len(drawn) // COLUMNS) * SIDE))
    for number, (image, _) in enumerate(drawn):
        atlas.paste(image, (number % COLUMNS * SIDE, number // COLUMNS * SIDE))
    atlas.save(folder / "eye.png")
    (folder / "key.json").write_text(json.dumps([row for _, row in drawn], indent=0) + "\n", encoding="utf-8")
    for first in range(0, len(drawn), A_SHEET):
        _sheet([image for image, _ in drawn[first : first + A_SHEET]], first).save(
            sheets / f"sheet-{first:03d}.png"
        )


def _sheet(images: list[Image.Image], first: int, columns: int = 5, scale: int = 4) -> Image.Image:
    side, margin = SIDE * scale, 20
    sheet = Image.new("RGB", (columns * (side + 6), -(-len(images) // columns) * (side + margin)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left, top = index % columns * (side + 6), index // columns * (side + margin)
        pen.text((left + 4, top + 4), str(first + index), fill="black")
        sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (left, top + margin))
    return sheet


def _tile(atlas: Image.Image, number: int) -> Image.Image:
    left, top = number % COLUMNS * SIDE, number // COLUMNS * SIDE
    return atlas.crop((left, top, left + SIDE, top + SIDE))


def _labels(path: Path) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))["labels"]
    wrong = sorted({word for seen in labels.values() for word in seen} - set(SUBJECTS))
    if wrong:
        raise typer.BadParameter(f"{path} names {', '.join(wrong)}; the subjects are: {', '.join(SUBJECTS)}")
    return labels


if __name__ == "__main__":
    app()
