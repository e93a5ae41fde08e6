"""The vocabulary of the models that read with BERT's tokenizer: whole words, a few in pieces, letters."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase, digits
from typing import Final

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import BertTokenizer

from .claims import Span
from .questions import every_word
from .tokenizer import MAX_LENGTH, SPLIT_WORDS, known_words

SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PUNCTUATION: Final = tuple("?,.!'-:;")


def build_wordpieces() -> BertTokenizer:
    """BERT's tokenizer (WordPiece, Wu et al. 2016, section 4.1) with the words of captions and questions.

    The subjects of `SPLIT_WORDS` are left in pieces; single letters make every other lower-case word encode.
    """
    pieces: list[str] = []
    for word in dict.fromkeys([*known_words(), *every_word()]):
        first, *rest = SPLIT_WORDS.get(word, (word,))
        pieces += [first, *(f"##{piece}" for piece in rest)]
    letters = [*ascii_lowercase, *digits]
    tokens = [*SPECIAL, *PUNCTUATION, *letters, *(f"##{letter}" for letter in letters), *pieces]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return BertTokenizer(vocab=vocabulary, model_max_length=MAX_LENGTH)


def tokens_at(
    tokenizer: BertTokenizer, texts: Sequence[str], spans: Sequence[Sequence[Span]]
) -> Bool[Tensor, "text token"]:
    """Which tokens of the texts, padded to the longest, stand for the characters of their spans."""
    encoded = tokenizer(list(texts), padding=True, return_offsets_mapping=True)
    chosen = [
        [any(begin < last and first < end for first, last in own) for begin, end in offsets]
        for offsets, own in zip(encoded["offset_mapping"], spans, strict=True)
    ]
    return torch.tensor(chosen)


def spans_of(text: str, words: Sequence[str]) -> tuple[Span, ...]:
    """Where these words stand in the text, each at its first place.

    Raises:
        ValueError: a word that is not there.
    """
    found = []
    for word in words:
        at = f" {text}".replace("?", " ").find(f" {word} ")
        if at < 0:
            raise ValueError(f'the word "{word}" is not in "{text}"')
        found.append((at, at + len(word)))
    return tuple(found)
