"""The vocabulary: known words short, some subjects in several tokens, any text encodes, two formats agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from heedful.emoji.models import MODELS
from heedful.emoji.tokenizer import (
    END,
    MAX_LENGTH,
    SPLIT_WORDS,
    START,
    build_tokenizer,
    known_words,
    learn_merges,
    write_tokenizer,
)
from heedful.emoji.world import scenes
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

TOKENIZER = build_tokenizer()


def test_known_words_are_one_token_but_those_that_are_split() -> None:
    for word in known_words():
        pieces = SPLIT_WORDS.get(word, (word,))
        assert TOKENIZER.tokenize(word) == [*pieces[:-1], pieces[-1] + "</w>"]


def test_backpack_and_suitcase_take_several_tokens() -> None:
    assert len(TOKENIZER.tokenize("backpack")) == len(TOKENIZER.tokenize("suitcase")) == 2


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=12))
def test_any_text_encodes_without_an_unknown_token(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    assert TOKENIZER.eos_token_id not in ids or END in text.lower()
    assert bool(ids) == bool(text.strip()) or not text.isprintable()


def test_a_zebra_survives_the_round_trip() -> None:
    text = "a zebra, two élans & a 🐸"
    assert TOKENIZER.decode(TOKENIZER(text).input_ids, skip_special_tokens=True).replace(" ,", ",") == text


def test_case_does_not_matter() -> None:
    assert TOKENIZER("A Red BOW").input_ids == TOKENIZER("a red bow").input_ids


def test_padding_is_the_end_token() -> None:
    ids = TOKENIZER("a cat", padding="max_length").input_ids
    assert len(ids) == MAX_LENGTH
    assert ids[0] == TOKENIZER.convert_tokens_to_ids(START)
    assert set(ids[3:]) == {TOKENIZER.convert_tokens_to_ids(END)}


def test_every_caption_fits() -> None:
    longest = max(len(TOKENIZER(found.caption).input_ids) for found in scenes(10, 150, subjects=3))
    assert longest <= MAX_LENGTH


def test_the_embedded_files_are_those_of_the_code() -> None:
    embedded = CLIPTokenizer.from_pretrained(MODELS / "pipeline" / "tokenizer", local_files_only=True)
    assert embedded.get_vocab() == TOKENIZER.get_vocab()
    assert embedded.model_max_length == MAX_LENGTH
    for text in ("a cat and a red bow", "an elephant, backpack", "unseen words"):
        assert embedded(text).input_ids == TOKENIZER(text).input_ids


def test_both_formats_are_written_and_agree(tmp_path: Path) -> None:
    write_tokenizer(TOKENIZER, tmp_path)
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= {path.name for path in tmp_path.iterdir()}
    (tmp_path / "tokenizer.json").unlink()
    from_text = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert from_text("a suitcase and an apple").input_ids == TOKENIZER("a suitcase and an apple").input_ids


def test_merges_do_not_depend_on_the_order_of_words() -> None:
    words = [(tuple("abab"),), (tuple("ab"),), (tuple("cab"),)]
    assert learn_merges(words) == learn_merges(words[::-1])
    assert learn_merges(words)[0] == ("a", "b")


def test_pieces_that_do_not_spell_their_word_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPLIT_WORDS, "backpack", ("back", "sack"))
    with pytest.raises(ValueError, match='do not spell "backpack"'):
        build_tokenizer()
