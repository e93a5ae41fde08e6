"""Turns what a model says of a word into a probability, by a logistic fit on images whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from torch import nn

from .comparing import FEATURES, OTHERS, Comparer, Question
from .errors import InputError
from .sentences import numbered

FORMAT: Final = "heedful.calibration/1"
FEWEST: Final = 20
"""Words of each kind, present and absent, that a fit wants at least."""


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(bias + sum weights (features - centre) / scale): Platt 1999, on several features.

    Attributes:
        centre, scale: mean and deviation of each of `comparing.FEATURES` where it was fitted.
        weights, bias: in log odds.
        band: a word whose probability is less than this away from 1/2 is *unsure*; 0 to 1/2.
        others: what words were exchanged for; a probability holds for these alone.
        words: the words that a probability can be given for; empty for any.
        fitted: on what, in words and numbers.

    Raises:
        InputError: lengths that do not match the features, a scale or band out of range.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    band: float = 0.1
    others: tuple[str, ...] = OTHERS
    words: tuple[str, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(self.centre), len(self.scale), len(self.weights)}
        if lengths != {len(FEATURES)}:
            raise InputError(
                f"a calibration has a centre, scale and weight for each of {', '.join(FEATURES)}; got "
                f"{sorted(lengths)}"
            )
        numbers = [*self.centre, *self.scale, *self.weights, self.bias]
        if not np.isfinite(numbers).all() or min(self.scale) <= 0:
            raise InputError("a calibration's numbers must be finite, and its scales positive")
        if not 0 <= self.band < 0.5:
            raise InputError(f"band is a distance from 1/2, at least 0 and less than 0.5; got {self.band}")

    def knows(self, word: str) -> bool:
        """Whether a probability holds for this word; of a second "dog#2" none does: no score counts dogs."""
        text, number = numbered(word)
        listed = {one.casefold() for one in self.words}
        return number == 1 and (not listed or " ".join(text.casefold().split()) in listed)

    def probability(self, features: Sequence[float] | Float[np.ndarray, "feature"]) -> float:
        """The probability, 0 to 1, that the word is in the image."""
        terms = zip(features, self.centre, self.scale, self.weights, strict=True)
        odds = self.bias + sum(weight * (value - mean) / scale for value, mean, scale, weight in terms)
        return float(1 / (1 + np.exp(-np.clip(odds, -60, 60))))

    def save(self, path: str | Path) -> None:
        """Write it as JSON; `Calibration.load` reads it."""
        told = {"format": FORMAT, "features": list(FEATURES), **asdict(self)}
        Path(path).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: a file that is not there, is damaged, or was made for other features.
        """
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
            kind, features = told.pop("format"), tuple(told.pop("features"))
            if (kind, features) != (FORMAT, FEATURES):
                raise ValueError(f'wanted format "{FORMAT}" of {", ".join(FEATURES)}, got "{kind}"')
            for name in ("centre", "scale", "weights", "others", "words"):
                told[name] = tuple(told[name])
            return cls(**told)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise InputError(
                f"cannot read the calibration {path}: {problem}; Calibration.save writes one"
            ) from problem


