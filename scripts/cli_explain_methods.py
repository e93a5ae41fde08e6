"""The command `heedful explain-methods`: parses, calls, prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import methods_settings as asked
from .methods_settings import MethodsSettings
from .settings import DTYPES
from .terminal import clear_errors, goes_on, quieten, stoppable

if TYPE_CHECKING:
    from ..explain.evaluation.run import Progress as Watch
    from .explain_methods import Task
    from .methods_summary import Cell, Summary

_CELL = 17
"""So wide is a column, with its borders."""


def explain_methods(
    study: Annotated[
        list[str] | None,
        typer.Option(
            help="A study of an embedded model, as --list names them; comma-separated or repeated. Default: "
            f"{asked.QUICK_STUDY}, {asked.QUICK_COUNT} scenes, a handful of methods.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of your own images instead; sub-folders are their labels."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="A CSV file with a line `image,label` each. Default: labels.csv in --images."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="A folder with a mask of the same name for every image; not 0 is the thing."),
    ] = None,
    imagenet_seg: Annotated[
        Path | None, typer.Option(help="ImageNet-Segmentation: the file gtsegs_ijcv.mat.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="For your own images: folder or hub id of a classifier, or of a CLIP, of transformers. "
            "Default: the embedded classifier."
        ),
    ] = None,
    template: Annotated[
        str, typer.Option(help="For a CLIP: the text of a label, which stands at {}.")
    ] = "a photo of a {}",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(asked.METHODS)}; comma-separated or repeated; all. Default: all of a study "
            "that is named, else a handful.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(asked.PROTOCOLS)}; all. Default: all of a study; for your own images "
            f"{', '.join(asked.OWN_PROTOCOLS)}.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help=f"How many items. Default: the study's own; at most {asked.OWN_COUNT} own images."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Items at once.")] = 16,
    out: Annotated[
        Path, typer.Option(help="The folder for rows and results; what it holds is not measured again.")
    ] = Path("out/methods"),
    write: Annotated[
        Path | None, typer.Option(help="Write the page of evidence to this file, its pictures beside it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the data. Default: the study's own.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(DTYPES)}. Default: float16 on cuda, else float32.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Name studies, methods, protocols.")] = False,
) -> None:
    """Compare relevance methods by protocols that can fail, and see which one to believe on which model.

    Examples:

    `heedful explain-methods`

    `heedful explain-methods --study clip --study clip-pairs --count 100 --out out/clip`

    `heedful explain-methods --images photos --masks masks --model google/vit-base-patch16-224`

    `heedful explain-methods --imagenet-seg gtsegs_ijcv.mat --model my-vit --method generic,rollout,libra`

    `accelerate launch --no_python heedful explain-methods --study classifier`

    Beside the methods stand controls that know nothing of what the model learned: a random map, edges, the
    first layer's attention, a model with random weights. A method that does not beat them is not to be
    believed. Every figure has a 95 % interval.

    Into the folder go the rows of every study (a stopped run goes on with them), tables as JSON and CSV,
    plots, sheets of the best and worst cases, and evidence.md, which shows it all.
    """
    if show_list:
        _print_list()
        return
    with clear_errors(), stoppable(goes_on(out)):
        settings = MethodsSettings(
            studies=asked.parse_list(study or []),
            images=images,
            labels=labels,
            masks=masks,
            imagenet_seg=imagenet_seg,
            model=model,
            template=template,
            methods=asked.parse_list(method or []),
            protocols=asked.parse_list(protocol or []),
            count=count,
            batch_size=batch_size,
            seed=seed,
            device=device,
            dtype=dtype,
        )
        _carry_out(settings, out, write)


def _carry_out(settings: MethodsSettings, out: Path, write: Path | None) -> None:
    quieten()
    from . import explain_methods as work
    from . import methods_results as left
    from .machine import is_first
    from .methods_summary import summary
    from .results import make_folder

    make_folder(out)
    settings, first = work.resolve(settings), is_first()
    summaries = []
    for task in work.tasks(settings):
        if first:
            _print_left_out(task)
        with _progress(task, first) as progress:
            outcome = work.measure(task, out, settings.batch_size, progress)
        if first:
            summaries.append(summary(outcome))
            _print(summaries[-1])
    if first:
        with Console(stderr=True).status("drawing"):
            paths = left.save(out, summaries, write)
        for path in paths:
            typer.echo(f"wrote {path}")


@contextmanager
def _progress(task: Task, shown: bool) -> Iterator[Watch]:
    """A bar for the items of the study; other processes count for themselves, and show none."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bars:
        bar = bars.add_task(task.study.name, total=None)

        def watch(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        yield watch


def _print_left_out(task: Task) -> None:
    from ..pictures.draw import printable

    for name, reason in list(task.left_out.items())[:5]:
        typer.echo(f"left out: {printable(name)}: {reason}", err=True)
    if len(task.left_out) > 5:
        typer.echo(f"left out: {len(task.left_out) - 5} more", err=True)


def _print_list() -> None:
    table = Table("study", "what is measured", title="--study", title_justify="left")
    for name, told in asked.STUDIES.items():
        table.add_row(name, told)
    Console().print(table)
    for option, names in (
        ("--method", (*asked.METHODS, *asked.ABLATIONS, asked.ALL)),
        ("--protocol", (*asked.PROTOCOLS, asked.ALL)),
    ):
        typer.echo(f"{option}: {', '.join(names)}")


def _print(summary: Summary) -> None:
    """Methods by the main figure of every test; as many tests beside each other as the terminal is wide."""
    from ..pictures.draw import printable
    from .methods_summary import LEGEND

    console = Console()
    study, count = summary.outcome.study, len(summary.outcome.records)
    title = escape(printable(f"{study.name}: {study.model_name}, {count} items"))
    longest = max((len(row.method) for row in summary.rows), default=0)
    across = max(1, (console.width - longest - 4) // _CELL)
    for start in range(0, len(summary.heads), across):
        console.print(_table(summary, slice(start, start + across), title))
    console.print(LEGEND, highlight=False)


def _table(summary: Summary, shown: slice, title: str) -> Table:
    """Some of the tests; the best ones marked, controls below."""
    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    for head in summary.heads[shown]:
        table.add_column(head.replace(": ", "\n", 1), overflow="fold")
    for row in summary.rows:
        cells = [_cell(cell) for cell in row.cells[shown]]
        table.add_row(escape(row.method), *cells, style="dim" if row.control else None, end_section=row.last)
    return table


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"[bold]{cell.short}[/bold]" if cell.best else cell.short
