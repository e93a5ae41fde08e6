"""Compares plain and guided sampling on the embedded models, where a judge can tell what an image shows.

`python scripts/evaluate_emoji.py run` makes the figures of docs/benchmarks.md; `tune` chooses the step size
of the paper's method on other prompts; both take up where they were interrupted.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from heedful.scripts import emoji_figures as figures
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from heedful.emoji import Judge
    from heedful.emoji.prompts import Prompt
    from heedful.scripts.emoji_methods import Prices, Setting

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()
METHODS = ("plain", "diffusers", "paper", "default")

Steps = Annotated[int, typer.Option(min=5, help="denoising steps")]
Scale = Annotated[float, typer.Option(help="classifier-free guidance; the embedded model is made for 5")]
Model = Annotated[Path | None, typer.Option(help="a pipeline's folder instead of the embedded one")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
BatchSize = Annotated[int, typer.Option(min=1, help="images drawn at once; changes no image")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default all")]


@dataclass(frozen=True)
class Task:
    """One image to draw: its method, prompt and seed; groups are "held-out", "seen", "single", "tuning"."""

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
        return zlib.crc32(f"{self.prompt.text}|{self.seed}".encode())


@app.command()
def run(
    methods: Annotated[list[str] | None, typer.Option("--method", help="one of them; repeat it")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="images a prompt")] = 2,
    seen: Annotated[int, typer.Option(help="prompts of seen pairs, drawn from the benchmark's 240")] = 64,
    limit: Annotated[
        int | None, typer.Option(help="at most so many prompts a group, for a quick look")
    ] = None,
    steps: Steps = 25,
    guidance_scale: Scale = 5.0,
    step_size: Annotated[float, typer.Option(help="of diffusers' and of the parity preset, see tune")] = 2.0,
    refine: Annotated[bool, typer.Option(help="whether these two refine at the paper's thresholds")] = True,
    out: Annotated[Path, typer.Option(help="folder of rows.jsonl, images and tables")] = Path(
        "runs/evaluation"
    ),
    redo: Annotated[list[str] | None, typer.Option(help="forget this method's rows first; repeat it")] = None,
    model: Model = None,
    device: Device = "cpu",
    batch_size: BatchSize = 8,
    threads: Threads = None,
    write: Annotated[Path | None, typer.Option(help="put the tables between the marks of this file")] = None,
) -> None:
    """Draw and judge held-out pairs, seen pairs and single subjects with each method; print the tables.

    With the defaults: 36 held-out and 64 seen pairs and 24 single subjects, 2 seeds each, 248 images a
    method. For the figures that are published: `--write docs/benchmarks.md`. Rows are kept as they come:
    the same command goes on.
    """
    from heedful.emoji.prompts import held_out_prompts, seen_prompts, single_prompts

    setting = _setting(steps, guidance_scale, step_size, refine)
    groups = {"held-out": held_out_prompts(), "seen": seen_prompts(seen), "single": single_prompts()}
    tasks = _tasks(_checked(methods or METHODS), groups, range(seeds), limit)
    rows = _carry_out(tasks, setting, out, model, device, batch_size, threads, _checked(redo or ()))
    text = figures.report(rows, _titles(), {**asdict(setting), "seeds": seeds, "device": device})
    (out / "tables.md").write_text(text + "\n", encoding="utf-8")
    console.print(Markdown(text))
    if write is not None:
        figures.write_between_marks(write, text)


@app.command()
def tune(
    step_sizes: Annotated[list[float], typer.Option("--step-size", help="one to try; repeat it")],
    method: Annotated[str, typer.Option(help="whose step size")] = "paper",
    prompts: Annotated[int, typer.Option(help="prompts, none of which `run` uses")] = 24,
    seeds: Annotated[int, typer.Option(min=1, help="images a prompt")] = 2,
    steps: Steps = 25,
    guidance_scale: Scale = 5.0,
    refine: Annotated[bool, typer.Option(help="refine at the paper's thresholds")] = True,
    out: Annotated[Path, typer.Option(help="folder of the results, one folder a step size")] = Path(
        "runs/tuning"
    ),
    model: Model = None,
    device: Device = "cpu",
    batch_size: BatchSize = 8,
    threads: Threads = None,
) -> None:
    """Try step sizes on prompts apart from the evaluation's, and print what each achieves."""
    from heedful.emoji.prompts import tuning_prompts

    tasks = _tasks(_checked([method]), {"tuning": tuning_prompts(prompts)}, range(1000, 1000 + seeds), None)
    for size in step_sizes:
        setting = _setting(steps, guidance_scale, size, refine)
        folder = out / f"{method}-{size:g}{'' if refine else '-unrefined'}"
        rows = _carry_out(tasks, setting, folder, model, device, batch_size, threads, ())
        console.print(f"step size {size:g}{'' if refine else ', no refinement'}:")
        console.print(Markdown(figures.table(rows, _titles())))


