"""Everything that stands in a prompt's token sequence, so that nothing which holds attention goes unnamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .encoding import OTHER_TEXT, PADDING, Encoding, encode
from .tokens import Span
from .words import Word, occurrences, whole_words


@dataclass(frozen=True)
class Parts:
    """A prompt's token sequence, cut into parts.

    Attributes:
        words: every word of the prompt in its order, articles too, each with all its tokens.
        sequence: all parts in their order: start token, words, what stands between them, end token, and
            padding, which is the position after the end token and, with several encoders, what fills up the
            others' sequences.
        text: where the prompt's own tokens begin and end (exclusive): after the start, before the end token;
            a pair an encoder where several stand one after the other.
        columns: number of positions; the last one stands for all padding where there is any.
        left_out: words that have no token of their own: cut off by the text encoder's limit, mostly.
    """

    words: tuple[Span, ...]
    sequence: tuple[Span, ...]
    text: tuple[int, ...]
    columns: int
    left_out: tuple[str, ...] = ()


def parts_of(tokenizer: Any, prompt: str | None, text_length: int) -> Parts:
    """The parts of a sequence of `text_length` tokens, padding included.

    Without a prompt (embeddings were given instead) every position but the first counts as a word, named
    "token 1" and so on, since nothing tells where the text ends.

    Raises:
        UnsupportedError: a tokenizer that pads on the left.
    """
    if prompt is None:
        words = tuple(Span(f"token {index}", (index,)) for index in range(1, text_length))
        return Parts(words, (Span("token 0", (0,)), *words), (1, text_length), text_length)
    encoding = encode(tokenizer, prompt)
    whole = whole_words(encoding.prompt, encoding.names)
    visible = [word for word in whole if _indices(encoding, word)]
    words = tuple(_span(encoding, word) for word in visible)
    columns = min(len(encoding.ids) + 1, text_length)
    others = _others(encoding, words, columns)
    sequence = tuple(sorted((*words, *others), key=lambda span: span.indices))
    left_out = tuple(word.text for word in whole if word not in visible)
    text = tuple(end for own in encoding.ranges for end in own)
    return Parts(words, sequence, text, columns, left_out)


def _indices(encoding: Encoding, word: Word) -> tuple[int, ...]:
    whole = not encoding.truncated or word.end <= encoding.visible_end
    return encoding.positions(word.start, word.end) if whole else ()


def _span(encoding: Encoding, word: Word) -> Span:
    same = occurrences(encoding.prompt, word.text, encoding.names)
    return Span(word.text, _indices(encoding, word), 1 + sum(other.start < word.start for other in same))


def _others(encoding: Encoding, words: tuple[Span, ...], columns: int) -> list[Span]:
    """Start and end token, padding, and what belongs to no word, such as a comma."""
    taken = {index for word in words for index in word.indices}
    found: list[Span] = []
    filling: dict[str, list[int]] = {}
    for index in (index for index in range(columns) if index not in taken):
        name = _named(encoding, index)
        if name in (PADDING, OTHER_TEXT):
            filling.setdefault(name, []).append(index)
        else:
            found.append(Span(name, (index,), 1 + sum(span.text == name for span in found)))
    return [*found, *(Span(name, tuple(indices)) for name, indices in filling.items())]


def _named(encoding: Encoding, index: int) -> str:
    if index >= len(encoding.ids):
        return PADDING
    text = encoding.prompt[slice(*encoding.offsets[index])]
    return text if text.strip() else encoding.pieces[index]
