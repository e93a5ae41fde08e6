"""Draws again while a word of the prompt is not in the image: a stronger nudge, then another seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from PIL import Image

from ..explain import Verdict
from ..guidance import GuidanceError, GuidedRun, Objective

STRONGER: Final = 2.0
"""By how much a second try of the same noise is nudged more."""
SEED_STRIDE: Final = 1_000_000
"""How far the next seed is from the last, so that tries of neighbouring seeds do not meet."""
SEEDS: Final = 2**63

Checker = Callable[..., Verdict]
"""`checker(image, words, prompt=prompt)`: `heedful.explain.check`, or a partial of it with a model."""
_Wanted = TypeVar("_Wanted", bound=Objective)


@dataclass(frozen=True)
class Try:
    """What to draw next: `strength` multiplies the step of guidance, `seed` is that of the noise."""

    strength: float
    seed: int


@dataclass(frozen=True, eq=False)
class Tried:
    """One try, its image, how it came about, and what was found in it."""

    strength: float
    seed: int
    image: Image.Image
    verdict: Verdict
    run: GuidedRun

    def to_dict(self) -> dict[str, Any]:
        """Everything but images, maps and the run, in types that JSON knows."""
        return {"strength": self.strength, "seed": self.seed, "verdict": self.verdict.to_dict()}

    def __repr__(self) -> str:
        return f"Tried(strength {self.strength:g}, seed {self.seed}: {self.verdict!r})"


def plan(tries: int, seed: int, *, strength: float = 1.0, noise: bool = True) -> tuple[Try, ...]:
    """The tries in their order: as asked for, then twice as strong, then each from another seed as asked for.

    Of 37 images of the embedded model in which its judge missed a word, twice the strength mended 17, another
    seed 30.

    Args:
        tries: how many at most, the first one counted.
        seed: of the first two; 0 to 2^63 - 1.
        strength: of all but the second.
        noise: whether there is other noise; if not, each try is stronger than the last.

    Raises:
        GuidanceError: less than one try.
    """
    if tries < 1:
        raise GuidanceError(f"wanted at least 1 try, the first one counted; got {tries}")
    if not noise:
        return tuple(Try(strength * STRONGER**index, seed) for index in range(tries))
    others = (Try(strength, (seed + index * SEED_STRIDE) % SEEDS) for index in range(1, tries - 1))
    return (Try(strength, seed), Try(strength * STRONGER, seed), *others)[:tries]


def until_heeded(tries: Sequence[Try], draw: Callable[[Try], Tried]) -> tuple[Tried, ...]:
    """Draw one try after another until every word is heeded; return all that were drawn.

    Raises:
        GuidanceError: no tries.
    """
    if not tries:
        raise GuidanceError("there is nothing to try; make a plan of at least 1 try")
    tried: list[Tried] = []
    for one in tries:
        tried.append(draw(one))
        if tried[-1].verdict.heeded:
            break
    return tuple(tried)


def best(tried: Sequence[Tried]) -> Tried:
    """The try whose verdict is best: all heeded, else the better neglected word, else the better mean.

    Of equals, the first.
    """
    return max(tried, key=lambda one: _goodness(one.verdict))


def _goodness(verdict: Verdict) -> tuple[bool, float, float]:
    mean = sum(word.share for word in verdict.words) / len(verdict.words)
    return verdict.heeded, verdict.share, mean


def strengthened(objective: _Wanted, strength: float) -> _Wanted:
    """The objective with its step `strength` times as long; 1 leaves it as it is.

    Raises:
        GuidanceError: a step that has no size, or a negative strength.
    """
    if strength < 0:
        raise GuidanceError(f"strength multiplies the step and is at least 0, got {strength}")
    if strength == 1:
        return objective
    step: Any = objective.step
    if not isinstance(getattr(step, "size", None), int | float):
        raise GuidanceError(f"{type(step).__name__} has no size that could be made larger")
    return replace(objective, step=replace(step, size=step.size * strength))
