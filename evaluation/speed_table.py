"""Tables of what guidance costs, made from measured costs: markdown for a page, plain values for a file."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from .speed import Cost
from .speed_counters import PARTS
from .speed_shapes import SHAPES
from .speed_ways import WAYS

_GIB = 2**30
Forwards = Mapping[tuple[str, str], float]


def markdown(costs: Sequence[Cost], about: str) -> str:
    """All costs as tables, one for each shape, unit, batch and kernel; `about` names machine and versions."""
    blocks = [about]
    for _, own in groupby(costs, key=_alike):
        blocks.append(_block(list(own)))
    return "\n\n".join(blocks)


def plain_values(costs: Sequence[Cost], about: str) -> dict[str, Any]:
    """All costs in types that JSON knows."""
    return {"about": about, "costs": [{**asdict(cost), "kernel": str(cost.kernel)} for cost in costs]}


def machine(device: str, threads: int) -> str:
    """Machine and versions, on one line."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {threads} thread{'s' * (threads > 1)}"
    return f"{name}, torch {torch.__version__}, diffusers {version('diffusers')}."


def forward(costs: Sequence[Cost]) -> float:
    """What the denoiser's forward of one image costs, which plain sampling does twice a step.

    Raises:
        ValueError: plain sampling is not among the costs.
    """
    for cost in costs:
        if cost.way == "plain":
            return cost.amount / (2 * cost.load.steps * cost.load.batch)
    raise ValueError("nothing to compare with: plain sampling was not measured")


def move(cost: Cost, without: Cost, costs: Sequence[Cost]) -> float:
    """What one refinement move costs in forwards: all that it adds to the same way without refinement."""
    return (cost.amount - without.amount) / cost.moves / forward(costs)


def _alike(cost: Cost) -> tuple[Any, ...]:
    return cost.shape, cost.unit, cost.load.batch, str(cost.kernel), cost.dtype


def _block(costs: Sequence[Cost]) -> str:
    first = costs[0]
    counted = first.unit == "operations"
    lines = [f"**{_title(first)}**", "", *(_counted(costs) if counted else _timed(costs))]
    return "\n".join([*lines, "", *_moves(costs), *_divided(costs)])


def _title(cost: Cost) -> str:
    load = cost.load
    images = f"batch of {load.batch}, " if load.batch > 1 else ""
    how = "counted" if cost.unit == "operations" else f"timed, {cost.kernel}, {cost.dtype}, {_rounds(cost)}"
    steps = f"{load.steps} steps, {load.steps // 2} of them guided"
    return f"{SHAPES[cost.shape].about if cost.shape in SHAPES else cost.shape}: {images}{steps}, {how}"


def _rounds(cost: Cost) -> str:
    count = len(cost.rounds)
    return "one round" if count == 1 else f"{count} rounds in turns"


def _counted(costs: Sequence[Cost]) -> list[str]:
    unit, plain = forward(costs), _plain(costs)
    lines = [
        f"| way | operations over plain | forwards an image | peak memory, {plain.dtype} | over plain |",
        "|---|---|---|---|---|",
    ]
    for cost in costs:
        forwards = cost.amount / unit / cost.load.batch
        lines.append(
            f"| {_name(cost)} | {cost.amount / plain.amount:.3f} | {forwards:.1f} | {_memory(cost, plain)} |"
        )
    return lines


def _timed(costs: Sequence[Cost]) -> list[str]:
    plain = _plain(costs)
    clock = "CPU seconds" if plain.peak is None else "seconds"
    lines = [f"| way | {clock}, median | over plain | peak memory | over plain |", "|---|---|---|---|---|"]
    for cost in costs:
        over = cost.amount / plain.amount
        lines.append(f"| {_name(cost)} | {cost.amount:.2f} | {over:.3f} | {_memory(cost, plain)} |")
    return lines


def _memory(cost: Cost, plain: Cost) -> str:
    if cost.bytes is None or plain.bytes is None:
        return "- | -"
    return f"{cost.bytes / _GIB:.2f} GiB | {cost.bytes / plain.bytes:.2f}"


def _moves(costs: Sequence[Cost]) -> list[str]:
    by_way = {cost.way: cost for cost in costs}
    found = []
    for way, without in (("refined", "guided"), ("diffusers-refined", "diffusers")):
        if way in by_way and without in by_way:
            price = move(by_way[way], by_way[without], costs)
            found.append(f"{'heedful' if way == 'refined' else 'diffusers'} {price:.2f}")
    return [f"A refinement move, in forwards: {', '.join(found)}.", ""] if found else []


def _divided(costs: Sequence[Cost]) -> list[str]:
    """One step of each way in forwards of one image; what a probe costs is that of a guided step."""
    own = [cost for cost in costs if cost.parts and WAYS[cost.way].divided]
    if not own:
        return []
    shown = [*PARTS[:-1], *(["rest"] if own[0].unit == "seconds" else [])]
    lines = [f"| in forwards an image and step | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}"]
    for cost in own:
        steps = cost.load.steps * cost.load.batch
        half = WAYS[cost.way].last(cost.load.steps) * cost.load.batch
        of = {name: half if name.startswith("probe") else steps for name in shown}
        values = [cost.parts[name] / of[name] / forward(costs) for name in shown]
        lines.append(f"| {_name(cost)} | {' | '.join(f'{value:.3f}' for value in values)} |")
    again = next((cost for cost in own if cost.way == "guided"), None)
    if again is None or not again.again:
        return lines
    more = (again.amount + again.again) / _plain(costs).amount
    return [
        *lines,
        "",
        "Fused attention computes its scores a second time in the backward, so as not to keep them; with "
        f"that counted, the second line of the first table is {more:.3f} of plain sampling.",
    ]


def _plain(costs: Sequence[Cost]) -> Cost:
    forward(costs)
    return next(cost for cost in costs if cost.way == "plain")


def _name(cost: Cost) -> str:
    return WAYS[cost.way].about + (f", {cost.moves} moves" if cost.moves else "")


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
