"""Objectives by name, so that a command, a table and a reader mean the same by the same word.

Each is made for the prompts at hand, from what is known of a prompt beside its text: its subjects. Losses and
their sums are guided alike (`SCHEDULE`, `STEP`), so that they cost alike and differ only in what they want.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ..guidance import (
    AT_ONCE,
    THOROUGH,
    THRIFTY,
    AttendAndExcite,
    AttentionMaps,
    Objective,
    OptimisedNoise,
    Rectify,
    RelativeStep,
    Schedule,
)
from ..guidance.losses import (
    LOSSES,
    Loss,
    Losses,
    Spans,
    attend_and_excite,
    attention_peak,
    intersection_over_union,
    jensen_shannon_binding,
    name_of,
    needs,
    required_by,
    symmetric_kl_binding,
    taken_by,
    total_variation,
)
from .errors import EvaluationError

EARLY: Final = Schedule({}, until=0.2)
"""One move in each of the first fifth of the steps."""
ENOUGH: Final = Schedule({}, until=0.52, enough={0.0: 0.35, 0.368: 0.58})
"""As `AT_ONCE`, but content with less attention."""
SPARING: Final = Schedule(
    {},
    since=0.05,
    until=0.72,
    enough={0.04: 0.32, 0.08: 0.38, 0.12: 0.43, 0.2: 0.5, 0.32: 0.56, 0.48: 0.59},
)
"""As `THRIFTY`, but content with a little more attention only, and with a probe before every move."""
SCHEDULE: Final = Schedule({}, until=0.44)
"""One move in each of the first 11 of 25 steps: a quarter more than plain sampling, where a probe with its
gradient costs 1.14 forwards and a step two."""
STEP: Final = RelativeStep(0.05)


@runtime_checkable
class Asked(Protocol):
    """A prompt as far as an objective must know it."""

    @property
    def text(self) -> str:
        """What the pipeline is given."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """The words that must be heeded, without modifiers."""


Maker = Callable[[Sequence[Asked]], Objective]
"""Makes the objective of a batch of prompts."""


@dataclass(frozen=True)
class Named:
    """An objective by its name.

    Attributes:
        about: what it is, one sentence.
        make: prompts to an objective for a batch of them.
    """

    about: str
    make: Maker


def objective(name: str, prompts: Sequence[Asked]) -> Objective:
    """The objective of this name, for a batch of these prompts.

    Raises:
        EvaluationError: a name that there is not; the message has those that there are.
    """
    if name not in OBJECTIVES:
        raise EvaluationError(f'no objective "{name}"; there are: {", ".join(OBJECTIVES)}')
    return OBJECTIVES[name].make(prompts)


def words_of(prompts: Sequence[Asked]) -> list[list[str]]:
    """Each prompt's subjects, as objectives take them."""
    return [list(prompt.subjects) for prompt in prompts]


def side_by_side(prompt: Asked) -> dict[str, tuple[float, float, float, float]]:
    """A box for each subject: vertical stripes of equal width, from left to right in the prompt's order."""
    count = len(prompt.subjects)
    return {
        name: (place / count, 0.0, (place + 1) / count, 1.0) for place, name in enumerate(prompt.subjects)
    }


def where_there_are_modifiers(loss: Loss) -> Loss:
    """A loss that binds modifiers, silent in a prompt that has none instead of refusing it."""

    @needs(*(required_by(loss) - {"groups"}), optional=tuple(taken_by(loss)))
    def binding(maps: AttentionMaps, spans: Spans, **given: Any) -> Float[Tensor, "batch"]:
        return loss(maps, spans, **{"groups": [()] * len(spans), **given})

    binding.__name__ = name_of(loss)
    return binding


def _sum(losses: Losses, schedule: Schedule = SCHEDULE) -> Maker:
    def make(prompts: Sequence[Asked]) -> Objective:
        placed = any("boxes" in required_by(loss) for loss in losses)
        boxes = [side_by_side(prompt) for prompt in prompts] if placed else None
        return Objective(losses, words_of(prompts), schedule=schedule, step=STEP, boxes=boxes)

    return make


