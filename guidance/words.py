"""The words of a prompt by their place in it, before any tokenizer has a say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest

STOP_WORDS = frozenset(
    """
    a an the this that these those some any each every another other one no both all several many few more
    most and or but nor so yet as if than then while when where which who whose what how not only also very
    too just of in on at by for from to into onto with without within over under above below beneath between
    behind before after beside besides near next inside outside around about across against along among
    through toward towards up down off out upon via per like front left right top bottom side middle center
    centre background foreground i you he she it we they me him her us them my your his its our their there
    here is are was were be been being am has have had having do does did doing can could will would shall
    should may might must isn aren wasn don doesn photo photos photograph picture image painting drawing
    illustration sketch render rendering portrait artwork shot closeup photorealistic realistic quality
    resolution detailed style scene view 4k 8k hd uhd
    """.split()
)
"""What `words=None` leaves out: articles, conjunctions, prepositions, pronouns, auxiliaries, the medium."""

COLOURS = frozenset(
    "black blue brown gray grey green orange pink purple red white yellow golden silver beige teal".split()
)
DESCRIPTIONS = COLOURS | frozenset(
    """
    big small large little tiny huge giant tall short long wide thin thick fat old young new ancient modern
    cute beautiful pretty lovely happy sad angry funny colorful colourful bright dark light shiny fluffy furry
    wooden metal metallic plastic round square striped spotted single two three four five
    """.split()
)
"""What `words=None` leaves out where another word follows: "red" in "a red bow", but not in "it is red"."""

_JOINING = re.compile(r"[\s\-\u2010-\u2015'\u2019_]*")
_COMPOUND = re.compile(r"[-\u2010\u2011]")
_SHORTENED = re.compile(r"['\u2019]")


@dataclass(frozen=True)
class Word:
    """A word as it stands in the prompt: `text`, and its characters `start` to `end` (exclusive)."""

    text: str
    start: int
    end: int


def folded(text: str) -> str:
    """Return the text as words are compared: without case, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def atoms(prompt: str, names: Collection[str] = ()) -> tuple[Word, ...]:
    """Split a prompt into the smallest words that can be asked for, in their order.

    An atom is a run of letters, digits and marks, a single ideograph or kana (scripts without spaces), a
    run of pictographs (an emoji with its modifiers), or one of `names`: tokens such as "<toy>" that were
    added to the tokenizer, with the further vectors "<toy>_1", "<toy>_2" that follow it.
    """
    if not names:
        return tuple(_runs(prompt, 0))
    found: list[Word] = []
    pattern = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
    at = 0
    for match in pattern.finditer(prompt):
        found += _runs(prompt[at : match.start()], at)
        found = _with_name(found, Word(match.group(), *match.span()))
        at = match.end()
    return (*found, *_runs(prompt[at:], at))


def whole_words(prompt: str, names: Collection[str] = ()) -> tuple[Word, ...]:
    """Return the words a person would list: hyphened ones ("t-shirt") whole, "dog's" as "dog"."""
    found: list[Word] = []
    for atom in atoms(prompt, names):
        between = prompt[found[-1].end : atom.start] if found else " "
        if found and _COMPOUND.fullmatch(between):
            found[-1] = Word(prompt[found[-1].start : atom.end], found[-1].start, atom.end)
        elif not (_SHORTENED.fullmatch(between) and len(atom.text) <= 2):
            found.append(atom)
    return tuple(found)


def content_words(prompt: str, names: Collection[str] = ()) -> tuple[Word, ...]:
    """Return the words that name something: no `STOP_WORDS`, no numbers, no `DESCRIPTIONS` of the next word.

    Repeated words are all returned, in the prompt's order. A list and no grammar: it errs towards more words.
    """
    words = whole_words(prompt, names)
    kept = []
    for word, following in zip_longest(words, words[1:]):
        directly = following is not None and prompt[word.end : following.start].isspace()
        describes = directly and following is not None and folded(following.text) not in STOP_WORDS
        if _names_something(word) and not (describes and folded(word.text) in DESCRIPTIONS):
            kept.append(word)
    return tuple(kept)


def occurrences(prompt: str, phrase: str, names: Collection[str] = ()) -> tuple[Word, ...]:
    """Return every place where the phrase stands in the prompt, whole words only, in their order.

    The words of a phrase must be adjacent: between them stand only white space, hyphens and apostrophes, or
    what stands between them in `phrase` itself. Empty where the phrase is absent or holds no word at all.
    """
    wanted, words = atoms(phrase, names), atoms(prompt, names)
    keys = [folded(word.text) for word in wanted]
    places = []
    for first in range(len(words) - len(wanted) + 1 if wanted else 0):
        run = words[first : first + len(wanted)]
        if [folded(word.text) for word in run] == keys and _adjacent(prompt, run, phrase, wanted):
            text = run[0].text if len(run) == 1 else prompt[run[0].start : run[-1].end]
            places.append(Word(text, run[0].start, run[-1].end))
    return tuple(places)


def _adjacent(prompt: str, run: tuple[Word, ...], phrase: str, wanted: tuple[Word, ...]) -> bool:
    return all(
        _JOINING.fullmatch(there) or there.strip() == asked.strip()
        for there, asked in zip(_between(prompt, run), _between(phrase, wanted), strict=True)
    )


def _between(text: str, words: tuple[Word, ...]) -> list[str]:
    return [text[a.end : b.start] for a, b in pairwise(words)]


def _with_name(found: list[Word], name: Word) -> list[Word]:
    """Join "<toy>_1" to the "<toy>" before it: together they are the vectors of one word."""
    head = found[-1] if found else None
    if head is not None and re.fullmatch(re.escape(head.text) + r"_\d+", name.text):
        return [*found[:-1], Word(head.text, head.start, name.end)]
    return [*found, name]


def _names_something(word: Word) -> bool:
    return folded(word.text) not in STOP_WORDS and any(not char.isdecimal() for char in word.text)


def _runs(text: str, offset: int) -> Iterator[Word]:
    start, kind = 0, ""
    for at, char in enumerate(text):
        found = _kind(char, kind)
        if found != kind or (found == "ideograph" and not unicodedata.combining(char)):
            if kind:
                yield Word(text[start:at], offset + start, offset + at)
            start, kind = at, found
    if kind:
        yield Word(text[start:], offset + start, offset + len(text))


def _kind(char: str, before: str) -> str:
    category = unicodedata.category(char)
    if category[0] == "M" and before:
        return before
    if category == "So" or "\U0001f3fb" <= char <= "\U0001f3ff" or (char == "\u200d" and before == "symbol"):
        return "symbol"
    if "\u3040" <= char <= "\u30ff" or unicodedata.name(char, "").startswith("CJK UNIFIED"):
        return "ideograph"
    return "word" if category[0] in "LMN" or char == "_" else ""
