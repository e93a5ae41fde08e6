"""What guidance costs in operations, memory and time, beside plain sampling and diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import torch

from .errors import EvaluationError
from .speed_counters import PARTS, Counted, LiveBytes, Seconds, divided
from .speed_kernels import EAGER, Kernel, with_kernel
from .speed_shapes import Shape, build, weight_bytes
from .speed_ways import WAYS, Load, Way, ways_for
from .speed_weightless import weightless

Tell = Callable[[str], None]
"""Told what is done next."""
_REAL: Final = 50
"""Steps that counted figures are for."""


@dataclass(frozen=True)
class Cost:
    """What drawing in one way costs.

    Attributes:
        shape, way: names of `speed_shapes.SHAPES` and `speed_ways.WAYS`.
        unit: "operations", counted, or "seconds".
        amount: how many, of the whole call; for seconds the median of `rounds`.
        peak: the most bytes at once beyond the denoiser's weights; None where it is not known.
        weights: bytes of the denoiser's weights.
        parts: the amount divided among `speed_counters.PARTS`; empty where it was not divided.
        again: operations that fused attention repeats in its backward, beyond `amount`.
        load: steps, batch, refinement moves.
        moves: refinement moves that were made.
        kernel: what computes attention, and whether the denoiser was compiled.
        dtype: of weights and latents.
        rounds: all measurements, in their order.
    """

    shape: str
    way: str
    unit: str
    amount: float
    peak: int | None
    weights: int
    load: Load
    moves: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)
    again: float = 0.0
    kernel: Kernel = EAGER
    dtype: str = "float16"
    rounds: tuple[float, ...] = ()

    @property
    def bytes(self) -> int | None:
        """Peak with the denoiser's weights."""
        return None if self.peak is None else self.peak + self.weights


def count(
    shape: Shape,
    ways: Sequence[str] = (),
    *,
    steps: int = _REAL,
    batch: int = 1,
    dtype: torch.dtype = torch.float16,
    tell: Tell = lambda what: None,
) -> list[Cost]:
    """Count operations and peak memory of each way on a denoiser without weights, on any machine.

    Real pipelines run (`speed_weightless`), for two small numbers of steps; what the other steps cost follows
    from these, for each costs as much as the one before it. Operations are those of matrix products,
    convolutions and attention; bytes are those of all tensors alive at once, in the given type.

    Raises:
        EvaluationError: a way that is not known, or not for this shape; steps that are odd.
    """
    pipe = build(shape, "meta", dtype)
    found = []
    for name in _checked(shape, ways, steps):
        tell(f"{shape.about}: counting, {WAYS[name].about}")
        runs = [_count(shape, pipe, name, Load(few, batch)) for few in _lengths(WAYS[name], steps)]
        found.append(_extended(runs[0], runs[-1], steps))
    return found


def clock(
    shape: Shape,
    ways: Sequence[str] = (),
    *,
    steps: int,
    device: str,
    dtype: torch.dtype,
    rounds: int = 3,
    batch: int = 1,
    kernel: Kernel = EAGER,
    tell: Tell = lambda what: None,
) -> list[Cost]:
    """Time each way on random weights, in turns (A B A B ...), after a short run that is not counted.

    On CUDA the peak is what torch allocated; on a CPU it is not known (`count` tells it). Without compilation
    one more run of each guided way tells the parts.

    Raises:
        EvaluationError: as `count`, and for a kernel that is not there.
    """
    names = [name for name in _checked(shape, ways, steps) if not WAYS[name].counted_only]
    names = [name for name in names if kernel == EAGER or not WAYS[name].rival]
    pipe = build(shape, device, dtype)
    load = Load(steps, batch)
    with with_kernel(pipe, kernel):
        tell(f"{shape.about}: warming up")
        for name in names if device.startswith("cuda") else names[:1]:
            WAYS[name].draw(shape, pipe, replace_steps(load, 2))
        timed = {name: _Timed(shape, pipe, name, load, Seconds(device)) for name in names}
        for turn in range(rounds):
            for name, one in timed.items():
                tell(f"{shape.about}: round {turn + 1} of {rounds}, {WAYS[name].about}")
                one.run()
        about = {"load": load, "kernel": kernel, "dtype": str(dtype).removeprefix("torch.")}
        return [one.cost(divide=kernel == EAGER, **about) for one in timed.values()]