_mean_excite = partial(attend_and_excite, reduction="mean")
_SENTENCES: Final = {
    "attention_peak": "every word's largest attention, as it is, without a softmax",
    "attend_and_excite": "the most neglected word attended to somewhere (Attend-and-Excite)",
    "total_variation": "contours in the map that has the least (Divide & Bind)",
    "jensen_shannon_binding": "modifiers where their noun is (Divide & Bind)",
    "symmetric_kl_binding": "modifiers where their noun is and no other word (SynGen)",
    "nt_xent": "an object's maps alike, those of others unlike (CONFORM)",
    "overlap": "words at different places (A-STAR, segregation)",
    "intersection_over_union": "words at different places, over the union",
    "retention": "words where they were at the step before (A-STAR)",
    "self_attention_conflict": "words' places with different surroundings (InitNO)",
    "inner_box": "words inside boxes side by side (BoxDiff, inner)",
    "outer_box": "no word outside its box (BoxDiff, outer)",
    "box_corners": "words' edges at their boxes' (BoxDiff, corner)",
    "layout_energy": "all of a word's attention in its box (layout guidance)",
}


def _losses() -> dict[str, Named]:
    """Each loss of the library alone."""
    return {
        name: Named(
            _SENTENCES[name],
            _sum({where_there_are_modifiers(loss) if "groups" in required_by(loss) else loss: 1.0}),
        )
        for name, loss in LOSSES.items()
    }


def _sums() -> dict[str, Named]:
    bound = where_there_are_modifiers(jensen_shannon_binding)
    separate = where_there_are_modifiers(symmetric_kl_binding)
    return {
        "excite-mean": Named("every word attended to somewhere", _sum({_mean_excite: 1.0})),
        "excite-iou": Named(
            "every word attended to somewhere, words at different places",
            _sum({_mean_excite: 1.0, intersection_over_union: 1.0}),
        ),
        "excite-syngen": Named(
            "every word attended to, modifiers where their noun is and no other word",
            _sum({_mean_excite: 1.0, separate: 0.3}),
        ),
        "divide-and-bind": Named(
            "contours, and modifiers where their noun is (Divide & Bind)",
            _sum({total_variation: 1.0, bound: 1.0}),
        ),
        **_peak_sums(separate),
    }


def _peak_sums(binding: Loss) -> dict[str, Named]:
    peak, neglected = {attention_peak: 1.0}, AT_ONCE
    return {
        "peak-early": Named("`attention_peak` in the first fifth of the steps only", _sum(peak, EARLY)),
        "peak-enough": Named("`at-once`, content with less attention", _sum(peak, ENOUGH)),
        "peak-iou": Named(
            "`at-once`, words at different places",
            _sum({attention_peak: 1.0, intersection_over_union: 0.3}, neglected),
        ),
        "peak-syngen": Named(
            "`at-once`, modifiers where their noun is and no other word",
            _sum({attention_peak: 1.0, binding: 0.3}, neglected),
        ),
    }


def _starts() -> dict[str, Named]:
    return {
        "rectify": Named(
            "one step of 0.1 on the initial noise, words at different places, and no other (Rectify)",
            _started(Rectify(0.1, {intersection_over_union: 1.0})),
        ),
        "initno": Named(
            "the initial noise optimised, and no other guidance (InitNO)",
            _started(OptimisedNoise(rounds=1, last_iterations=0)),
        ),
    }


def _started(start: Rectify | OptimisedNoise) -> Maker:
    never = Schedule({}, until=0.0)
    return lambda prompts: Objective([attend_and_excite], words_of(prompts), schedule=never, start=start)


def _on(schedule: Schedule) -> Maker:
    return lambda prompts: AttendAndExcite(words_of(prompts), schedule=schedule)


def _presets() -> dict[str, Named]:
    return {
        "default": Named(
            "heedful's default: the neglected are nudged, or begin anew",
            lambda prompts: AttendAndExcite(words_of(prompts)),
        ),
        "thorough": Named(
            "on the schedule `THOROUGH`: more images begin anew",
            _on(THOROUGH),
        ),
        "at-once": Named(
            "on the schedule `AT_ONCE`: every image from the first step on, none begins anew",
            _on(AT_ONCE),
        ),
        "refined": Named(
            "Attend-and-Excite corrected: its loss, refined at the paper's points",
            lambda prompts: AttendAndExcite(
                words_of(prompts), reading="softmax", reduction="max", schedule=Schedule()
            ),
        ),
        "paper": Named(
            "Attend-and-Excite as published, for Stable Diffusion 1 and 50 steps",
            lambda prompts: AttendAndExcite.paper(words=words_of(prompts)),
        ),
        "thrifty": Named(
            "on the schedule `THRIFTY`: the neglected are nudged, none begins anew",
            _on(THRIFTY),
        ),
        "sparing": Named(
            "between `at-once` and `thrifty`: for the clearly neglected, a move a probe",
            _on(SPARING),
        ),
    }


OBJECTIVES: Final[Mapping[str, Named]] = {**_presets(), **_losses(), **_sums(), **_starts()}
"""All objectives by name."""
