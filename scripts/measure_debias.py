"""Measures debiasing on the model that cheats, beside its controls: `python scripts/measure_debias.py run`.

A row a way and seed goes to runs/debias/rows.jsonl as soon as it is made, and is not made again; `write` puts
tables and pictures into docs/ from the rows. `tune` tries learning rates and penalties on scenes of seeds
that `run` never draws.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from heedful.emoji import load_cheater
from heedful.emoji.cheating import Kind, marked_scenes
from heedful.explain.debias import DebiasSettings, MaskedImages, debias, sight, with_random_masks
from heedful.explain.evaluation.intervals import mean
from heedful.explain.relevance import versions
from heedful.scripts.debias import (
    DEMONSTRATION,
    LEARNT,
    WATCHED,
    carry_out,
    demonstration,
    lessons,
    marked_images,
    save,
)
from heedful.scripts.marks import write_between_marks
from rich.console import Console
from rich.progress import track

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs" / "debias.md"
PICTURE: Final = ROOT / "docs" / "pictures" / "debias.png"
MARKS: Final = ("<!-- debias figures: begin -->", "<!-- debias figures: end -->")
TESTED: Final = 200
"""Scenes a seed and kind on which accuracy is told; relevance is looked at on the first of them."""
LOOKED_AT: Final = 40
SEED: Final = 7_500
TUNING_SEED: Final = 7_300
_GRADMASK: Final = replace(DEMONSTRATION, method="gradmask", penalty=1e3)
_REASONS: Final = replace(DEMONSTRATION, method="rrr", penalty=1e-4)
WAYS: Final[dict[str, tuple[DebiasSettings, bool]]] = {
    "relevance": (DEMONSTRATION, False),
    "relevance, random masks": (DEMONSTRATION, True),
    "relevance, second order": (replace(DEMONSTRATION, second_order=True), False),
    "GradMask": (_GRADMASK, False),
    "right for the right reasons": (_REASONS, False),
    "confidence alone": (replace(DEMONSTRATION, relevance_weight=0.0), False),
    "second order, random masks": (replace(DEMONSTRATION, second_order=True), True),
}
"""By name: the settings, and whether masks are random."""
Row = dict[str, Any]
WHAT: Final = ("conflict", "clean", "inside")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@app.command()
def run(
    seeds: Annotated[int, typer.Option(help="how many, each with scenes of its own", min=1)] = 3,
    way: Annotated[list[str] | None, typer.Option(help="these alone; may be repeated")] = None,
    out: Annotated[Path, typer.Option(help="where rows are kept")] = Path("runs/debias"),
    threads: Annotated[int, typer.Option(help="CPU threads", min=1)] = 1,
) -> None:
    """Debias in every way with every seed; what is there already is not made again."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "rows.jsonl"
    done = {(row["way"], row["seed"]) for row in _read(file)}
    jobs = [(seed, name) for name in way or WAYS for seed in range(seeds) if (name, seed) not in done]
    for seed, name in track(jobs, "debiasing", console=console):
        settings, random = WAYS[name]
        row = _measured(name, replace(settings, seed=seed), random, SEED + 10 * seed)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        console.print(_line(row), markup=False)


