"""Edits a prompt for text-swap controls: the same sentence without some of its words, or with others instead.

A list of linking words and no grammar; where it cannot tell it leaves a word too many, which both sides of a
comparison then share.
"""

from __future__ import annotations

import re
import unicodedata
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
# A run of letters and digits, an ideograph or kana (scripts without spaces), or a single sign.
_TOKEN: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")
_WITHIN: Final = frozenset("-'\u2010\u2011\u2019")
"""What may stand between the parts of one word ("t-shirt") or of a phrase ("red-bow")."""
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
        prompt: the text; case, spacing and Unicode composition do not matter.
        words: words or phrases of it ("frog", "red bow"); "dog#2" is the second dog.

    Raises:
        InputError: a word that the prompt does not hold as a whole word.
    """

    def __init__(self, prompt: str, words: Sequence[str]) -> None:
        self.prompt = unicodedata.normalize("NFC", prompt)
        matches = list(_TOKEN.finditer(self.prompt))
        self.tokens = [match.group() for match in matches]
        self.folded = [token.casefold() for token in self.tokens]
        self.spaced = [bool(match.start()) and self.prompt[match.start() - 1].isspace() for match in matches]
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
        gone: set[int] = set()
        for place in sorted((self.places[word] for word in words), key=lambda place: place.start):
            gone |= {*range(place.first, place.end)}
            before = self._joiners(range(place.first - 1, -1, -1), gone)
            after = self._joiners(range(place.end, len(self.tokens)), gone)
            earlier = [index for index in range(place.first - len(before)) if index not in gone]
            leading = not earlier or (not before and self.folded[earlier[-1]] in BORDERS)
            gone |= after if leading else before
        kept = [index for index in range(len(self.tokens)) if index not in gone]
        while words and kept and self.folded[kept[-1]] in BORDERS:
            kept.pop()
        return self._text(kept, self.tokens) or EMPTY

    def exchanged(self, word: str, other: str) -> str:
        """The prompt with another word in the place of one; its article follows."""
        place = self.places[word]
        tokens = list(self.tokens)
        if place.start and self.folded[place.start - 1] in ("a", "an"):
            tokens[place.start - 1] = article(other)
        tokens[place.start] = other
        return self._text([*range(place.start + 1), *range(place.end, len(tokens))], tokens)

    def _text(self, kept: Sequence[int], tokens: Sequence[str]) -> str:
        """These tokens, with a space where there was one, or where something was left out."""
        text, last = "", -1
        for index in kept:
            apart = self.spaced[index] or (index != last + 1 and tokens[index] not in BORDERS)
            text += f" {tokens[index]}" if text and apart else tokens[index]
            last = index
        return text

    def _find(self, word: str) -> tuple[int, int]:
        text, number = numbered(unicodedata.normalize("NFC", word))
        wanted = [token for token in _TOKEN.findall(text.casefold()) if token not in _WITHIN]
        parts = [index for index, token in enumerate(self.tokens) if token not in _WITHIN]
        starts = [
            start
            for start in range(len(parts) - len(wanted) + 1)
            if wanted and [self.folded[index] for index in parts[start : start + len(wanted)]] == wanted
        ]
        if not 1 <= number <= len(starts):
            there = ", ".join(dict.fromkeys(token for token in self.tokens if token[0].isalnum())) or "none"
            raise InputError(
                f'word "{word}" is not in the prompt "{self.prompt}"; its words are: {there}. Leave the '
                "prompt out to ask for any words"
            )
        start = starts[number - 1]
        return parts[start], parts[start + len(wanted) - 1] + 1

    def _first(self, start: int, asked: Collection[int]) -> int:
        """The first token of what describes a word: back to its determiner, or to the nearest border."""
        first = start
        while first and first - 1 not in asked and self.folded[first - 1] not in BORDERS:
            first -= 1
            if self.folded[first] in DETERMINERS:
                break
        return first

    def _joiners(self, indices: Iterable[int], gone: Collection[int]) -> set[int]:
        found = set()
        for index in indices:
            if index in gone:
                continue
            if self.folded[index] not in JOINERS:
                break
            found.add(index)
        return found