def _carry_out(
    tasks: Sequence[Task],
    setting: Setting,
    out: Path,
    model: Path | None,
    device: str,
    batch_size: int,
    threads: int | None,
    redo: Sequence[str],
) -> list[figures.Row]:
    """Draw and judge what has no row yet; return the rows of all tasks."""
    settings = {**asdict(setting), "model": str(model or "embedded")}
    file = out / "rows.jsonl"
    rows = [row for row in _read(file) if row["method"] not in redo]
    _check_settings(rows, settings, file)
    done = {(row["method"], row["prompt"], row["seed"]) for row in rows}
    missing = [task for task in tasks if task.key not in done]
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        if redo:
            _write_all(
                file, rows
            )  # only then: two processes may share the file, each with methods of its own
        for row in _draw_and_judge(missing, setting, out, model, device, batch_size, threads):
            row["settings"] = settings
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            rows.append(row)
    wanted = {task.key for task in tasks}
    return [row for row in rows if (row["method"], row["prompt"], row["seed"]) in wanted]


def _draw_and_judge(
    tasks: Sequence[Task],
    setting: Setting,
    out: Path,
    model: Path | None,
    device: str,
    batch_size: int,
    threads: int | None,
) -> Iterator[figures.Row]:
    import torch
    from heedful.emoji import load_judge
    from heedful.scripts.emoji_methods import Prices, load

    if threads:
        torch.set_num_threads(threads)
    judge, pipe = load_judge(device), load(model, device)
    prices = Prices.measure(pipe)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for method in dict.fromkeys(task.method for task in tasks):
            own = [task for task in tasks if task.method == method]
            bar = progress.add_task(_titles()[method], total=len(own))
            for batch in _batches(own, batch_size):
                yield from _batch_rows(pipe, judge, prices, setting, batch, out / "images" / method)
                progress.advance(bar, len(batch))


def _batch_rows(
    pipe: StableDiffusionPipeline,
    judge: Judge,
    prices: Prices,
    setting: Setting,
    batch: Sequence[Task],
    folder: Path,
) -> Iterator[figures.Row]:
    from heedful.scripts.emoji_methods import METHODS as DRAW
    from heedful.scripts.emoji_methods import Operations, seeded

    began = time.perf_counter()
    with Operations() as counted:
        noise = seeded([task.noise for task in batch])
        images = DRAW[batch[0].method](pipe, setting, [task.prompt for task in batch], noise)
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


def _tasks(
    methods: Sequence[str], groups: dict[str, tuple[Prompt, ...]], seeds: range, limit: int | None
) -> list[Task]:
    return [
        Task(method, group, prompt, seed)
        for method in methods
        for group, prompts in groups.items()
        for prompt in prompts[:limit]
        for seed in seeds
    ]


def _checked(methods: Sequence[str]) -> list[str]:
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise typer.BadParameter(f"no method {', '.join(unknown)}; there are: {', '.join(METHODS)}")
    return list(dict.fromkeys(methods))


def _setting(steps: int, guidance_scale: float, step_size: float, refine: bool) -> Setting:
    from heedful.scripts.emoji_methods import Setting

    return Setting(steps, guidance_scale, step_size, refine)


def _titles() -> dict[str, str]:
    from heedful.scripts.emoji_methods import TITLES

    return TITLES


def _read(file: Path) -> list[figures.Row]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def _write_all(file: Path, rows: Sequence[figures.Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _check_settings(rows: Sequence[figures.Row], settings: dict[str, Any], file: Path) -> None:
    """Rows of other settings would be mixed into one table."""
    for row in rows:
        if row["settings"] != settings:
            raise typer.BadParameter(
                f"{file} holds rows made with {row['settings']}, now wanted: {settings}; give another --out"
            )


if __name__ == "__main__":
    app()
