"""Brings attempts, runs and records to one shape: images, and with each all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..explain import Verdict
from ..guidance import AttentionRecord, GuidedRun, Span
from ..guidance.measures import WordMeasures
from .attempt import Attempt, Drawn
from .errors import ReportError

_LONG = ("grids", "left_out", "layers")  # said elsewhere, or too long to be read
Reported = Attempt | GuidedRun | AttentionRecord


@dataclass(frozen=True, eq=False)
class Source:
    """One image of one call, and what is known of it.

    Attributes:
        name: what it is called beside the others: "plain", "guided", "image 2".
        prompt: empty where only embeddings were known.
        image: None where none was given.
        index: its number within run and record.
    """

    name: str
    prompt: str
    image: Image.Image | None = None
    run: GuidedRun | None = None
    record: AttentionRecord | None = None
    index: int = 0
    verdict: Verdict | None = None
    judged: Mapping[str, str] | None = None

    @property
    def guided(self) -> tuple[Span, ...]:
        """The words that guidance was for."""
        return self.run.spans[self.index] if self.run is not None else ()

    @property
    def spans(self) -> tuple[Span, ...]:
        """Every word that something is known of, in the order of the prompt."""
        recorded = self.record.spans[self.index] if self.record is not None else ()
        labels = {span.label for span in recorded}
        others = tuple(span for span in self.guided if span.label not in labels)
        return tuple(sorted((*recorded, *others), key=lambda span: span.indices))

    @cached_property
    def measures(self) -> dict[str, WordMeasures]:
        """The numbers of every recorded word's map, by its label."""
        return {} if self.record is None else self.record.measures(self.index)

    def mean_map(self, label: str) -> Float[Tensor, "height width"] | None:
        """Where the word looked, on average over what was recorded, else at the last probe."""
        if self._recorded(label):
            assert self.record is not None
            return self.record.heat_map(label, self.index)
        for place, span in enumerate(self.guided):
            if span.label == label and self.run is not None and self.run.maps:
                return self.run.maps[self.index][place]
        return None

    def step_maps(self, label: str) -> Float[Tensor, "step height width"] | None:
        """Where the word looked at each step; None unless it was recorded so."""
        if self.record is None or not self._recorded(label) or not self.record.step_maps:
            return None
        return self.record.by_step(label, self.index)

    def peaks(self, label: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The word's highest attention, (steps, values): as it was recorded, else as it was probed."""
        maps = self.step_maps(label)
        if maps is not None:
            return tuple(range(len(maps))), tuple(maps.flatten(1).amax(1).tolist())
        place = next((place for place, span in enumerate(self.guided) if span.label == label), None)
        if place is None or self.run is None:
            return (), ()
        steps = self.run.steps
        return tuple(step.index for step in steps), tuple(
            step.word_attention[self.index][place] for step in steps
        )

    @property
    def timesteps(self) -> dict[int, float]:
        """The timestep of each step that is known, by its number from 0."""
        if self.record is not None:
            return dict(enumerate(self.record.steps))
        return {step.index: step.timestep for step in self.run.steps} if self.run is not None else {}

    def _recorded(self, label: str) -> bool:
        return self.record is not None and any(span.label == label for span in self.record.spans[self.index])


@dataclass(frozen=True, eq=False)
class Entry:
    """One part of a report: images that belong side by side, and how to make them again."""

    prompt: str
    sources: tuple[Source, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


def entries(results: Reported | Sequence[Reported], images: Sequence[Image.Image] = ()) -> list[Entry]:
    """Bring results to one shape: an entry an attempt, and an entry an image of a run or record.

    Args:
        results: what is reported, one or several.
        images: what came out, for runs and records, which hold no image: in their order, one an image.

    Raises:
        ReportError: nothing to report, something else, or another number of images.
    """
    listed = [results] if isinstance(results, Reported) else list(results)
    strange = [type(one).__name__ for one in listed if not isinstance(one, Reported)]
    if strange or not listed:
        raise ReportError(
            "a report is made of an Attempt, a GuidedRun, an AttentionRecord, or several of them; got "
            f"{', '.join(strange) or 'none'}"
        )
    wanted = sum(len(one.spans) for one in listed if not isinstance(one, Attempt))
    if images and len(images) != wanted:
        raise ReportError(
            f"images are for runs and records, one an image: wanted {wanted}, got {len(images)}"
        )
    left = iter(images)
    found: list[Entry] = []
    for one in listed:
        found += [_of_attempt(one)] if isinstance(one, Attempt) else _of_call(one, left)
    return found


def _of_attempt(attempt: Attempt) -> Entry:
    drawn = [attempt.plain, attempt.guided]
    run = attempt.guided.run
    own = attempt.settings.to_dict()
    used = {
        name: run.settings[name]
        for name in ("pipeline", "scheduler", "guidance_scale")
        if name in run.settings
    }
    return Entry(
        attempt.settings.prompt,
        tuple(_of_drawn(one, attempt.settings.prompt) for one in drawn),
        {**own, **used, "model": own["model"] or "embedded", "size": list(attempt.guided.image.size)},
        run.versions,
        attempt.settings.command_line(),
        attempt.seconds,
    )


def _of_drawn(drawn: Drawn, prompt: str) -> Source:
    return Source(drawn.kind, prompt, drawn.image, drawn.run, drawn.record, 0, drawn.verdict, drawn.judged)


def _of_call(result: GuidedRun | AttentionRecord, images: Any) -> list[Entry]:
    run = result if isinstance(result, GuidedRun) else None
    record = result if isinstance(result, AttentionRecord) else None
    kind = "guided" if run is not None else "recorded"
    prompts = result.prompts or ("",) * len(result.spans)
    sources = [
        Source(kind, prompt, next(images, None), run, record, index) for index, prompt in enumerate(prompts)
    ]
    settings = {name: value for name, value in result.settings.items() if name not in _LONG}
    return [Entry(source.prompt, (source,), settings, result.versions) for source in sources]
