"""What is said of a word in an image, and by whom: the check, a classifier, the judge, the attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor

from ..pictures.draw import scaled
from ..pictures.html import heat_uri
from .sources import Source

VERDICTS: Final = ("heeded", "neglected", "unsure")


@dataclass(frozen=True)
class Map:
    """Heat as a grey picture: its data, what it shows in words, and whether grey 1/2 stands for 0."""

    uri: str
    caption: str
    alt: str
    signed: bool = False


@dataclass(frozen=True)
class Opinion:
    """What one judge of an image says of a word."""

    who: str
    says: str
    verdict: str | None = None
    share: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One word and what came of it: one of `VERDICTS`, or "attended" or "weak"."""

    word: str
    says: str


def opinions(source: Source, label: str) -> list[Opinion]:
    """What each judge that was asked says of the word, the check first."""
    found: list[Opinion] = []
    word = _checked_word(source, label)
    if word is not None:
        sure = f"score {word.score:.3g}" if word.probability is None else f"{word.probability:.0%}"
        says = f"{sure}: {word.reason}" if word.reason else sure
        found.append(Opinion("check", says, word.verdict, word.probability))
        if word.classifier is not None:
            share = float(word.classifier.probability)
            found.append(Opinion("classifier", f"{share:.0%} {word.classifier.label}", None, share))
    if source.judged and label in source.judged:
        found.append(Opinion("judge", source.judged[label], source.judged[label]))
    attention = _attention(source, label)
    return found if attention is None else [*found, attention]


def _attention(source: Source, label: str) -> Opinion | None:
    run = source.run
    if run is None or not run.steps:
        return None
    for place, span in enumerate(source.guided):
        if span.label == label:
            peak = run.word_attention[source.index][place]
            reached = run.attended[source.index][place]
            return Opinion("attention", f"{peak:.2f} {'attended' if reached else 'weak'}", None, peak)
    return None


def _checked_word(source: Source, label: str) -> Any:
    span = next((span for span in source.guided if span.label == label), None)
    if source.verdict is None or span is None:
        return None
    wanted = {label.casefold(), span.text.casefold()}
    return next((word for word in source.verdict.words if word.word.casefold() in wanted), None)


def evidence(source: Source, label: str) -> list[Map]:
    """What the check's models looked at in the image."""
    word = _checked_word(source, label)
    if word is None:
        return []
    maps = {"CLIP relevance": word.relevance}
    if word.classifier is not None:
        maps["classifier relevance"] = word.classifier.relevance
    return [
        _relevance(values, f"{name}", f"{source.name}: {name} of {label}")
        for name, values in maps.items()
        if values is not None
    ]


def scores(source: Source, label: str) -> dict[str, str]:
    """The numbers that the check's verdict rests on."""
    word = _checked_word(source, label)
    if word is None:
        return {}
    found = {"CLIP score": f"{word.score:.2f}"}
    found |= {f"against {text}": f"{word.score - other:+.2f}" for text, other in word.controls.items()}
    return found if word.apart is None else found | {"map apart": f"{word.apart:.2f}"}


def _relevance(values: Float[Tensor, "height width"], caption: str, alt: str) -> Map:
    signed = bool((values < 0).any())
    heat = scaled(values, signed=signed)
    return Map(heat_uri((heat + 1) / 2 if signed else heat), caption, f"{alt}, {place(values)}", signed)


def outcomes(source: Source) -> list[Outcome]:
    """For each guided word the first verdict that there is, else whether it was attended."""
    found = []
    for span in source.guided:
        said = opinions(source, span.label)
        verdict = next((one.verdict for one in said if one.verdict), None)
        attended = next((one.says.split()[-1] for one in said if one.who == "attention"), None)
        if verdict or attended:
            found.append(Outcome(span.label, verdict or attended or ""))
    return found


def place(values: Float[Tensor, "height width"]) -> str:
    """Where the highest value lies, in words."""
    height, width = values.shape
    row, column = divmod(int(values.argmax()), width)
    down = ("top", "middle", "bottom")[min(2, 3 * row // height)]
    across = ("left", "centre", "right")[min(2, 3 * column // width)]
    return f"highest at the {down} {across}"
