"""Draws and judges what a comparison still lacks, a row an image, kept as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .emoji_figures import Row

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from heedful.emoji import Judge
    from heedful.emoji.prompts import Prompt

    from ..evaluation import Prices
    from .emoji_methods import Setting

console = Console()


@dataclass(frozen=True)
class Task:
    """One image to draw: its method, prompt and seed.

    Groups are "held-out", "seen", "single", "tuning", "coloured" and "three".
    """

    method: str
    group: str
    prompt: Prompt
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What a row of results is known by."""
        return self.method, self.prompt.text, self.seed

    @property
    def noise(self) -> int:
        """The seed of the initial noise: another one for each prompt, the same for each method."""
        from ..evaluation.methods import noise_seed

        return noise_seed(self.prompt, self.seed)


@dataclass(frozen=True)
class Machine:
    """What draws: a pipeline's folder (None: the embedded one), device, images at once, CPU threads."""

    model: Path | None = None
    device: str = "cpu"
    batch_size: int = 8
    threads: int | None = None


def tasks_of(
    methods: Sequence[str], groups: Mapping[str, Sequence[Prompt]], seeds: range, limit: int | None = None
) -> list[Task]:
    """Every method on every prompt of every group, at every seed; at most `limit` prompts a group."""
    return [
        Task(method, group, prompt, seed)
        for method in methods
        for group, prompts in groups.items()
        for prompt in prompts[:limit]
        for seed in seeds
    ]


def carry_out(
    tasks: Sequence[Task], setting: Setting, out: Path, machine: Machine, redo: Sequence[str] = ()
) -> list[Row]:
    """Draw and judge what has no row in `out` yet; return the rows of all tasks.

    Raises:
        typer.BadParameter: there are rows that were made with other settings.
    """
    file = out / "rows.jsonl"
    rows = [row for row in _read(file) if row["method"] not in redo]
    wanted = {task.key for task in tasks}
    methods = dict.fromkeys([*(row["method"] for row in rows), *(task.method for task in tasks)])
    settings = {method: _settings(setting, machine, method) for method in methods}
    _check_settings(rows, settings, file)
    done = {_key(row) for row in rows}
    missing = [task for task in tasks if task.key not in done]
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        if redo:  # only then: two processes may share the file, each with methods of its own
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for row in _draw_and_judge(missing, setting, out, machine):
            row["settings"] = settings[row["method"]]
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            rows.append(row)
    return [row for row in rows if _key(row) in wanted]


def _draw_and_judge(tasks: Sequence[Task], setting: Setting, out: Path, machine: Machine) -> Iterator[Row]:
    import torch
    from heedful.emoji import load_judge

    from ..evaluation import Prices
    from .emoji_methods import load, title

    if machine.threads:
        torch.set_num_threads(machine.threads)
    judge, pipe = load_judge(machine.device), load(machine.model, machine.device)
    prices = Prices.measure(pipe, guidance_scale=5.0, output_type="np")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for method in dict.fromkeys(task.method for task in tasks):
            own = [task for task in tasks if task.method == method]
            bar = progress.add_task(title(method), total=len(own))
            for batch in _batches(own, machine.batch_size):
                yield from _batch_rows(pipe, judge, prices, setting, batch, out / "images" / method)
                progress.advance(bar, len(batch))


def _batch_rows(
    pipe: StableDiffusionPipeline,
    judge: Judge,
    prices: Prices,
    setting: Setting,
    batch: Sequence[Task],
    folder: Path,
) -> Iterator[Row]:
    from ..evaluation import Operations
    from .emoji_methods import drawer, seeded

    began = time.perf_counter()
    with Operations() as counted:
        noise = seeded([task.noise for task in batch])
        images = drawer(batch[0].method)(pipe, setting, [task.prompt for task in batch], noise)
    seconds = (time.perf_counter() - began) / len(batch)
    folder.mkdir(parents=True, exist_ok=True)
    for task, image, sighting in zip(batch, images, judge(images), strict=True):
        image.save(folder / f"{task.prompt.text.replace(' ', '-')}-{task.seed}.png")
        seen = sighting.verdicts(task.prompt.subjects)
        in_colour = sighting.verdicts(task.prompt.labels)
        yield {
            "method": task.method,
            "set": task.group,
            "kind": task.prompt.kind,
            "prompt": task.prompt.text,
            "seed": task.seed,
            "seen": seen,
            "in_colour": in_colour,
            "all_seen": all(seen.values()),
            "all_in_colour": all(seen.values()) and all(in_colour.values()),
            "exact": set(sighting.subjects) == set(task.prompt.subjects),
            "forwards": prices.forwards(counted.total, len(batch)),
            "seconds": seconds,
        }


def _batches(tasks: Sequence[Task], size: int) -> Iterator[Sequence[Task]]:
    """Batches within a group: operations are counted a batch."""
    for _, found in groupby(tasks, key=lambda task: task.group):
        own = list(found)
        yield from (own[start : start + size] for start in range(0, len(own), size))


def _settings(setting: Setting, machine: Machine, method: str) -> dict[str, Any]:
    from ..evaluation.objectives import OBJECTIVES
    from .emoji_methods import METHODS

    told = {**asdict(setting), "model": str(machine.model or "embedded")}
    by_name = method in OBJECTIVES and method not in METHODS
    return {**told, "objective": OBJECTIVES[method].about} if by_name else told


def _key(row: Row) -> tuple[str, str, int]:
    return row["method"], row["prompt"], row["seed"]


def _read(file: Path) -> list[Row]:
    """The rows of a file, none twice, though two processes may have drawn the same image."""
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    return list({_key(row): row for row in rows}.values())


def _check_settings(rows: Sequence[Row], settings: Mapping[str, dict[str, Any]], file: Path) -> None:
    """Rows of other settings would be mixed into one table."""
    for row in rows:
        wanted = settings[row["method"]]
        if row["settings"] != wanted:
            raise typer.BadParameter(
                f"{file} holds rows made with {row['settings']}, now wanted: {wanted}; give another --out"
            )
