"""What says whether an image shows a prompt's subjects: the embedded judge, a CLIP, or an object detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from PIL.Image import Image

from ..emoji import Judge
from ..explain import Verdict
from ..explain.comparing import COLOURS
from ..explain.sentences import alone
from ..explain.verdict import HEEDED
from .errors import EvaluationError
from .prompts import Prompt

Checker = Callable[..., "list[Verdict]"]
"""`checker(images, words of each, prompt=texts)`: `explain.check`, or a partial of it with a model."""
OVERLAP: Final = 0.7
"""Boxes that share so much of their union are of one thing, which has the name that fits it best."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one image's prompt.

    Attributes:
        subjects: each subject's name with whether it is there, whatever its colour.
        scores: of the same, 0 to 1; larger is surer.
        coloured: each subject that has a colour, by its label ("red bow"), with whether it is seen in it.
    """

    subjects: Mapping[str, bool]
    scores: Mapping[str, float]
    coloured: Mapping[str, bool]


@runtime_checkable
class Eyes(Protocol):
    """Looks at images."""

    @property
    def told(self) -> dict[str, Any]:
        """What looks, and by which settings, as JSON takes it."""

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raise `EvaluationError` for a prompt with words that it does not know."""

    def look(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Seen]:
        """What of each prompt its image shows."""


class JudgeEyes:
    """The judge of the embedded world, which was trained on it and shares nothing with what draws."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    @property
    def told(self) -> dict[str, Any]:
        """Its threshold."""
        return {"eyes": "the embedded judge", "threshold": self.judge.threshold}

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuse words that are no labels of the judge."""
        for prompt in prompts:
            for word in (*prompt.subjects, *(label for _, label in prompt.coloured)):
                if word not in self.judge.labels:
                    known = ", ".join(label for label in self.judge.labels if " " not in label)
                    raise EvaluationError(
                        f'the embedded judge does not know "{word}" of the prompt "{prompt.text}"; it knows '
                        f"{known}, and objects in a colour"
                    )

    def look(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Seen]:
        """One look an image: subjects and coloured objects have labels of their own."""
        found = []
        for sighting, prompt in zip(self.judge(images), prompts, strict=True):
            own = sighting.verdicts(prompt.subjects)
            found.append(
                Seen(
                    own,
                    {name: float(sighting.scores[name]) for name in own},
                    {label: own[name] and sighting.sees(label) for name, label in prompt.coloured},
                )
            )
        return found


class CheckEyes:
    """`heedful.explain.check`: CLIP or SigLIP with and without each word; unsure counts as not seen."""

    def __init__(self, checker: Checker, name: str) -> None:
        self.checker, self.name = checker, name

    @property
    def told(self) -> dict[str, Any]:
        """The model's name."""
        return {"eyes": f"check by {self.name}"}

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """It reads any words."""

    def look(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Seen]:
        """Names first; then, of prompts that have colours, the coloured names."""
        names = self._asked(images, prompts, [prompt.subjects for prompt in prompts])
        with_colour = [place for place, prompt in enumerate(prompts) if prompt.coloured]
        labels = self._asked(
            [images[place] for place in with_colour],
            [prompts[place] for place in with_colour],
            [tuple(label for _, label in prompts[place].coloured) for place in with_colour],
        )
        coloured = dict(zip(with_colour, labels, strict=True))
        return [_seen(prompt, names[place], coloured.get(place)) for place, prompt in enumerate(prompts)]

    def _asked(
        self, images: Sequence[Image], prompts: Sequence[Prompt], words: Sequence[tuple[str, ...]]
    ) -> list[Verdict]:
        if not images:
            return []
        return self.checker(
            list(images), [list(own) for own in words], prompt=[prompt.text for prompt in prompts]
        )


def _seen(prompt: Prompt, names: Verdict, labels: Verdict | None) -> Seen:
    said = {name: names[name] for name in prompt.subjects}
    own = {name: one.verdict == HEEDED for name, one in said.items()}
    coloured = {
        label: own[name] and labels is not None and labels[label].verdict == HEEDED
        for name, label in prompt.coloured
    }
    return Seen(own, {name: float(one.share) for name, one in said.items()}, coloured)


Detect = Callable[..., Any]
"""`detect(image, candidate_labels=texts, threshold=least)`: transformers' zero-shot object detection, which
gives a list of {"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}."""


class DetectorEyes:
    """A zero-shot object detector of transformers, such as OWL-ViT.

    A subject is seen where a box of its text scores at least the threshold and no other subject's box on the
    same thing (`OVERLAP`) scores more: one animal is not both cat and dog. It is seen in its colour where of
    the eleven colours its own fits best.
    """

    def __init__(self, detect: Detect, name: str, threshold: float = 0.1) -> None:
        """`threshold`: 0 to 1; detectors differ, and OWL-ViT's own is 0.1."""
        self.detect, self.name, self.threshold = detect, name, threshold

    @property
    def told(self) -> dict[str, Any]:
        """The model's name and the threshold."""
        return {"eyes": f"detection by {self.name}", "threshold": self.threshold}

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """It reads any words."""

    def look(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Seen]:
        """One call an image for the names, and one for each subject that has a colour."""
        return [self._seen(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _seen(self, image: Image, prompt: Prompt) -> Seen:
        scores = self._scores(image, prompt.subjects)
        own = {name: score >= self.threshold for name, score in scores.items()}
        coloured = {
            label: own[name] and self._best_colour(image, name) == label for name, label in prompt.coloured
        }
        return Seen(own, scores, coloured)

    def _scores(self, image: Image, names: Sequence[str]) -> dict[str, float]:
        """The score of each name's best box that is not rather another's, or 0."""
        boxes = self._boxes(image, names)
        kept: list[tuple[str, float, Sequence[float]]] = []
        for name, score, box in sorted(boxes, key=lambda one: -one[1]):
            if all(other == name or overlap(box, there) < OVERLAP for other, _, there in kept):
                kept.append((name, score, box))
        return {name: max((score for own, score, _ in kept if own == name), default=0.0) for name in names}

    def _best_colour(self, image: Image, name: str) -> str:
        boxes = self._boxes(image, [f"{colour} {name}" for colour in COLOURS])
        return max(boxes, key=lambda one: one[1])[0] if boxes else ""

    def _boxes(self, image: Image, names: Sequence[str]) -> list[tuple[str, float, Sequence[float]]]:
        texts = {alone(name): name for name in names}
        found = self.detect(image.convert("RGB"), candidate_labels=list(texts), threshold=self.threshold / 4)
        sides = ("xmin", "ymin", "xmax", "ymax")
        return [
            (texts[one["label"]], float(one["score"]), [float(one["box"][side]) for side in sides])
            for one in found
        ]


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 where both are empty."""
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = across * down
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    whole = sum(areas) - shared
    return shared / whole if whole > 0 else 0.0
