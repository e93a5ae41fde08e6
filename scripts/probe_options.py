"""What all ways of `heedful probe` share: options, bars for long work, and telling what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

Out = Annotated[Path, typer.Option(help="The folder to write into; it is made.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, float16 or bfloat16. Default: float16 on cuda, else float32.")
]
Watch = Callable[[str, int, int], None]
"""Told what is done now, how much of it is done, and of how much."""


@contextmanager
def watched() -> Iterator[Watch]:
    """A bar for each thing that is done, on stderr, gone at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def watch(doing: str, done: int, total: int) -> None:
            if doing not in bars:
                bars[doing] = progress.add_task(doing, total=total)
            progress.update(bars[doing], completed=done, total=total)

        yield watch


def tell_written(paths: Iterable[Path]) -> None:
    """A line for each file."""
    for path in paths:
        typer.echo(f"wrote {path}")