def replace_steps(load: Load, steps: int) -> Load:
    """The same load with another number of steps."""
    return Load(steps, load.batch, load.moves)


def _checked(shape: Shape, ways: Sequence[str], steps: int) -> tuple[str, ...]:
    unknown = [name for name in ways if name not in WAYS]
    if unknown:
        raise EvaluationError(f"no way is called {', '.join(unknown)}; there are: {', '.join(WAYS)}")
    if steps < 2 or steps % 2:
        raise EvaluationError(f"half of the steps are guided, so their number is even; got {steps}")
    found = ways_for(shape, tuple(ways))
    if ways and not found:
        raise EvaluationError(
            f"diffusers' Attend-and-Excite does not draw {shape.about}; leave out {', '.join(ways)}"
        )
    return found


def _lengths(way: Way, steps: int) -> tuple[int, ...]:
    """The two smallest numbers of steps, one twice the other, of which as large a share is guided."""
    for few in range(2, steps // 2 + 1, 2):
        if way.last(few) * steps == few * way.last(steps):
            return few, 2 * few
    return (steps,)


def _count(shape: Shape, pipe: Any, name: str, load: Load) -> Cost:
    way, denoiser = WAYS[name], pipe.unet
    with (
        weightless(denoiser, way.gaze()),
        LiveBytes(denoiser) as live,
        Counted() as counted,
        divided(denoiser, counted) as parts,
    ):
        way.draw(shape, pipe, load)
    return Cost(
        shape.name,
        name,
        "operations",
        counted.total,
        live.peak,
        weight_bytes(denoiser),
        load,
        moves=way.moves(load) * load.batch,
        parts=parts,
        again=counted.again,
        dtype=str(denoiser.dtype).removeprefix("torch."),
    )


def _extended(short: Cost, long: Cost, steps: int) -> Cost:
    """The cost of so many steps, from that of two shorter runs: it grows by as much with every two steps."""

    if short.load.steps == steps:
        return short

    def at(few: float, more: float) -> float:
        return few + (more - few) * (steps - short.load.steps) / (long.load.steps - short.load.steps)

    assert short.peak is not None
    assert long.peak is not None
    return Cost(
        short.shape,
        short.way,
        short.unit,
        at(short.amount, long.amount),
        max(short.peak, long.peak),
        short.weights,
        replace_steps(short.load, steps),
        moves=short.moves,
        parts={name: at(short.parts[name], long.parts[name]) for name in PARTS},
        again=at(short.again, long.again),
        dtype=short.dtype,
    )


class _Timed:
    """One way, timed several times."""

    def __init__(self, shape: Shape, pipe: Any, name: str, load: Load, seconds: Seconds) -> None:
        self.shape, self.pipe, self.name, self.load, self.seconds = shape, pipe, name, load, seconds
        self.rounds: list[float] = []
        self.peaks: list[int] = []

    def run(self) -> None:
        if self.seconds.gpu:
            torch.cuda.reset_peak_memory_stats()
        started = self.seconds.read()
        self._draw()
        self.rounds.append(self.seconds.read() - started)
        if self.seconds.gpu:
            self.peaks.append(torch.cuda.max_memory_allocated())

    def cost(self, *, divide: bool, **about: Any) -> Cost:
        weights = weight_bytes(self.pipe.unet)
        return Cost(
            self.shape.name,
            self.name,
            "seconds",
            median(self.rounds),
            max(self.peaks) - weights if self.peaks else None,
            weights,
            moves=WAYS[self.name].moves(self.load) * self.load.batch,
            parts=self._parts() if divide and WAYS[self.name].divided else {},
            rounds=tuple(self.rounds),
            **about,
        )

    def _parts(self) -> Mapping[str, float]:
        with divided(self.pipe.unet, self.seconds) as parts:
            self._draw()
        return parts

    def _draw(self) -> None:
        WAYS[self.name].draw(self.shape, self.pipe, self.load)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Within the block torch computes with so many CPU threads; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
