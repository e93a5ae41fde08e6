"""The command `heedful evaluate`: parses, calls, prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import evaluate_settings as asked
from .evaluate_settings import EvaluateSettings
from .marks import check_marks, write_between_marks
from .settings import DTYPES, SCHEDULERS, parse_size
from .terminal import clear_errors, goes_on, quieten, stoppable

if TYPE_CHECKING:
    from ..evaluation.figures import Results
    from ..evaluation.rows import Watch
    from ..explain.evaluation.run import Progress as Told
    from ..explain.evaluation.table import Table as Figures

MARKS = ("<!-- evaluation: begin -->", "<!-- evaluation: end -->")
_ACROSS = 4
"""So many figures stand beside each other on the terminal; the page has them all."""


def evaluate(
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="Sets of prompts, as --list names them; comma-separated or repeated. Default: "
            "held-out,single embedded; benchmark,single for other models; none with --prompts-file.",
            show_default=False,
        ),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            help="Your own prompts, one a line, subjects in brackets: `a [cat] and a [red bow]`; without "
            "brackets all content words. Or JSON lines: prompt, subjects, group."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(asked.METHODS)}, and the objectives that --list names; comma-separated or "
            "repeated. Plain sampling is always drawn.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a pipeline in safetensors. Default: the embedded one."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Images a prompt. More of them go on where fewer ended.")] = 2,
    first_seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="At most so many prompts a set, for a quick look.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: 25 embedded, else 50.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Default: 5 embedded, else the pipeline's own.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(SCHEDULERS)}. Default: the model's own.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT in pixels. Default: the model's own.")
    ] = None,
    paper_step: Annotated[
        float | None,
        typer.Option(help="scale_factor of diffusers' pipeline and of paper. Default: 2 embedded, else 20."),
    ] = None,
    check_model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a CLIP or SigLIP: compares images with prompts, chooses for best-of-N, "
            "and, without --detector, says what is seen. Default: the embedded one with the embedded model."
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a zero-shot object detector, such as an OWL-ViT: says what is seen."
        ),
    ] = None,
    detector_threshold: Annotated[
        float | None, typer.Option(help="From which score on a box counts. Default: 0.1.")
    ] = None,
    captioner: Annotated[
        str | None, typer.Option(help="Folder or hub id of a BLIP: compares prompts with captions, too.")
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            help="For CLIP's texts: a file with a template a line, such as `a photo of {}`. Default: {}."
        ),
    ] = None,
    best_of: Annotated[
        int, typer.Option(help="Best-of-N draws at most so many images; 1 leaves it out.")
    ] = 4,
    batch_size: Annotated[
        int,
        typer.Option(help="Images drawn at once. It changes no image; 1 counts the cost of each by itself."),
    ] = 8,
    count: Annotated[
        bool, typer.Option(help="Count operations (slows a GPU down), or let seconds be the cost.")
    ] = True,
    out: Annotated[
        Path, typer.Option(help="The folder for rows, images and results; what it holds is not drawn again.")
    ] = Path("out/evaluation"),
    write: Annotated[
        Path | None,
        typer.Option(help=f"Put the tables between the marks {MARKS[0]} and {MARKS[1]} of a file."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(DTYPES)}. Default: float16 on cuda, else float32.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. Default: 1 for the embedded model, else torch's choice.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Name sets of prompts and methods.")] = False,
) -> None:
    """Compare methods by how often every subject of a prompt appears, and by what that costs.

    Examples:

    `heedful evaluate --limit 4 --method plain,default`

    `heedful evaluate --prompts held-out,three,single --seeds 8 --out out/held-out`

    `heedful evaluate --method default,excite-iou,divide-and-bind`

    `heedful evaluate --model my-sd15 --detector my-owlvit --check-model my-clip --seeds 4`

    `heedful evaluate --model my-sd15 --check-model my-clip --prompts-file prompts.txt`

    `accelerate launch --no_python heedful evaluate --seeds 64 --out out/all`

    All methods draw from the same noise. The costs are denoiser forwards, counted in operations. Beside each
    method stands plain sampling that may cost as much: the best of N images, chosen by `check`, which does
    not know what the judge sees, and chosen by the judge itself, which nobody can do better.

    Into the folder go a row an image (a stopped run goes on with them), all images, tables as JSON and CSV,
    a plot of success against cost, sheets of the best and worst cases, and evaluation.md, which shows it all.
    """
    with clear_errors(), stoppable(goes_on(out)):
        if show_list:
            _print_list()
            return
        settings = EvaluateSettings(
            sets=asked.parse_list(prompts or []),
            prompts_file=prompts_file,
            methods=asked.parse_list(method or []) or asked.METHODS,
            model=model,
            seeds=seeds,
            first_seed=first_seed,
            limit=limit,
            steps=steps,
            guidance_scale=guidance_scale,
            paper_step=paper_step,
            scheduler=scheduler,
            size=parse_size(size) if size is not None else None,
            check_model=check_model,
            detector=detector,
            threshold=detector_threshold,
            captioner=captioner,
            templates=templates,
            best_of=best_of,
            batch_size=batch_size,
            counted=count,
            device=device,
            dtype=dtype,
            threads=threads,
        )
        _carry_out(settings, out, write)


def _carry_out(settings: EvaluateSettings, out: Path, write: Path | None) -> None:
    if write is not None:
        check_marks(write, MARKS)
    quieten()
    from ..evaluation import page
    from . import evaluate as work
    from .machine import is_first
    from .results import make_folder

    make_folder(out)
    settings, first = work.resolve(settings), is_first()
    chosen = work.methods(settings)
    with Console(stderr=True).status("loading"):
        evaluation = work.prepare(settings, out)
    with _progress(first) as watch:
        results = work.carry_out(settings, evaluation, chosen, watch)
    if not first:
        return
    _print(results)
    for path in page.save(results, out):
        typer.echo(f"wrote {path}")
    if write is not None:
        write_between_marks(write, page.tables_text(results), MARKS)
        typer.echo(f"wrote {write}")


@contextmanager
def _progress(shown: bool) -> Iterator[Watch]:
    """A bar a method; other processes count for themselves, and show none."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bars:

        def watch(what: str) -> Told:
            bar = bars.add_task(what, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        yield watch


def _print_list() -> None:
    from .evaluate import objectives

    sets = Table("set", "what it is", title="--prompts", title_justify="left")
    for name, told in asked.SETS.items():
        sets.add_row(name, told)
    methods = Table("method", "what it is", title="--method", title_justify="left")
    methods.add_row("plain", "plain sampling")
    methods.add_row("diffusers", "diffusers' deprecated Attend-and-Excite pipeline")
    for name, told in objectives().items():
        methods.add_row(name, told)
    Console().print(sets, methods)


def _print(results: Results) -> None:
    """The main figures of every group, and best-of-N beside each method."""
    from ..evaluation.figures import COST, MAIN, SINGLE, equal_cost, overview

    for name, reason in (results.left_out or {}).items():
        typer.echo(f"left out: {name}: {reason}", err=True)
    for group in results.groups:
        own = results.of(group)
        _print_table(results, overview(own, group), (MAIN, "all in colour", "CLIP full", COST))
        if group != SINGLE:
            _print_table(results, equal_cost(own, group), None)


def _print_table(results: Results, table: Figures, figures: tuple[str, ...] | None) -> None:
    from ..evaluation.figures import lines, shown

    chosen = [name for name in table.figures if figures is None or name in figures]
    for start in range(0, len(chosen), _ACROSS):
        part = chosen[start : start + _ACROSS]
        drawn = Table("method", *part, title=escape(f"{results.model}, {table.title}"), title_justify="left")
        for name, own in lines(table, results.about):
            drawn.add_row(escape(name), *(shown(own[figure]) if figure in own else "" for figure in part))
        Console().print(drawn)
