"""The prompts on which methods are compared: known sets, and a file of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..emoji import prompts as emoji
from ..emoji.vocabulary import ANIMALS, OBJECTS, article
from ..explain.comparing import COLOURS
from ..guidance.words import content_words, folded, occurrences
from .errors import PromptError

EXCHANGED: Final = {"couch": "bench"}
"""What stands in the embedded world for a word of the benchmark."""
OWN: Final = "own"
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what an image of it must show.

    Attributes:
        text: as the pipeline is given it.
        labels: its subjects with their colours, words of the text, in its order: ("frog", "red bow").
        group: the set it is of, for tables; `kind` divides the set further, or is empty.

    Raises:
        PromptError: without a subject, with one twice, or with one that the text does not hold.
    """

    text: str
    labels: tuple[str, ...]
    group: str = OWN
    kind: str = ""

    def __post_init__(self) -> None:
        names = [folded(name) for name in self.subjects]
        if not names or len(set(names)) != len(names):
            raise PromptError(
                f'the prompt "{self.text}" must have at least one subject, each once; got '
                f"{', '.join(self.subjects) or 'none'}. Put them into brackets: a [cat] and a [red bow]"
            )
        for label in self.labels:
            if not occurrences(self.text, label):
                raise PromptError(
                    f'the subject "{label}" is not in the prompt "{self.text}"; name words as they are there'
                )

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects' names, without colours."""
        return tuple(split_colour(label)[1] for label in self.labels)

    @property
    def coloured(self) -> tuple[tuple[str, str], ...]:
        """Those subjects that have a colour, each as (name, label)."""
        pairs = zip(self.subjects, self.labels, strict=True)
        return tuple((name, label) for name, label in pairs if name != label)


def split_colour(label: str) -> tuple[str, str]:
    """`"red bow"` to `("red", "bow")`; without a colour the first is empty."""
    first, _, rest = label.partition(" ")
    return (first, rest.strip()) if rest.strip() and folded(first) in COLOURS else ("", label)


def benchmark(seed: int = 0) -> tuple[Prompt, ...]:
    """The 276 prompts of the Attend-and-Excite benchmark, from its templates and lists.

    Source: Chefer et al. 2023, section 4.1: 66 "a cat and a dog", 144 "a cat and a red apple" or "a cat with
    a bow", 66 "a green chair and a yellow car", of 12 animals, 12 objects and 11 colours. The colours are
    drawn from `seed`; bow, crown and glasses stand after "with". The authors' own list of the same prompts
    can be given as a file.
    """
    return tuple(_in_real_words(_of(prompt, "benchmark")) for prompt in emoji.benchmark(seed))


def singles() -> tuple[Prompt, ...]:
    """One prompt for each of the benchmark's 24 subjects alone, which need no help."""
    return tuple(
        _in_real_words(Prompt(f"{article(name)} {name}", (name,), "single")) for name in ANIMALS + OBJECTS
    )


def _emoji(group: str, made: Callable[[], Sequence[emoji.Prompt]]) -> Callable[[], tuple[Prompt, ...]]:
    return lambda: tuple(_of(prompt, group) for prompt in made())


EMBEDDED: Final[Mapping[str, Callable[[], tuple[Prompt, ...]]]] = {
    "held-out": _emoji("held-out", emoji.held_out_prompts),
    "seen": _emoji("seen", lambda: emoji.seen_prompts(64)),
    "tuning": _emoji("tuning", lambda: emoji.tuning_prompts(64)),
    "coloured": _emoji("coloured", emoji.coloured_prompts),
    "three": _emoji("three", emoji.three_subject_prompts),
    "single": _emoji("single", emoji.single_prompts),
    "benchmark": _emoji("benchmark", emoji.benchmark),
}
"""The sets of the embedded world, by name."""
REAL: Final[Mapping[str, Callable[[], tuple[Prompt, ...]]]] = {"benchmark": benchmark, "single": singles}
"""The sets for models of photographs, by name."""


def read_prompts(path: str | Path) -> tuple[Prompt, ...]:
    """Prompts from a file of one's own.

    In a text file each line is a prompt, # begins a comment, and subjects stand in brackets, "a [cat] and a
    [red bow]"; in a line without any, every content word is one. In a file that ends in .jsonl each line is
    an object with "prompt", and, if wanted, "subjects" (a list) and "group".

    Raises:
        PromptError: a file that cannot be read, or a line that is no prompt; the line is named.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise PromptError(f"cannot read the prompts file {file}: {reason}") from problem
    parse = _from_json if file.suffix == ".jsonl" else from_line
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                found.append(parse(line.strip()))
            except PromptError as problem:
                raise PromptError(f"line {number} of {file}: {problem}") from problem
    if not found:
        raise PromptError(f"the prompts file {file} holds no prompt; write one a line")
    return tuple(found)


def from_line(line: str) -> Prompt:
    """A prompt whose subjects stand in brackets, or are its content words where there are no brackets.

    Raises:
        PromptError: as `Prompt`.
    """
    text = _BRACKETS.sub(r"\1", line)
    marked = tuple(" ".join(found.split()) for found in _BRACKETS.findall(line))
    return Prompt(text, marked or _content(text))


def _content(text: str) -> tuple[str, ...]:
    """Each content word once, with the colour that stands before it."""
    found: dict[str, str] = {}
    for word in content_words(text):
        before = text[: word.start].split()
        colour = f"{before[-1]} " if before and folded(before[-1]) in COLOURS else ""
        found.setdefault(folded(word.text), f"{colour}{word.text}")
    return tuple(found.values())


def _from_json(line: str) -> Prompt:
    try:
        told: Any = json.loads(line)
        text = told["prompt"]
        if not isinstance(text, str):
            raise TypeError("prompt must be a text")
        subjects, group = told.get("subjects"), str(told.get("group", OWN))
        if subjects is not None and not (
            isinstance(subjects, list) and all(isinstance(one, str) for one in subjects)
        ):
            raise TypeError("subjects must be a list of texts")
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise PromptError(
            'wanted an object such as {"prompt": "a cat and a red bow", "subjects": ["cat", "red bow"]}; '
            f"{type(problem).__name__}: {problem}"
        ) from problem
    prompt = from_line(text) if subjects is None else Prompt(text, tuple(subjects))
    return replace(prompt, group=group)


def _of(prompt: emoji.Prompt, group: str) -> Prompt:
    kind = prompt.kind if group in ("benchmark", "held-out") else ""
    return Prompt(prompt.text, prompt.labels, group, kind)


def _in_real_words(prompt: Prompt) -> Prompt:
    text, labels = prompt.text, list(prompt.labels)
    for ours, theirs in EXCHANGED.items():
        text = text.replace(ours, theirs)
        labels = [label.replace(ours, theirs) for label in labels]
    return replace(prompt, text=text, labels=tuple(labels))
