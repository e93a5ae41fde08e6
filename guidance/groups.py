"""Nouns and the modifiers that belong to them: "red" and "bow" of "a red bow"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .encoding import encode
from .errors import GuidanceError, UnsupportedError
from .tokens import Span, find_spans
from .words import DESCRIPTIONS, STOP_WORDS, Word, folded, occurrences, whole_words

Phrase = str | Sequence[str]
GroupSource = Callable[[str], Sequence[Phrase]]

_MODIFIERS = frozenset({"amod", "nmod", "compound", "npadvmod", "advmod", "acomp"})
_COPULAS = frozenset({"AUX", "VERB"})


@dataclass(frozen=True)
class Group:
    """A noun of a prompt and its modifiers, each with its token positions."""

    noun: Span
    modifiers: tuple[Span, ...]

    @property
    def indices(self) -> frozenset[int]:
        """The token positions of all its words."""
        return frozenset(index for span in (self.noun, *self.modifiers) for index in span.indices)


def find_groups(tokenizer: Any, prompt: str, phrases: Sequence[Phrase]) -> tuple[Group, ...]:
    """Return one group a phrase, in the order given.

    phrases: "red bow", words that stand together, the noun last, or ("red", "bow") for words that do not
        ("the bow is red"). "red bow#2" is the phrase's second place, ("red", "bow#2") each word's own.
        Articles, conjunctions and prepositions within a phrase are no modifiers.

    Raises:
        TokenNotFoundError: a phrase or word that the prompt does not hold.
        GuidanceError: a phrase without a modifier.
    """
    return tuple(_group(tokenizer, prompt, phrase) for phrase in phrases)


def groups_of(tokenizer: Any, prompt: str, spans: Sequence[Span]) -> tuple[Group, ...]:
    """Return a group for each span that has modifiers, without any grammar.

    The noun is the span's last word. Its modifiers are the words before it in the span ("red bow"), or, where
    the span is one word, the colours and common adjectives directly before it in the prompt
    (`words.DESCRIPTIONS`). A span that was given as a token index has no words and no group.
    """
    encoding = encode(tokenizer, prompt)
    words = whole_words(encoding.prompt, encoding.names)
    groups = []
    for span in spans:
        places = occurrences(encoding.prompt, span.text, encoding.names)[span.occurrence - 1 :][:1]
        inside = [word for word in words if places and places[0].start <= word.start < places[0].end]
        if len(inside) == 1:
            inside = [*_descriptions_before(encoding.prompt, words, inside[0]), *inside]
        kept = [word for word in inside[:-1] if folded(word.text) not in STOP_WORDS]
        if kept:
            noun, *modifiers = find_spans(
                tokenizer, prompt, [_numbered(encoding.prompt, word) for word in (inside[-1], *kept)]
            )
            groups.append(Group(noun, tuple(modifiers)))
    return tuple(groups)


def spacy_groups(model: str = "en_core_web_sm") -> GroupSource:
    """Return a function that finds the modifiers of every noun of an English prompt by its grammar.

    Source: the extraction of Rassin et al., "Linguistic Binding in Diffusion Models" (NeurIPS 2023),
    reduced: modifiers are a noun's dependents by amod, nmod, compound, npadvmod, advmod and acomp, theirs in
    turn, and what a verb says of its subject ("the bow is red"). Wants the package spaCy and one of its
    models; both are found when this is called.

    Raises:
        UnsupportedError: spaCy or its model is not installed.
    """
    try:
        import spacy

        parse = spacy.load(model)
    except (ImportError, OSError) as problem:
        raise UnsupportedError(
            f"modifiers by grammar need spaCy and its model {model!r} (pip install spacy; python -m spacy "
            f"download {model}); without it name the groups yourself: groups=['red bow']"
        ) from problem

    def groups(prompt: str) -> list[tuple[str, ...]]:
        return [
            (*(_numbered(prompt, _word(token)) for token in modifiers), _numbered(prompt, _word(noun)))
            for noun in parse(prompt)
            if noun.pos_ in ("NOUN", "PROPN") and noun.dep_ != "compound" and (modifiers := _modifiers(noun))
        ]

    return groups


def _group(tokenizer: Any, prompt: str, phrase: Phrase) -> Group:
    if not isinstance(phrase, str):
        words = list(phrase)
        if len(words) < 2:
            raise GuidanceError(f'a group is its modifiers and a noun, ("red", "bow"); got {tuple(phrase)}')
        *modifiers, noun = find_spans(tokenizer, prompt, words)
        return Group(noun, tuple(modifiers))
    found = (
        [] if not phrase.split() else groups_of(tokenizer, prompt, find_spans(tokenizer, prompt, [phrase]))
    )
    if not found:
        raise GuidanceError(f'a group is modifiers and a noun, such as "red bow"; got {phrase!r}')
    return found[0]


def _descriptions_before(prompt: str, words: Sequence[Word], noun: Word) -> list[Word]:
    found: list[Word] = []
    following = noun
    for word in reversed(words[: words.index(noun)]):
        if folded(word.text) not in DESCRIPTIONS or not prompt[word.end : following.start].isspace():
            break
        found.insert(0, word)
        following = word
    return found


def _numbered(prompt: str, word: Word) -> str:
    """A word as `find_spans` finds this very place of it again."""
    before = sum(place.start < word.start for place in occurrences(prompt, word.text))
    return f"{word.text}#{before + 1}" if before else word.text


def _word(token: Any) -> Word:
    return Word(token.text, token.idx, token.idx + len(token.text))


def _modifiers(noun: Any) -> list[Any]:
    found = _dependents(noun)
    head = noun.head
    if noun.dep_ == "nsubj" and head.pos_ in _COPULAS:
        said = [child for child in head.children if child.dep_ == "acomp"]
        found += [token for one in said for token in (*_dependents(one), one)]
    return found


def _dependents(token: Any) -> list[Any]:
    own = [child for child in token.children if child.dep_ in _MODIFIERS]
    return [one for child in own for one in (*_dependents(child), child)]
