"""Which characters of a prompt each token position stands for, whatever tokenizer made them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import GuidanceError, UnsupportedError
from .words import folded

_UNLIMITED = 1_000_000  # transformers writes "no limit" as an absurdly large model_max_length

Offsets = tuple[int, int]
Range = tuple[int, int]

PADDING = "padding"
"""What the positions after the end token are called."""
OTHER_TEXT = "another prompt"
"""What the positions of an encoder are called that was given another prompt."""


@dataclass(frozen=True)
class Encoding:
    """A prompt's tokens, up to the last that is no padding.

    `prompt` is the text really encoded: names of several vectors ("<toy>") are written out ("<toy>
    <toy>_1"), as diffusers does. `pieces` are the tokens as the tokenizer writes them. `offsets` gives, for
    each position, the characters (start, end) it stands for, (0, 0) for start and end token. `ranges` are
    the prompt's own tokens, each (first, end): one range, from 1 after a start token, else from 0; one an
    encoder where several stand one after the other (`joined`). `limit` is how many tokens the encoder takes;
    `names` are the tokens added to the tokenizer, special ones apart.
    """

    prompt: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    offsets: tuple[Offsets, ...]
    ranges: tuple[Range, ...]
    truncated: bool
    limit: int
    names: frozenset[str]

    @property
    def first(self) -> int:
        """The position of the first token of the text."""
        return self.ranges[0][0]

    @property
    def last(self) -> int:
        """The position of the end token, one past the text."""
        return self.ranges[-1][1]

    @property
    def own(self) -> tuple[int, ...]:
        """The positions of the prompt's own tokens."""
        return tuple(index for first, end in self.ranges for index in range(first, end))

    @property
    def visible_end(self) -> int:
        """Number of characters of the prompt that truncation has left."""
        return max((self.offsets[index][1] for index in self.own), default=0)

    def positions(self, start: int, end: int) -> tuple[int, ...]:
        """Return the token positions that stand for any of the characters start..end (exclusive)."""
        return tuple(
            index
            for index in self.own
            if self.offsets[index][0] < min(end, self.offsets[index][1]) and start < self.offsets[index][1]
        )


def encode(tokenizer: Any, prompt: str, max_length: int | None = None) -> Encoding:
    """Encode a prompt as diffusers' pipelines do, truncated to `max_length` (default: the tokenizer's own).

    A tokenizer that says itself how it encodes a prompt, by a method `encoding`, is asked
    (`joined.JoinedTokenizer`, which has lengths of its own).

    Raises:
        GuidanceError: the prompt is not one string.
        UnsupportedError: the tokenizer pads on the left, so that positions depend on the padding.
    """
    if not isinstance(prompt, str):
        raise GuidanceError(f"spans are found in one prompt, a string; got {type(prompt).__name__}")
    if hasattr(tokenizer, "encoding"):
        found: Encoding = tokenizer.encoding(prompt)
        return found
    if getattr(tokenizer, "padding_side", "right") == "left":
        raise UnsupportedError('the tokenizer pads on the left; set tokenizer.padding_side = "right"')
    limit = max_length or tokenizer.model_max_length
    names = _added_names(tokenizer)
    prompt = _written_out(tokenizer, prompt, names)
    fast = bool(getattr(tokenizer, "is_fast", False))
    options: dict[str, Any] = {"truncation": True, "max_length": limit} if limit < _UNLIMITED else {}
    encoded = (
        tokenizer(prompt, return_offsets_mapping=True, **options) if fast else tokenizer(prompt, **options)
    )
    ids = tuple(encoded["input_ids"])
    whole = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    first = int(bool(ids) and ids[0] in _start_ids(tokenizer) and tokenizer.num_special_tokens_to_add() > 0)
    last = len(ids) - (tokenizer.num_special_tokens_to_add() - first)
    inner = encoded["offset_mapping"][first:last] if fast else align(tokenizer, ids[first:last], prompt)
    offsets = ((0, 0),) * first + tuple((int(a), int(b)) for a, b in inner) + ((0, 0),) * (len(ids) - last)
    pieces = tuple(str(piece) for piece in tokenizer.convert_ids_to_tokens(list(ids)))
    truncated = len(whole) > last - first
    return Encoding(prompt, ids, pieces, offsets, ((first, last),), truncated, limit, names)


def align(tokenizer: Any, ids: Sequence[int], prompt: str) -> tuple[Offsets, ...]:
    """Find the characters each token stands for by decoding the tokens and following them through the prompt.

    For tokenizers that give no offsets. White space, case and Unicode composition are ignored. Tokens that
    share a character (bytes of one letter) get the same characters; tokens that decode to something else,
    such as an unknown one, get together what their neighbours leave.
    """
    text, places = _flattened(prompt)
    offsets: list[Offsets] = [(0, 0)] * len(ids)
    cursor, open_from = 0, 0
    for first, last, piece in _pieces(tokenizer, ids):
        known = open_from == first  # after an unknown token the text may go on further right
        at = text.find(piece, cursor) if not known else cursor if text.startswith(piece, cursor) else -1
        if not piece or at < 0:
            continue
        _assign(offsets, range(open_from, first), places[cursor:at])
        _assign(offsets, range(first, last), places[at : at + len(piece)])
        cursor, open_from = at + len(piece), last
    _assign(offsets, range(open_from, len(ids)), places[cursor:])
    return tuple(offsets)


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[tuple[int, int, str]]:
    """Decode token by token, several at once where only together they make whole characters."""
    pieces, first = [], 0
    for last in range(1, len(ids) + 1):
        unknown = ids[first] == getattr(tokenizer, "unk_token_id", None)
        text = "" if unknown else str(tokenizer.decode(list(ids[first:last])))
        if "\ufffd" not in text or last - first >= 4:  # no character has more than four bytes
            pieces.append((first, last, _flattened(text)[0]))
            first = last
    return pieces


def _flattened(text: str) -> tuple[str, list[Offsets]]:
    """Return the text folded and without white space, and for each of its characters its place in `text`."""
    letters, places, start = "", [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        cluster = "".join(folded(text[start:end]).split())
        letters += cluster
        places += [(start, end)] * len(cluster)
        start = end
    return letters, places


def _assign(offsets: list[Offsets], tokens: range, places: Sequence[Offsets]) -> None:
    for index in tokens:
        offsets[index] = (places[0][0], places[-1][1]) if places else (0, 0)


def _added_names(tokenizer: Any) -> frozenset[str]:
    special = set(getattr(tokenizer, "all_special_tokens", ()))
    added = getattr(tokenizer, "added_tokens_encoder", {})
    return frozenset(name for name in added if name not in special and not name.isalnum())


def _written_out(tokenizer: Any, prompt: str, names: frozenset[str]) -> str:
    for name in names.intersection(tokenizer.tokenize(prompt)) if names else ():
        further, vectors = 1, [name]
        while f"{name}_{further}" in names:
            vectors.append(f"{name}_{further}")
            further += 1
        prompt = prompt.replace(name, " ".join(vectors))
    return prompt


def _start_ids(tokenizer: Any) -> set[int]:
    ids = (getattr(tokenizer, name, None) for name in ("bos_token_id", "cls_token_id"))
    return {found for found in ids if found is not None}
