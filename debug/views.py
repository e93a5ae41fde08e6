"""What a report shows, ready for its template: pictures as data, words with their numbers, charts.

Maps travel as grey pictures of their own small grid. The page colours them and lays them over the image, so
that a picture a step and word costs some hundred bytes, and the image itself is there once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..pictures.html import cell_text, data_uri, heat_uri
from .charts import Chart, Series, line_chart
from .opinions import Map, Opinion, Outcome, evidence, opinions, outcomes, place, scores
from .sources import Entry, Source

BUDGET: Final = 2_000_000
"""Characters that the maps of single steps may take in one report; beyond it, steps are left out."""
LARGEST_IMAGE: Final = 1024
THUMB: Final = 192


@dataclass(frozen=True)
class WordSide:
    """One word in one image: where it looked, step by step, its numbers, what the image shows of it."""

    name: str
    mean: Map | None
    steps: tuple[Map, ...]
    numbers: Mapping[str, str]
    opinions: tuple[Opinion, ...]
    evidence: tuple[Map, ...] = ()
    scores: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str | None:
        """The first verdict that there is."""
        return next((one.verdict for one in self.opinions if one.verdict), None)


@dataclass(frozen=True)
class WordView:
    """One word, in every image of a part."""

    label: str
    guided: bool
    sides: tuple[WordSide, ...]
    chart: Chart | None
    scale: str


@dataclass(frozen=True)
class SideView:
    """One image of a part: its data, a small copy for under the maps, its size in pixels, its text."""

    name: str
    uri: str | None
    thumb: str | None
    width: int
    height: int
    alt: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Part:
    """One part of the report."""

    prompt: str
    sides: tuple[SideView, ...]
    words: tuple[WordView, ...]
    loss: Chart | None
    loss_rows: tuple[tuple[str, ...], ...]
    loss_columns: tuple[str, ...]
    step_names: tuple[str, ...]
    omitted: str
    settings: Mapping[str, str]
    command: str
    versions: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())

    @property
    def guided_words(self) -> tuple[WordView, ...]:
        """The words that guidance was for, or all where there was none."""
        return tuple(word for word in self.words if word.guided) or self.words

    @property
    def judged_words(self) -> tuple[WordView, ...]:
        """The words of which something is said."""
        return tuple(word for word in self.words if any(side.opinions for side in word.sides))

    @property
    def other_words(self) -> tuple[WordView, ...]:
        """The other words of the prompt."""
        return tuple(word for word in self.words if word not in self.guided_words)


def part(entry: Entry, stride: int = 1) -> Part:
    """Make one part ready; only every `stride`-th step's maps are shown, and the last."""
    steps = max((len(source.timesteps) for source in entry.sources), default=0)
    shown = sorted({*range(0, steps, stride), steps - 1} - {-1})
    if not any(source.record is not None and source.record.step_maps for source in entry.sources):
        shown = []
    spans = {span.label: span for source in entry.sources for span in source.spans}
    guided = {span.label for source in entry.sources for span in source.guided}
    rows, columns = _losses(entry)
    return Part(
        prompt=entry.prompt,
        sides=tuple(_side(source) for source in entry.sources),
        words=tuple(_word(entry, label, label in guided, shown) for label in spans),
        loss=_loss_chart(entry),
        loss_rows=rows,
        loss_columns=columns,
        step_names=tuple(_step_name(entry.sources[0], step, steps) for step in shown),
        omitted=f"Every {_ordinal(stride)} step is shown, to keep this file small."
        if stride > 1 and shown
        else "",
        settings={name.replace("_", " "): told(value) for name, value in entry.settings.items()},
        command=entry.command,
        versions=dict(entry.versions),
        notes=tuple(_notes(entry)),
    )


