"""What `check` returns: for each word whether the image shows it, by which evidence, as frozen values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..pictures import draw, html
from .errors import InputError

FORMAT: Final = "heedful.verdict/1"
HEEDED: Final = "heeded"
NEGLECTED: Final = "neglected"
UNSURE: Final = "unsure"
Said = Literal["heeded", "neglected", "unsure"]
_SHARES: Final = {HEEDED: 1.0, UNSURE: 0.5, NEGLECTED: 0.0}


@dataclass(frozen=True, eq=False)
class ClassifierEvidence:
    """What an image classifier says of a word.

    Attributes:
        label: the classifier's label that is the word.
        probability: 0 to 1, of a sigmoid where each label has its own, else of a softmax over all labels.
        sees: whether it takes the word to be there; None where it cannot tell.
        relevance: which patches its logit rests on, (height, width); None for a family without an adapter.
    """

    label: str
    probability: float
    sees: bool | None
    relevance: Float[Tensor, "height width"] | None = None


@dataclass(frozen=True, eq=False)
class WordVerdict:
    """One word, and what speaks for and against it.

    Attributes:
        word: as it was asked for.
        verdict: "heeded", "neglected" or "unsure".
        probability: that the image shows it, 0 to 1; None where the model was not calibrated.
        score: the model's logit of the whole sentence.
        controls: logits of the sentences it is held against: without the word, and with other words instead.
        features: the measurements that the verdict rests on, by name (`comparing.compare` defines them).
        relevance: which patches the score of this word alone rests on, (height, width); None if not asked.
        apart: the share of its map that no other word's map has, 0 to 1; 1 for a single word.
        classifier: what a classifier says, if one was given that has the word among its labels.
        reason: why the verdict is "unsure"; empty otherwise.
    """

    word: str
    verdict: Said
    probability: float | None
    score: float
    controls: Mapping[str, float]
    features: Mapping[str, float]
    relevance: Float[Tensor, "height width"] | None = None
    apart: float | None = None
    classifier: ClassifierEvidence | None = None
    reason: str = ""

    @property
    def share(self) -> float:
        """The probability; without one 1 for heeded, 1/2 for unsure, 0 for neglected."""
        return _SHARES[self.verdict] if self.probability is None else self.probability

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps, in types that JSON knows."""
        one = self.classifier
        seen = one and {"label": one.label, "probability": one.probability, "sees": one.sees}
        plain = ("word", "verdict", "probability", "score", "apart", "reason")
        told = {name: getattr(self, name) for name in plain}
        return told | {
            "controls": dict(self.controls),
            "features": dict(self.features),
            "classifier": seen,
        }


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether an image shows the words of its prompt.

    `verdict["frog"]` is the word's own; as a condition write `verdict.heeded`.

    Attributes:
        words: one entry a word, in the order asked for.
        image_size: (width, height) in pixels.
        prompt: the sentence that was compared; it may be shorter than the prompt that was given.
        model: class and name of the model.
        settings: everything that decided the verdict.
        versions: of heedful and the libraries it stands on.
        image: the image itself, for pictures; it is neither saved nor compared.
    """

    words: tuple[WordVerdict, ...]
    image_size: tuple[int, int]
    prompt: str
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    image: Image.Image | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.words:
            raise InputError("a verdict is about at least one word")

    @property
    def heeded(self) -> bool:
        """Whether every word is in the image for sure."""
        return all(one.verdict == HEEDED for one in self.words)

    @property
    def share(self) -> float:
        """How good the image is, 0 to 1: the share of its most neglected word.

        The smallest and no mean, as in the loss of Attend-and-Excite: a cat cannot make up for a frog.
        """
        return min(one.share for one in self.words)

    def __bool__(self) -> bool:
        raise TypeError("a Verdict is neither true nor false; ask verdict.heeded, or verdict[word].verdict")

    def __getitem__(self, word: str) -> WordVerdict:
        for one in self.words:
            if one.word.casefold() == str(word).casefold():
                return one
        raise InputError(f'"{word}" was not asked for; the words are: {self._names()}')

    def overlay(
        self, image: Image.Image, word: str, *, alpha: float = 0.6, classifier: bool = False
    ) -> Image.Image:
        """Lay a word's relevance over the image; the largest value glows most.

        `classifier` shows the classifier's map instead.

        Raises:
            InputError: a word that was not asked for, or without such a map.
        """
        one = self[word]
        seen = one.classifier.relevance if one.classifier else None
        found = seen if classifier else one.relevance
        if found is None:
            whose = "the classifier" if classifier else "the model"
            raise InputError(f'there is no relevance map of {whose} for "{word}"')
        return draw.overlay(image, draw.scaled(found), alpha=alpha)

    def to_dict(self) -> dict[str, Any]:
        """Everything but maps and image, in types that JSON knows."""
        return {
            "words": [one.to_dict() for one in self.words],
            "heeded": self.heeded,
            "share": self.share,
            "image_size": list(self.image_size),
            "prompt": self.prompt,
            "model": self.model,
            "settings": json.loads(json.dumps(dict(self.settings), default=str)),
            "versions": dict(self.versions),
        }

    def save(self, path: str | Path) -> None:
        """Write everything but the image into one safetensors file; `Verdict.load` reads it."""
        from safetensors.torch import save_file

        maps: dict[str, Tensor] = {}
        for index, one in enumerate(self.words):
            if one.relevance is not None:
                maps[f"{index}.relevance"] = one.relevance.contiguous()
            if one.classifier is not None and one.classifier.relevance is not None:
                maps[f"{index}.classifier"] = one.classifier.relevance.contiguous()
        save_file(maps, str(path), metadata={"format": FORMAT, "record": json.dumps(self.to_dict())})

    @classmethod
    def load(cls, path: str | Path) -> Verdict:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                about = file.metadata() or {}
                maps = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if about.get("format") != FORMAT:
                raise ValueError(f'wanted format "{FORMAT}", got "{about.get("format")}"')
            return cls._from(json.loads(about["record"]), maps)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise InputError(
                f"cannot read the verdict {path}: {problem}; Verdict.save writes one"
            ) from problem

    @classmethod
    def _from(cls, told: dict[str, Any], maps: Mapping[str, Tensor]) -> Verdict:
        words = []
        for index, one in enumerate(told["words"]):
            seen = one.pop("classifier")
            evidence = seen and ClassifierEvidence(**seen, relevance=maps.get(f"{index}.classifier"))
            found = maps.get(f"{index}.relevance")
            words.append(WordVerdict(**one, relevance=found, classifier=evidence or None))
        width, height = told["image_size"]
        names = ("prompt", "model", "settings", "versions")
        return cls(tuple(words), (width, height), **{name: told[name] for name in names})

    def __repr__(self) -> str:
        told = (
            f"{one.word} {one.verdict}" + ("" if one.probability is None else f" ({one.probability:.2f})")
            for one in self.words
        )
        return f"Verdict({', '.join(told)})"

    def _repr_html_(self) -> str:
        figures: list[html.Figure | None] = []
        if self.image is not None:
            figures.append(html.Figure(self.image, self.prompt))
            for one in self.words:
                if one.relevance is not None:
                    picture = self.overlay(self.image, one.word)
                    figures.append(html.Figure(picture, one.word, f"where {one.word} is seen"))
        columns = ["word", "verdict", "probability", "logits above its controls", "map apart"]
        rows: list[list[Any]] = [
            [
                one.word,
                one.verdict + (f": {one.reason}" if one.reason else ""),
                None if one.probability is None else f"{one.probability:.0%}",
                ", ".join(f"{text} {one.score - one.controls[text]:+.1f}" for text in [*one.controls][:2]),
                one.apart,
            ]
            for one in self.words
        ]
        seen = [one.classifier for one in self.words]
        if any(seen):
            columns.append("classifier")
            for row, evidence in zip(rows, seen, strict=True):
                row.append(evidence and f"{evidence.label} {evidence.probability:.2f}")
        title = "every word is heeded" if self.heeded else self._by_verdict()
        parts = [html.figure_row(figures)] if figures else []
        return html.card(title, *parts, html.table(columns, rows), note=f"{self.model}: {self.prompt}")

    def _names(self) -> str:
        return ", ".join(one.word for one in self.words)

    def _by_verdict(self) -> str:
        listed = {said: [one.word for one in self.words if one.verdict == said] for said in _SHARES}
        return "; ".join(f"{said}: {', '.join(words)}" for said, words in listed.items() if words)
