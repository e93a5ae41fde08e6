"""Compares plain and guided sampling on the embedded models, where a judge can tell what an image shows.

`python scripts/evaluate_emoji.py run` makes the figures of docs/benchmarks.md, `losses` those of
docs/losses.md; `tune` chooses the step size of the paper's method on other prompts. All take up where they
were interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from heedful.scripts import emoji_figures as figures
from heedful.scripts.emoji_drawing import Machine, carry_out, console, tasks_of
from heedful.scripts.marks import write_between_marks
from rich.markdown import Markdown

if TYPE_CHECKING:
    from heedful.scripts.emoji_methods import Setting

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
METHODS = ("plain", "diffusers", "paper", "at-once")

Steps = Annotated[int, typer.Option(min=5, help="denoising steps")]
Scale = Annotated[float, typer.Option(help="classifier-free guidance; the embedded model is made for 5")]
Model = Annotated[Path | None, typer.Option(help="a pipeline's folder instead of the embedded one")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
BatchSize = Annotated[int, typer.Option(min=1, help="images drawn at once; changes no image")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default all")]


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
    tasks = tasks_of(_checked(methods or METHODS), groups, range(seeds), limit)
    machine = Machine(model, device, batch_size, threads)
    rows = carry_out(tasks, setting, out, machine, _checked(redo or ()))
    text = figures.report(rows, _titles(), {**asdict(setting), "seeds": seeds, "device": device})
    (out / "tables.md").write_text(text + "\n", encoding="utf-8")
    console.print(Markdown(text))
    if write is not None:
        write_between_marks(write, text, figures.MARKS)


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

    tasks = tasks_of(_checked([method]), {"tuning": tuning_prompts(prompts)}, range(1000, 1000 + seeds))
    machine = Machine(model, device, batch_size, threads)
    for size in step_sizes:
        setting = _setting(steps, guidance_scale, size, refine)
        folder = out / f"{method}-{size:g}{'' if refine else '-unrefined'}"
        rows = carry_out(tasks, setting, folder, machine)
        console.print(f"step size {size:g}{'' if refine else ', no refinement'}:")
        console.print(Markdown(figures.table(rows, _titles())))


@app.command()
def losses(
    methods: Annotated[list[str] | None, typer.Option("--method", help="one of them; repeat it")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="images a held-out pair; 36 pairs")] = 6,
    further: Annotated[
        list[str] | None,
        typer.Option(help="one tried on three subjects and colours too, default the best five; repeat it"),
    ] = None,
    three: Annotated[int, typer.Option(min=0, help="images a prompt of three subjects; 36 prompts")] = 3,
    coloured: Annotated[int, typer.Option(min=0, help="images a prompt with colours only; 22 prompts")] = 3,
    limit: Annotated[int | None, typer.Option(help="at most so many prompts a set, for a quick look")] = None,
    steps: Steps = 25,
    guidance_scale: Scale = 5.0,
    out: Annotated[Path, typer.Option(help="folder of rows.jsonl, images and tables")] = Path("runs/losses"),
    redo: Annotated[list[str] | None, typer.Option(help="forget this method's rows first; repeat it")] = None,
    model: Model = None,
    device: Device = "cpu",
    batch_size: BatchSize = 8,
    threads: Threads = None,
    write: Annotated[Path | None, typer.Option(help="put the tables between the marks of this file")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw success against cost into this PNG")] = None,
) -> None:
    """Compare losses, sums of them and starts on held-out pairs; the best also on three subjects and colours.

    With the defaults 216 images a method, and 174 more for plain sampling and the best five. With `--write
    docs/losses.md --plot docs/pictures/losses.png` it makes what is published. The same command goes on.
    """
    from heedful.emoji.prompts import coloured_prompts, held_out_prompts, three_subject_prompts
    from heedful.scripts import losses_plot, losses_table

    names = _known(methods or _compared())
    setting = _setting(steps, guidance_scale, 2.0, False)
    machine = Machine(model, device, batch_size, threads)
    tasks = tasks_of(names, {"held-out": held_out_prompts()}, range(seeds), limit)
    rows = carry_out(tasks, setting, out, machine, _known(redo or ()))
    best = _known(further or losses_table.ranked(rows, names, 5))
    finalists = list(dict.fromkeys([*(name for name in names if name == "plain"), *best]))
    more = tasks_of(finalists, {"three": three_subject_prompts()}, range(three), limit)
    more += tasks_of(finalists, {"coloured": coloured_prompts()}, range(coloured), limit)
    rows += carry_out(more, setting, out, machine)
    told = {"steps": f"{steps}", "guidance scale": f"{guidance_scale:g}", "device": device, **_versions()}
    text = losses_table.report(rows, {name: _about(name) for name in names}, "at-once", told)
    (out / "tables.md").write_text(text + "\n", encoding="utf-8")
    console.print(Markdown(text))
    if plot is not None:
        held_out = [row for row in rows if row["set"] == "held-out"]
        losses_plot.save(losses_plot.frontier(held_out, names), plot)
    if write is not None:
        write_between_marks(write, text, losses_table.MARKS)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "diffusers")}


def _about(name: str) -> str:
    from heedful.evaluation.objectives import OBJECTIVES
    from heedful.scripts.emoji_methods import title

    return OBJECTIVES[name].about if name in OBJECTIVES else title(name)


def _compared() -> list[str]:
    """All objectives and plain sampling; the published preset has its place in `run`."""
    from heedful.evaluation.objectives import OBJECTIVES

    return ["plain", *(name for name in OBJECTIVES if name != "paper")]


def _known(names: Sequence[str]) -> list[str]:
    from heedful.evaluation.objectives import OBJECTIVES

    known = list(dict.fromkeys([*METHODS, *OBJECTIVES]))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"no method {', '.join(unknown)}; there are: {', '.join(known)}")
    return list(dict.fromkeys(names))


def _checked(methods: Sequence[str]) -> list[str]:
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise typer.BadParameter(f"no method {', '.join(unknown)}; there are: {', '.join(METHODS)}")
    return list(dict.fromkeys(methods))


def _setting(steps: int, guidance_scale: float, step_size: float, refine: bool) -> Setting:
    from heedful.scripts.emoji_methods import Setting

    return Setting(steps, guidance_scale, step_size, refine)


def _titles() -> dict[str, str]:
    from heedful.scripts.emoji_methods import title

    return {name: title(name) for name in METHODS}


if __name__ == "__main__":
    app()