@app.command()
def tune(
    rate: Annotated[list[float] | None, typer.Option(help="learning rates to try")] = None,
    penalty: Annotated[list[float] | None, typer.Option(help="the baselines' penalties to try")] = None,
    way: Annotated[list[str] | None, typer.Option(help="which ways")] = None,
    out: Annotated[Path, typer.Option(help="where rows are kept")] = Path("runs/debias"),
    threads: Annotated[int, typer.Option(help="CPU threads", min=1)] = 1,
) -> None:
    """Try learning rates and penalties on scenes of their own; the rows go to tuning.jsonl."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    for name in way or ["relevance", "GradMask", "right for the right reasons"]:
        settings, random = WAYS[name]
        for one in rate or [settings.rate]:
            for two in (penalty or [settings.penalty]) if settings.method != "relevance" else [1.0]:
                tried = replace(settings, rate=one, penalty=two)
                row = _measured(name, tried, random, TUNING_SEED)
                with (out / "tuning.jsonl").open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
                console.print(f"rate {one:g} penalty {two:g} {_line(row)}", markup=False)


@app.command()
def write(
    out: Annotated[Path, typer.Option(help="where rows are kept")] = Path("runs/debias"),
    picture: Annotated[bool, typer.Option(help="debias once more, and draw what it looks at")] = True,
) -> None:
    """Put the tables and the picture into docs/."""
    rows = _read(out / "rows.jsonl")
    if not rows:
        raise typer.BadParameter(f"no rows in {out}; make them first: python scripts/measure_debias.py run")
    write_between_marks(DOCS, "\n".join(_table(rows)), MARKS)
    console.print(f"wrote {DOCS}")
    if picture:
        task = demonstration(0, "cpu")
        save(task, carry_out(task, DEMONSTRATION, "cpu"), out)
        (out / "debias.png").replace(PICTURE)
        console.print(f"wrote {PICTURE}")


def _measured(name: str, settings: DebiasSettings, random: bool, base: int) -> Row:
    """One model debiased, and what it says of scenes of every kind before and after."""
    learnt, watched = lessons(base)
    if random:
        learnt, watched = with_random_masks(learnt, base), with_random_masks(watched, base + 1)
    model = load_cheater("cpu", torch.float32)
    made = debias(model, learnt, watched, settings, device="cpu")
    after = _told(made.model, base)
    before = _before_of(base)
    row: Row = {"way": name, "seed": settings.seed, "settings": asdict(settings), "versions": versions()}
    row |= {"epochs": made.history[-1].number, "best": made.best.number}
    return row | {what: {"before": before[what], "after": after[what]} for what in WHAT}


@lru_cache
def _before_of(base: int) -> dict[str, list[float]]:
    return _told(load_cheater("cpu", torch.float32), base)


def _told(model: torch.nn.Module, base: int) -> dict[str, list[float]]:
    """Whether each scene of both kinds is told right, and relevance inside the mask of conflicting ones."""
    kinds: tuple[Kind, ...] = ("conflict", "clean")
    found = {}
    for kind in kinds:
        images = marked_images(list(marked_scenes(base + 2, TESTED, kind)))
        found[kind] = _right(model, images)
    looked = marked_images(list(marked_scenes(base + 2, LOOKED_AT, "conflict")))
    return found | {"inside": sight(model, looked).inside.tolist()}


@torch.inference_mode()
def _right(model: torch.nn.Module, images: MaskedImages) -> list[float]:
    assert images.labels is not None
    told = torch.cat([model(part).logits.argmax(1) for part in images.pixels.split(50)])
    return (told == images.labels).float().tolist()


def _read(file: Path) -> list[Row]:
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: int(row["seed"]))


def _line(row: Row) -> str:
    parts = [
        f"{what} {np.mean(row[what]['before']):.3f} -> {np.mean(row[what]['after']):.3f}" for what in WHAT
    ]
    return f"{row['way']} seed {row['seed']}, epoch {row['best']} of {row['epochs']}: {', '.join(parts)}"


def _table(rows: Sequence[Row]) -> list[str]:
    known = {name: own for name in WAYS if (own := [row for row in rows if row["way"] == name])}
    first = next(iter(known.values()))
    told = ", ".join(f"{name} {number}" for name, number in first[0]["versions"].items())
    lines = [
        f"{len({row['seed'] for row in rows})} seeds, each with {LEARNT} scenes to learn from, {WATCHED} to "
        f"stop by, {TESTED} of each kind to be tested on (relevance: {LOOKED_AT} conflicting ones). "
        f"Intervals are of 95 %, over scenes; {told}, CPU, float32.",
        "",
        "| way | accuracy, conflicting marks | accuracy, no marks | relevance inside the mask |",
        "|---|---|---|---|",
        "| " + " | ".join(["as it came", *(_shown(first, what, "before") for what in WHAT)]) + " |",
    ]
    for name, own in known.items():
        lines.append("| " + " | ".join([name, *(_shown(own, what, "after") for what in WHAT)]) + " |")
    lines += ["", "What changed, scene by scene, in points of accuracy:", ""]
    lines += ["| way | conflicting marks | no marks | conflicting, each seed | no marks, each seed |"]
    lines += ["|---|---|---|---|---|"]
    for name, own in known.items():
        changes = [_points(own, what) for what in WHAT[:2]]
        each = [", ".join(f"{100 * _change(row, what).mean():+.1f}" for row in own) for what in WHAT[:2]]
        lines.append("| " + " | ".join([name, *changes, *each]) + " |")
    return lines


def _shown(rows: Sequence[Row], what: str, when: str) -> str:
    values = np.asarray([one for row in rows for one in row[what][when]], dtype=float)
    found = mean(values)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _change(row: Row, what: str) -> np.ndarray:
    return np.asarray(row[what]["after"], dtype=float) - np.asarray(row[what]["before"], dtype=float)


def _points(rows: Sequence[Row], what: str) -> str:
    found = mean(np.concatenate([_change(row, what) for row in rows]))
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


if __name__ == "__main__":
    app()