def calibrate(
    model: nn.Module,
    processor: Any,
    images: Sequence[Image.Image],
    words: Sequence[Sequence[str]],
    present: Sequence[Sequence[bool]],
    *,
    prompts: Sequence[str] | None = None,
    others: Sequence[str] = OTHERS,
    fitted: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit a calibration for a model of one's own.

    Args:
        model, processor: as `check` takes them.
        images: with known truth, hundreds of them, as different as those that will be checked.
        words: what is asked of each image, absent words among them.
        present: for each of these words, whether it is there.
        prompts: the sentence of each image's words, if they will be checked in sentences.
        others: what a word is exchanged for; best other things that such images show.
        fitted: notes to keep with the result.

    Raises:
        InputError: lists that do not match, or fewer than 20 words present or absent.
    """
    _check_lists(images, words, present, prompts)
    comparer = Comparer(model, processor, tuple(others))
    rows = measure_all(comparer, images, words, prompts or [None] * len(images))
    truth = np.array([there for image in present for there in image], dtype=bool)
    fewest = int(min(truth.sum(), (~truth).sum())) if len(truth) else 0
    if fewest < FEWEST:
        raise InputError(
            f"wanted at least {FEWEST} words that are present and {FEWEST} that are absent, got {fewest}"
        )
    told = {"words": len(truth), "present": int(truth.sum()), "model": type(model).__name__}
    return fit(rows, truth, others=tuple(others), fitted={**told, **(fitted or {})})


def measure_all(
    comparer: Comparer,
    images: Sequence[Image.Image],
    words: Sequence[Sequence[str]],
    prompts: Sequence[str | None],
) -> Float[np.ndarray, "word feature"]:
    """The features of every word of every image, image by image."""
    embeds = comparer.images(images)
    found = [
        measured.features
        for image, own, prompt in zip(embeds, words, prompts, strict=True)
        for measured in Question(comparer, own, prompt).measure(image)
    ]
    return np.array(found, dtype=np.float64)


def fit(
    features: Float[np.ndarray, "word feature"],
    present: Bool[np.ndarray, "word"],
    *,
    ridge: float = 1e-3,
    others: tuple[str, ...] = OTHERS,
    fitted: Mapping[str, Any] | None = None,
) -> Calibration:
    """The logistic regression of presence on standardised features, by Newton's method.

    `ridge` times half the squared weights (not the bias) is added to the mean loss, so that data that can be
    separated have a finite answer.
    """
    centre, scale = features.mean(0), np.maximum(features.std(0), 1e-6)
    rows = np.column_stack([(features - centre) / scale, np.ones(len(features))])
    penalty = np.diag([ridge] * features.shape[1] + [1e-9])
    weights = np.zeros(rows.shape[1])
    for _ in range(50):
        odds = 1 / (1 + np.exp(-np.clip(rows @ weights, -60, 60)))
        slope = rows.T @ (odds - present) / len(rows) + penalty @ weights
        curvature = (rows * (odds * (1 - odds))[:, None]).T @ rows / len(rows) + penalty
        move = np.linalg.solve(curvature, slope)
        weights -= move * min(1.0, 5.0 / max(float(np.abs(move).max()), 1e-12))
        if np.abs(move).max() < 1e-9:
            break
    return Calibration(
        tuple(centre.tolist()),
        tuple(scale.tolist()),
        tuple(weights[:-1].tolist()),
        float(weights[-1]),
        others=others,
        fitted=dict(fitted or {}),
    )


def calibration_error(
    probabilities: Float[np.ndarray, "word"], present: Bool[np.ndarray, "word"], bins: int = 10
) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |share present - mean probability| of equal bins.

    Bins are of equal width, weighted by how many words fall into each; 0 is perfect.
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        abs(float(present[place == one].mean() - probabilities[place == one].mean())) * (place == one).mean()
        for one in range(bins)
        if (place == one).any()
    ]
    return float(sum(gaps))


def brier(probabilities: Float[np.ndarray, "word"], present: Bool[np.ndarray, "word"]) -> float:
    """The mean of (probability - truth)^2 (Brier 1950): 0 is perfect, always saying 1/2 gives 1/4."""
    return float(np.mean((probabilities - present) ** 2))


def _check_lists(
    images: Sequence[Any],
    words: Sequence[Sequence[str]],
    present: Sequence[Sequence[bool]],
    prompts: Sequence[str] | None,
) -> None:
    lengths = [len(images), len(words), len(present), *([] if prompts is None else [len(prompts)])]
    if len(set(lengths)) != 1 or any(isinstance(own, str) for own in words):
        raise InputError(
            f"wanted a list of words, and of whether each is present, for every image; got {lengths}"
        )
    for own, there in zip(words, present, strict=True):
        if len(own) != len(there) or not own:
            raise InputError(f"{len(own)} words ({', '.join(own)}) came with {len(there)} truths")
