"""Every known word encodes without an unknown token, and words can be found again among the tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from heedful.emoji.questions import every_word
from heedful.emoji.tokenizer import SPLIT_WORDS, known_words
from heedful.emoji.vocabulary import COLOURS, SUBJECTS
from heedful.emoji.wordpieces import build_wordpieces, spans_of, tokens_at
from transformers import AutoTokenizer, BertTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return build_wordpieces()


def test_a_known_word_is_one_token_but_for_those_in_pieces(tokenizer: BertTokenizer) -> None:
    for word in (*known_words(), *every_word(), *SUBJECTS, *COLOURS):
        pieces = tokenizer.tokenize(word)
        first, *rest = SPLIT_WORDS.get(word, (word,))
        assert pieces == [first, *(f"##{piece}" for piece in rest)]


def test_other_words_are_spelt(tokenizer: BertTokenizer) -> None:
    assert tokenizer.tokenize("zebra, ok?") == ["z", "##e", "##b", "##r", "##a", ",", "o", "##k", "?"]
    assert tokenizer.tokenize("a [MASK] bow") == ["a", "[MASK]", "bow"]


def test_tokens_of_spans(tokenizer: BertTokenizer) -> None:
    texts = ["is there a red backpack?", "what is red?"]
    marked = tokens_at(
        tokenizer, texts, [spans_of(texts[0], ("red", "backpack")), spans_of(texts[1], ("red",))]
    )
    ids = tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    found = [tokenizer.convert_ids_to_tokens(row[own].tolist()) for row, own in zip(ids, marked, strict=True)]
    assert found == [["red", "back", "##pack"], ["red"]]


def test_a_word_is_found_whole_or_not_at_all() -> None:
    assert spans_of("is there a bowl or a bow?", ("bow",)) == ((21, 24),)
    with pytest.raises(ValueError, match='"bow" is not in'):
        spans_of("is there a bowl?", ("bow",))


def test_it_loads_from_its_folder(tokenizer: BertTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    text = "is there a red suitcase?"
    for kind in (BertTokenizer, AutoTokenizer):
        assert kind.from_pretrained(tmp_path)(text) == tokenizer(text)