def stride_for(entries: Sequence[Entry]) -> int:
    """Which steps' maps fit into `BUDGET`: all (1), every second (2), ..."""
    wanted = 0
    for source in (source for entry in entries for source in entry.sources):
        maps = source.record.step_maps if source.record is not None else ()
        if maps:
            steps, words, height, width = maps[source.index].shape
            wanted += steps * words * ((height * width + 80) * 4 // 3 + 120)
    return max(1, math.ceil(wanted / BUDGET))


def _side(source: Source) -> SideView:
    if source.image is None:
        heights, widths = (
            zip(*(map_.shape for map_ in _mean_maps(source)), strict=True)
            if _mean_maps(source)
            else ((1,), (1,))
        )
        return SideView(source.name, None, None, widths[0], heights[0], "", tuple(outcomes(source)))
    image = _fitted(source.image, LARGEST_IMAGE)
    alt = f"the {source.name} image of the prompt: {source.prompt}"
    return SideView(
        source.name,
        data_uri(image),
        data_uri(_fitted(image, THUMB)),
        *source.image.size,
        alt,
        tuple(outcomes(source)),
    )


def _mean_maps(source: Source) -> list[Tensor]:
    found = (source.mean_map(span.label) for span in source.spans)
    return [one for one in found if one is not None]


def _fitted(image: Image.Image, side: int) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _word(entry: Entry, label: str, guided: bool, shown: Sequence[int]) -> WordView:
    means = [source.mean_map(label) for source in entry.sources]
    runs = [source.step_maps(label) if shown else None for source in entry.sources]
    top = max((float(one.max()) for one in means if one is not None), default=0.0)
    step_top = max((float(one.max()) for one in runs if one is not None), default=0.0)
    sides = tuple(
        WordSide(
            source.name,
            None
            if mean is None
            else _map(mean, top, "mean of all steps" if source.record else "last probe", label, source),
            () if run is None else tuple(_step_map(run, step, step_top, label, source) for step in shown),
            _numbers(source, label),
            tuple(opinions(source, label)),
            tuple(evidence(source, label)),
            scores(source, label),
        )
        for source, mean, run in zip(entry.sources, means, runs, strict=True)
    )
    scale = f"White is the word's highest attention among these images: {top:.2g} on average"
    scale += f", {step_top:.2g} in a single step." if step_top else "."
    return WordView(label, guided, sides, _peak_chart(entry, label), scale)


def _map(values: Float[Tensor, "height width"], top: float, caption: str, label: str, source: Source) -> Map:
    heat = (values / top).clamp(0, 1) if top > 0 else values * 0
    peak = float(values.max())
    return Map(
        heat_uri(heat),
        caption,
        f"{source.name}, {caption}: attention of {label}, at most {peak:.2g}, {place(values)}",
    )


def _step_map(
    run: Float[Tensor, "step height width"], step: int, top: float, label: str, source: Source
) -> Map:
    heat = (run[step] / top).clamp(0, 1) if top > 0 else run[step] * 0
    peak = float(run[step].max())
    return Map(heat_uri(heat), f"step {step + 1}", f"{label}, step {step + 1}: at most {peak:.2g}")


def _numbers(source: Source, label: str) -> dict[str, str]:
    own = source.measures.get(label)
    if own is None or source.record is None:
        return {}
    found = {
        "peak": f"{own.peak:.3f}",
        "mass": f"{own.mass:.3f}",
        "entropy": f"{own.entropy:.2f} bits",
        "centre": f"{own.centre[0]:.2f} down, {own.centre[1]:.2f} across",
        "spread": f"{own.spread:.2f}",
    }
    rival = source.record.thief(label, source.index, specials=False)
    told = None if rival is None else f"{rival.token.label}: {rival.share:.3f}, own {rival.own:.3f}"
    return found if told is None else found | {"strongest rival": told}


def _losses(entry: Entry) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    probed = [source for source in entry.sources if source.run is not None and source.run.steps]
    if not probed:
        return (), ()
    logs = [{step.index: step for step in source.run.steps} for source in probed if source.run is not None]
    rows = []
    for step in sorted({index for log in logs for index in log}):
        row = [str(step + 1)]
        for source, log in zip(probed, logs, strict=True):
            found = log.get(step)
            row += (
                ["", "", ""]
                if found is None
                else [
                    f"{found.losses[source.index]:.4f}",
                    str(found.refinements[source.index]),
                    f"{found.relative_shifts[source.index]:.3f}",
                ]
            )
        rows.append(tuple(row))
    columns = [f"{source.name}: {what}" for source in probed for what in ("loss", "refinements", "shift")]
    return tuple(rows), ("step", *columns)


def _loss_chart(entry: Entry) -> Chart | None:
    lines = []
    for source in entry.sources:
        if source.run is not None and source.run.steps:
            logs = source.run.steps
            values = tuple(step.losses[source.index] for step in logs)
            lines.append(Series(source.name, tuple(step.index for step in logs), values))
    return line_chart("Loss", lines, steps=_probed_steps(entry))


def _probed_steps(entry: Entry) -> int:
    """The steps of the whole trajectory where they are known, else up to the last that was probed."""
    probed = [step.index + 1 for source in entry.sources if source.run for step in source.run.steps]
    return max([len(source.timesteps) for source in entry.sources if source.record] + probed, default=1)


def _peak_chart(entry: Entry, label: str) -> Chart | None:
    lines = [Series(source.name, *source.peaks(label)) for source in entry.sources if source.peaks(label)[0]]
    steps = max((line.steps[-1] + 1 for line in lines), default=0)
    return line_chart("Highest attention", lines, steps=steps, height=150)


def _step_name(source: Source, step: int, steps: int) -> str:
    time = source.timesteps.get(step)
    return f"step {step + 1} of {steps}" + ("" if time is None else f", timestep {time:g}")


def _notes(entry: Entry) -> list[str]:
    notes = []
    for source in entry.sources:
        lost = source.record.settings.get("left_out", []) if source.record is not None else []
        cut = lost[source.index] if source.index < len(lost) else []
        note = f"The text encoder cut the prompt off; it never saw: {', '.join(cut)}."
        if cut and note not in notes:
            notes.append(note)
        skipped = [step for step in source.run.steps if step.skipped] if source.run is not None else []
        notes += [f"{source.name}, step {step.index + 1}: {step.skipped}." for step in skipped]
    return notes


def _ordinal(number: int) -> str:
    ending = {2: "nd", 3: "rd"}.get(number, "th")
    return f"{number}{ending}"


def told(value: Any) -> str:
    """A setting as a person writes it; what it is made of, one by one."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, int) for one in value):
        return f"{value[0]} x {value[1]}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {told(one)}" for name, one in value.items())
    return cell_text(value)
