"""The command `heedful benchmark`: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .marks import check_marks, write_between_marks
from .settings import DTYPES, UsageError
from .terminal import clear_errors, quieten, stoppable

if TYPE_CHECKING:
    from ..evaluation.speed import Cost


def benchmark(
    shape: Annotated[
        list[str] | None, typer.Option(help="sd15, sdxl; repeat it for both. Default: what the machine can.")
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option(
            help="plain, guided, guided-down, guided-checkpointed, refined, heeded, recorded, diffusers, "
            "diffusers-refined; repeated. Default: all; on a CPU the four that take minutes are timed."
        ),
    ] = None,
    count: Annotated[bool, typer.Option(help="Count operations and peak memory, on any machine.")] = True,
    time: Annotated[bool, typer.Option(help="Take the time, in turns, on the device.")] = True,
    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps, half of them guided. Default: 50; 2 when a CPU is timed.", min=2),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Images at once; repeated. Default: 1, and 4 where CUDA is timed.", min=1),
    ] = None,
    attention: Annotated[
        list[str] | None,
        typer.Option(help="sdpa, xformers; repeated. Default: sdpa, and on CUDA xformers where it is there."),
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Time compiled denoisers too. Default: on CUDA."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each way is timed; medians are shown.", min=1)] = 3,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's own.", min=1)] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(DTYPES)}. Default: float16 on cuda, else bfloat16.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write into; it is made.")] = Path("out/speed"),
    write: Annotated[
        Path | None, typer.Option(help="A page to put the tables into, between its marks.")
    ] = None,
) -> None:
    """Measure what guidance costs: beside plain sampling and beside diffusers' own Attend-and-Excite.

    Examples:

    `heedful benchmark --no-time` counts on any machine, in minutes, what a GPU would do and hold

    `heedful benchmark --shape sd15` also takes the time

    `heedful benchmark --shape sdxl --way plain --way guided --batch 1 --rounds 5` on a GPU

    Denoisers have the sizes of Stable Diffusion 1.5 (512 x 512) and XL (1024 x 1024) and random weights, on
    which speed does not depend; nothing is downloaded. Embeddings are random, latents are not decoded.

    *Counted* are the operations of matrix products, convolutions and attention, and the bytes of all tensors
    that live at once in float16, while the real pipelines run around a denoiser without weights. *Timed* are
    whole calls in turns (A B A B), medians: on CUDA with each attention, compiled and not; on a CPU the time
    that this process had.

    Into the folder go speed.md, the tables, and speed.json, all values, after each table that is done.
    """
    with clear_errors(), stoppable(f"what was measured until then is in {out}"):
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(f'--dtype must be one of {", ".join(DTYPES)}; got "{dtype}"')
        quieten()
        from . import benchmark as work

        settings = work.resolve(
            work.BenchmarkSettings(
                shapes=tuple(shape or ()),
                ways=tuple(way or ()),
                counting=count,
                timing=time,
                steps=steps,
                batches=tuple(batch or ()),
                attention=tuple(attention or ()),
                compiling=compiled,
                rounds=rounds,
                device=device,
                dtype=dtype,
                cpu_threads=threads,
            )
        )
        if write is not None:
            check_marks(write, work.MARKS)
        costs: list[Cost] = []
        with Console(stderr=True).status("starting") as status:
            for found in work.carry_out(settings, lambda what: status.update(what)):
                costs += found
                paths = work.save(out, settings, costs)
        text = paths[0].read_text(encoding="utf-8")
        typer.echo(text)
        for note in work.left_out(settings):
            typer.echo(f"left out: {note}", err=True)
        if write is not None:
            write_between_marks(write, text, work.MARKS)
        for path in [*paths, *([write] if write else [])]:
            typer.echo(f"wrote {path}", err=True)
