"""Makes the small byte-pair vocabulary that the pipeline and the CLIP share; any text encodes."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Final

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from .captions import OPENINGS
from .vocabulary import COLOURS, SUBJECTS

MAX_LENGTH: Final = 24
"""Tokens a prompt may take, start and end included: three coloured subjects and an opening fit."""
START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
SPLIT_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "backpack": ("back", "pack"),
    "suitcase": ("suit", "case"),
    "glasses": ("glass", "es"),
}
"""The subject words that are left in several tokens, as long words are in a large vocabulary."""
FUNCTION_WORDS: Final = (
    "a",
    "an",
    "the",
    "one",
    "two",
    "and",
    "with",
    "next",
    "to",
    "beside",
    "plus",
    "by",
    "on",
    "in",
)
_END_OF_WORD: Final = "</w>"


def build_tokenizer() -> CLIPTokenizer:
    """The `CLIPTokenizer` of the emoji models: 512 byte symbols, then merges, then the two special tokens."""
    merges = learn_merges([_symbols(word) for word in known_words()])
    alphabet = _byte_alphabet()
    tokens = alphabet + [symbol + _END_OF_WORD for symbol in alphabet] + ["".join(pair) for pair in merges]
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )


def known_words() -> tuple[str, ...]:
    """Every word of the world's captions, each once."""
    openings = [word for opening in OPENINGS for word in opening.split()]
    return tuple(dict.fromkeys([*SUBJECTS, *COLOURS, *FUNCTION_WORDS, *openings]))


def learn_merges(words: list[tuple[tuple[str, ...], ...]]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016, algorithm 1) until every piece of every word is one symbol.

    Each word is a tuple of pieces and each piece a tuple of symbols; nothing is merged across pieces. Ties
    go to the pair that comes first in the alphabet, so the order of the words does not matter.
    """
    pieces = [piece for word in words for piece in word]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for piece in pieces for pair in pairwise(piece))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(piece, best) for piece in pieces]


def write_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save as `tokenizer.json` and as `vocab.json` with `merges.txt`: old and new readers find theirs."""
    tokenizer.save_pretrained(folder)
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(state["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")


def _symbols(word: str) -> tuple[tuple[str, ...], ...]:
    pieces = SPLIT_WORDS.get(word, (word,))
    if "".join(pieces) != word:
        raise ValueError(f'the pieces {pieces} do not spell "{word}"')
    return tuple(
        (*piece[:-1], piece[-1] + (_END_OF_WORD if index == len(pieces) - 1 else ""))
        for index, piece in enumerate(pieces)
    )


def _merge(piece: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in piece:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def _byte_alphabet() -> list[str]:

    return sorted(ByteLevel.alphabet())
