"""Edits a prompt for text-swap controls: the same sentence without some of its words, or with others instead.

A list of linking words and no grammar; where it cannot tell it leaves a word too many, which both sides of a
comparison then share.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .errors import InputError

DETERMINERS: Final = frozenset(
    "a an the one two three some this that his her its their my your another".split()
)
JOINERS: Final = frozenset(
    ", ; & + and with plus or beside besides alongside next to near behind under above on in at by wearing "
    "holding riding".split()
)
"""What joins a word to the sentence, and has no use without it."""
BORDERS: Final = JOINERS | frozenset(". : ! ? ( ) of is are there here featuring showing from for as".split())
"""What cannot be part of the words that describe another."""
EMPTY: Final = "a photo"
"""What remains of a sentence without words."""
_TOKEN: Final = re.compile(r"\w+(?:[-'\u2019]\w+)*|[^\w\s]")
_NUMBERED: Final = re.compile(r"(?s)(.*\S)\s*#(\d+)")


@dataclass(frozen=True)
class Place:
    """Where a word or phrase stands: its tokens `start` to `end`, and `first` of those that go with it."""

    start: int
    end: int
    first: int


def numbered(word: str) -> tuple[str, int]:
    """A word and which of its places is meant: "dog#2" is ("dog", 2), "dog" is ("dog", 1)."""
    match = _NUMBERED.fullmatch(word)
    return (match[1], int(match[2])) if match else (word, 1)


def article(word: str) -> str:
    """`"an"` before a vowel, else `"a"`: right for most words."""
    return "an" if word[:1].lower() in set("aeiou") else "a"


def alone(word: str) -> str:
    """The word with its article: "a frog"."""
    return f"{article(word)} {word}"


def listed(words: Sequence[str]) -> str:
    """A sentence of nothing but these words: "a cat and a frog"."""
    return " and ".join(alone(numbered(word)[0]) for word in words) or EMPTY


class Sentence:
    """A prompt and the words in it that are asked about.

    Args:
        prompt: the text; case and spacing do not matter.
        words: words or phrases of it ("frog", "red bow"); "dog#2" is the second dog.

    Raises:
        InputError: a word that the prompt does not hold as a whole word.
    """

    def __init__(self, prompt: str, words: Sequence[str]) -> None:
        self.prompt = prompt
        self.tokens = _TOKEN.findall(prompt)
        self.folded = [token.casefold() for token in self.tokens]
        found = {word: self._find(word) for word in words}
        asked = {index for start, end in found.values() for index in range(start, end)}
        self.places = {
            word: Place(start, end, self._first(start, asked)) for word, (start, end) in found.items()
        }

    def without(self, words: Collection[str]) -> str:
        """The prompt without these words, what describes them, and what joined them to the rest.

        A word is joined by what stands before it, or, at the beginning, by what follows: "a photo of a cat
        and a frog" without the cat is "a photo of a frog".
        """
        if not words:
            return self._joined(range(len(self.tokens)))
        gone: set[int] = set()
        for place in sorted((self.places[word] for word in words), key=lambda place: place.start):
            gone |= {*range(place.first, place.end)}
            before = self._joiners(range(place.first - 1, -1, -1), gone)
            after = self._joiners(range(place.end, len(self.tokens)), gone)
            leading = all(index in gone for index in range(place.first - len(before)))
            gone |= after if leading or not before else before
        return self._joined(index for index in range(len(self.tokens)) if index not in gone)

    def exchanged(self, word: str, other: str) -> str:
        """The prompt with another word in the place of one; its article follows."""
        place = self.places[word]
        tokens = list(self.tokens)
        if place.start and self.folded[place.start - 1] in ("a", "an"):
            tokens[place.start - 1] = article(other)
        return _spaced([*tokens[: place.start], *other.split(), *tokens[place.end :]])

    def _find(self, word: str) -> tuple[int, int]:
        text, number = numbered(word)
        wanted = [token.casefold() for token in _TOKEN.findall(text)]
        starts = [
            start
            for start in range(len(self.tokens) - len(wanted) + 1)
            if wanted and self.folded[start : start + len(wanted)] == wanted
        ]
        if not 1 <= number <= len(starts):
            there = ", ".join(dict.fromkeys(token for token in self.tokens if token[0].isalnum())) or "none"
            raise InputError(
                f'word "{word}" is not in the prompt "{self.prompt}"; its words are: {there}. Leave the '
                "prompt out to ask for any words"
            )
        return starts[number - 1], starts[number - 1] + len(wanted)

    def _first(self, start: int, asked: Collection[int]) -> int:
        """The first token of what describes a word: back to its determiner, or to the nearest border."""
        first = start
        while first and first - 1 not in asked and self.folded[first - 1] not in BORDERS:
            first -= 1
            if self.folded[first] in DETERMINERS:
                break
        return first

    def _joiners(self, indices: range, gone: Collection[int]) -> set[int]:
        found = set()
        for index in indices:
            if index in gone:
                continue
            if self.folded[index] not in JOINERS:
                break
            found.add(index)
        return found

    def _joined(self, indices: Iterable[int]) -> str:
        kept = list(indices)
        while kept and self.folded[kept[-1]] in BORDERS:
            kept.pop()
        return _spaced([self.tokens[index] for index in kept]) or EMPTY


def _spaced(tokens: Sequence[str]) -> str:
    return re.sub(r"\s+([,;.:!?)])", r"\1", " ".join(tokens)).replace("( ", "(")
