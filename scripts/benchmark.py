"""Carries out `heedful benchmark`: chooses what fits the machine, measures, writes tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from ..evaluation.speed import Cost, clock, count, threads
from ..evaluation.speed_kernels import ATTENTION, Kernel, has_xformers
from ..evaluation.speed_shapes import SHAPES
from ..evaluation.speed_table import machine, markdown, plain_values
from ..evaluation.speed_ways import WAYS
from .machine import choose
from .settings import UsageError

MARKS: Final = ("<!-- speed figures: begin -->", "<!-- speed figures: end -->")
_CPU_WAYS: Final = ("plain", "guided", "recorded", "diffusers")
_COUNTED_STEPS: Final = 50


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured; what is empty or None is chosen for the machine.

    Attributes:
        shapes, ways: names of `speed_shapes.SHAPES` and `speed_ways.WAYS`.
        counting, timing: whether operations and bytes are counted, and whether time is taken.
        steps: denoising steps, even.
        batches: images at once, each measured for itself; counted is one alone unless they are given.
        attention: names of `speed_kernels.ATTENTION`, for CUDA.
        compiling: time compiled denoisers too, on CUDA.
        rounds: how often each way is timed.
        device, dtype: where and in which precision it is timed.
        cpu_threads: of torch; None leaves them alone.

    Raises:
        UsageError: a name that is not known or given twice, or nothing to measure.
    """

    shapes: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    counting: bool = True
    timing: bool = True
    steps: int | None = None
    batches: tuple[int, ...] = ()
    attention: tuple[str, ...] = ()
    compiling: bool | None = None
    rounds: int = 3
    device: str | None = None
    dtype: str | None = None
    cpu_threads: int | None = None

    def __post_init__(self) -> None:
        for option, given, known in (
            ("--shape", self.shapes, SHAPES),
            ("--way", self.ways, WAYS),
            ("--attention", self.attention, ATTENTION),
            ("--batch", self.batches, None),
        ):
            for name in given:
                if known is not None and name not in known:
                    raise UsageError(f'{option} must be one of {", ".join(known)}; got "{name}"')
                if given.count(name) > 1:
                    raise UsageError(f'{option} "{name}" is given twice')
        if self.ways and "plain" not in self.ways:
            raise UsageError("plain sampling is what all is compared with; add --way plain")
        if not (self.counting or self.timing):
            raise UsageError("nothing to measure: leave out --no-count or --no-time")

    @property
    def on_cuda(self) -> bool:
        """Whether a GPU is timed."""
        return str(self.device).startswith("cuda")

    @property
    def counted(self) -> tuple[str, ...]:
        """The shapes that are counted."""
        return (self.shapes or tuple(SHAPES)) if self.counting else ()

    @property
    def timed(self) -> tuple[str, ...]:
        """The shapes that are timed."""
        return (self.shapes or (tuple(SHAPES) if self.on_cuda else ("sd15",))) if self.timing else ()

    @property
    def timed_batches(self) -> tuple[int, ...]:
        """How many images at once are timed, in turn."""
        return self.batches or ((1, 4) if self.on_cuda else (1,))

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All that the denoiser is computed with, in turn."""
        compiled = (False, True) if self.compiling else (False,)
        return tuple(
            Kernel(name, each)  # type: ignore[arg-type]
            for name in self.attention
            for each in compiled
        )


def resolve(settings: BenchmarkSettings) -> BenchmarkSettings:
    """The settings with all that was left open chosen for this machine.

    Raises:
        UsageError: a device or type that cannot be used, or settings that need CUDA without it.
    """
    device, dtype = choose(settings.device, settings.dtype)
    found = replace(settings, device=device, dtype=dtype)
    if not found.on_cuda:
        if settings.compiling or "xformers" in settings.attention:
            raise UsageError("--compile and --attention xformers are for CUDA; leave them out on a CPU")
        found = replace(found, dtype=settings.dtype or "bfloat16")
    attention = ("sdpa", *(["xformers"] if found.on_cuda and has_xformers() else []))
    return replace(
        found,
        attention=found.attention or attention,
        compiling=found.on_cuda if found.compiling is None else found.compiling,
    )


def carry_out(settings: BenchmarkSettings, tell: Callable[[str], None]) -> Iterator[list[Cost]]:
    """What the (resolved) settings ask for, one table after the other; `tell` is told what is done next."""
    for name in settings.counted:
        for batch in settings.batches or (1,):
            steps = settings.steps or _COUNTED_STEPS
            yield count(SHAPES[name], settings.ways, steps=steps, batch=batch, tell=tell)
    with threads(settings.cpu_threads):
        for name in settings.timed:
            for batch in settings.timed_batches:
                for kernel in settings.kernels:
                    yield _timed(settings, name, batch, kernel, tell)


def left_out(settings: BenchmarkSettings) -> list[str]:
    """What a reader could expect and will not find, with the reason."""
    asked = settings.ways or tuple(WAYS)
    notes = [
        f"{name}: {', '.join(rivals)}: diffusers' Attend-and-Excite does not draw it"
        for name in dict.fromkeys((*settings.counted, *settings.timed))
        if (rivals := [way for way in asked if WAYS[way].rival and not SHAPES[name].rival])
    ]
    if not settings.timing:
        return notes
    if unseen := [way for way in asked if WAYS[way].counted_only]:
        notes.append(f"{', '.join(unseen)} is counted, not timed: what random weights attend to decides it")
    if settings.on_cuda:
        if "xformers" not in settings.attention:
            notes.append("xformers was not timed" + ("" if has_xformers() else ": it is not installed"))
        return notes
    notes.append("no CUDA device: float16, xFormers and compiled denoisers were not timed")
    if not settings.shapes:
        notes.append("sdxl is not timed on a CPU unless --shape sdxl asks for it")
    if not settings.ways:
        notes.append(f"on a CPU only {', '.join(_CPU_WAYS)} are timed unless --way asks for others")
    return notes


def save(out: Path, settings: BenchmarkSettings, costs: Sequence[Cost]) -> list[Path]:
    """Write the tables and the plain values into a folder, and tell where."""
    about = machine(str(settings.device), settings.cpu_threads or torch.get_num_threads())
    out.mkdir(parents=True, exist_ok=True)
    table, values = out / "speed.md", out / "speed.json"
    table.write_text(markdown(costs, about) + "\n", encoding="utf-8")
    values.write_text(json.dumps(plain_values(costs, about), indent=1) + "\n", encoding="utf-8")
    return [table, values]


def _timed(
    settings: BenchmarkSettings, name: str, batch: int, kernel: Kernel, tell: Callable[[str], None]
) -> list[Cost]:
    return clock(
        SHAPES[name],
        settings.ways or (() if settings.on_cuda else _CPU_WAYS),
        steps=settings.steps or (50 if settings.on_cuda else 2),
        device=str(settings.device),
        dtype=getattr(torch, str(settings.dtype)),
        rounds=settings.rounds,
        batch=batch,
        kernel=kernel,
        tell=tell,
    )
