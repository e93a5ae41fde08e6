"""Modifiers are found with their nouns: in phrases, before words, and by a stand-in for spaCy's grammar."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from heedful.guidance import GuidanceError, TokenNotFoundError, UnsupportedError, find_groups, spacy_groups
from heedful.guidance.groups import groups_of
from heedful.guidance.tokens import Span, find_spans
from tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def texts(groups):
    return [(*(span.label for span in group.modifiers), group.noun.label) for group in groups]


def of_words(tokenizer, prompt, words=None):
    return texts(groups_of(tokenizer, prompt, find_spans(tokenizer, prompt, words)))


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        ("a red bow and a cat", ["red bow", "cat"], [("red", "bow")]),
        ("a red bow and a cat", ["bow", "cat"], [("red", "bow")]),
        ("a red bow and a blue cat", None, [("red", "bow"), ("blue", "cat")]),
        ("a big red bow", ["bow"], [("big", "red", "bow")]),
        ("a cat in a red, bow", ["bow"], []),
        ("a bow with a red cat", ["bow with a red cat"], [("bow", "red", "cat")]),
        ("a red cat and a red dog", ["dog", "cat"], [("red#2", "dog"), ("red", "cat")]),
        ("a red cat and a blue cat", ["cat#2"], [("blue", "cat#2")]),
        ("a cat", ["cat"], []),
    ],
)
def test_groups_of_words(tokenizer, prompt, words, expected):
    assert of_words(tokenizer, prompt, words) == expected


def test_a_span_given_as_an_index_has_no_group(tokenizer):
    assert groups_of(tokenizer, "a red bow", [Span("token 3", (3,))]) == ()


@pytest.mark.parametrize(
    ("phrase", "expected", "indices"),
    [
        ("red bow", ("red", "bow"), {2, 3}),
        ("Red Bow", ("red", "bow"), {2, 3}),
        (("red", "bow"), ("red", "bow"), {2, 3}),
        (("blue", "red", "frog"), ("blue", "red", "frog"), {2, 6, 9}),
    ],
)
def test_phrases_and_tuples(tokenizer, phrase, expected, indices):
    group = find_groups(tokenizer, "a red bow and a blue and a frog", [phrase])[0]
    assert texts([group]) == [expected]
    assert group.indices == indices


@pytest.mark.parametrize(
    ("phrase", "error", "message"),
    [
        ("red cat", TokenNotFoundError, '"red cat" is not in the prompt'),
        ("cat", GuidanceError, "such as \"red bow\"; got 'cat'"),
        (("bow",), GuidanceError, "its modifiers and a noun"),
    ],
)
def test_phrases_that_are_no_groups_are_refused(tokenizer, phrase, error, message):
    with pytest.raises(error, match=message):
        find_groups(tokenizer, "a red bow and a cat", [phrase])


@dataclass(eq=False)
class Token:
    """What the extraction reads of a token of spaCy's."""

    text: str
    idx: int
    pos_: str
    dep_: str
    children: list = field(default_factory=list)
    head: object = None


def parsed(prompt, rows):
    """Tokens from (text, part of speech, dependency, number of the head)."""
    at, tokens = 0, []
    for text, part, dependency, _ in rows:
        at = prompt.index(text, at)
        tokens.append(Token(text, at, part, dependency))
        at += len(text)
    for token, (*_, head) in zip(tokens, rows, strict=True):
        token.head = tokens[head]
        if tokens[head] is not token:
            tokens[head].children.append(token)
    return tokens


SENTENCES = {
    "a red bow and a very big red frog": [
        ("a", "DET", "det", 2),
        ("red", "ADJ", "amod", 2),
        ("bow", "NOUN", "ROOT", 2),
        ("and", "CCONJ", "cc", 2),
        ("a", "DET", "det", 8),
        ("very", "ADV", "advmod", 6),
        ("big", "ADJ", "amod", 8),
        ("red", "ADJ", "amod", 8),
        ("frog", "NOUN", "conj", 2),
    ],
    "the bow is red": [
        ("the", "DET", "det", 1),
        ("bow", "NOUN", "nsubj", 2),
        ("is", "AUX", "ROOT", 2),
        ("red", "ADJ", "acomp", 2),
    ],
}


@pytest.fixture
def spacy(monkeypatch):
    def load(name):
        return lambda prompt: parsed(prompt, SENTENCES[prompt])

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red bow and a very big red frog", [("red", "bow"), ("very", "big", "red#2", "frog")]),
        ("the bow is red", [("red", "bow")]),
    ],
)
def test_grammar_finds_modifiers_of_nouns(spacy, tokenizer, prompt, expected):
    phrases = spacy_groups()(prompt)
    assert phrases == expected
    assert texts(find_groups(tokenizer, prompt, phrases)) == expected


def test_without_spacy_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UnsupportedError, match=r"pip install spacy.*groups="):
        spacy_groups()
