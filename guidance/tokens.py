"""Words and phrases of a prompt as token positions, for any tokenizer, so that nobody has to count tokens.

A word is a run of letters, digits and marks; a hyphen, an apostrophe or white space ends it. Words match
whole ("cat" is neither in "caterpillar" nor in "cats"), whatever their case and Unicode composition. Any
tokenizer of transformers will do: positions come from its offsets where it gives them, else from aligning
its decoded tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from .encoding import Encoding, Range, encode
from .errors import TokenNotFoundError
from .words import Word, content_words, folded, occurrences, whole_words

_NUMBERED = re.compile(r"(?s)(.*\S)\s*#(\d+)")


@dataclass(frozen=True)
class Span:
    """The token positions of one word or phrase of a prompt.

    text: the word or phrase as it stands in the prompt.
    indices: its positions in the padded token sequence, counted from the start token, 0.
    occurrence: 1 for the first time the text stands in the prompt, 2 for the second, and so on.
    """

    text: str
    indices: tuple[int, ...]
    occurrence: int = 1

    @property
    def label(self) -> str:
        """The text, with its occurrence where it is not the first: "dog", "dog#2". Finds the span again."""
        return self.text if self.occurrence == 1 else f"{self.text}#{self.occurrence}"


def find_spans(
    tokenizer: Any, prompt: str, words: Sequence[str] | None = None, *, max_length: int | None = None
) -> tuple[Span, ...]:
    """Return one span a word, in the order asked for.

    words: words ("frog") or phrases of adjacent words ("red bow"), in any case. A word that stands in the
        prompt more than once means its first place; "dog#2" is the second. An empty list gives no
        spans. None gives every content word in the prompt's order, each place of a repeated one: all but
        articles, conjunctions, prepositions, pronouns, auxiliary verbs, words for the medium ("photo"),
        numbers, and colours or common adjectives directly before another word ("red" in "a red bow"), since
        a subject is best found by its noun; see `words.STOP_WORDS` and `words.DESCRIPTIONS`.
    max_length: tokens kept, start and end token included; default the tokenizer's own limit.

    Raises:
        TokenNotFoundError: a word that is not in the prompt as a whole word, stands there less often than
            asked for, was cut off by truncation, or is named twice; with None, a prompt without content
            words.
    """
    encoding = encode(tokenizer, prompt, max_length)
    if words is None:
        return _content_spans(encoding)
    asked = [words] if isinstance(words, str) else list(words)
    spans = tuple(_find(encoding, word) for word in asked)
    for index, span in enumerate(spans):
        if span in spans[:index]:
            raise TokenNotFoundError(
                f'word "{asked[index]}" is named twice; its second place in the prompt is "{span.text}#2"'
            )
    return spans


def spans_from_indices(
    tokenizer: Any,
    prompt: str | None,
    token_indices: int | Sequence[int | tuple[int, ...] | list[int]],
    *,
    max_length: int | None = None,
) -> tuple[Span, ...]:
    """Return one span an index, or one span a tuple of indices (a word of several tokens).

    Positions count from the start token, 0, as `token_indices` of diffusers' Attend-and-Excite do. Without a
    prompt (embeddings were given instead) only the sign of an index can be checked; the span's text is then
    "token 2".

    Raises:
        TokenNotFoundError: an index that is no position of the prompt's own tokens: negative, the start
            token's, the end token's or beyond, not an integer, or a list (which is one a prompt, not
            one a word).
    """
    groups = [token_indices] if isinstance(token_indices, int) else list(token_indices)
    encoding = None if prompt is None else encode(tokenizer, prompt, max_length)
    return tuple(_span_at(encoding, group) for group in groups)


def last_token(tokenizer: Any, prompt: str, *, max_length: int | None = None) -> int:
    """Return the position of the end token: one past the prompt's own tokens, the start token counted.

    The prompt's own tokens are the positions 1 .. last_token - 1 (from 0 for a tokenizer without a start
    token, such as T5's). For a truncated prompt it is the last position of the sequence.
    """
    return encode(tokenizer, prompt, max_length).last


def own_tokens(tokenizer: Any, prompt: str) -> int | tuple[Range, ...]:
    """Return where the prompt's own tokens stand, as the losses' `last` has it.

    The position of the end token where they are 1 .. last - 1, else ranges ((first, end), ...): without a
    start token, or for several encoders one after the other.
    """
    ranges = encode(tokenizer, prompt).ranges
    return ranges[0][1] if len(ranges) == 1 and ranges[0][0] == 1 else ranges


def _content_spans(encoding: Encoding) -> tuple[Span, ...]:
    words = content_words(encoding.prompt, encoding.names)
    if encoding.first == encoding.last:
        raise TokenNotFoundError("the prompt is empty: it has no word to guide")
    if not words:
        raise TokenNotFoundError(
            f"the prompt {_quoted(encoding.prompt)} has no content words to guide; name the words yourself, "
            f"one or more of: {_choices(encoding)}"
        )
    return tuple(_place(encoding, word, word.text) for word in words)


def _find(encoding: Encoding, asked: str) -> Span:
    if not isinstance(asked, str):
        raise TokenNotFoundError(f"a word is a string, such as 'frog'; got {asked!r}")
    found = occurrences(encoding.prompt, asked, encoding.names)
    numbered = None if found else _NUMBERED.fullmatch(asked)
    text, number = (numbered.group(1), int(numbered.group(2))) if numbered else (asked, 1)
    found = found or occurrences(encoding.prompt, text, encoding.names)
    if not found:
        raise TokenNotFoundError(
            f'word "{text}" is not in the prompt {_quoted(encoding.prompt)}; '
            f"its words are: {_choices(encoding)}{_hint(encoding, text)}"
        )
    if not 1 <= number <= len(found):
        raise TokenNotFoundError(
            f'"{asked}" asks for place {number} of "{text}", which stands in the prompt '
            f"{_quoted(encoding.prompt)} {len(found)} time{'s'[: len(found) != 1]}; places count from 1"
        )
    return _place(encoding, found[number - 1], asked)


def _place(encoding: Encoding, word: Word, asked: str) -> Span:
    if encoding.truncated and word.end > encoding.visible_end:
        raise TokenNotFoundError(
            f'word "{asked}" is cut off: the text encoder takes {encoding.limit} tokens, the end token '
            f"included; the words that remain are: {_choices(encoding)}. Shorten the prompt"
        )
    indices = encoding.positions(word.start, word.end)
    if not indices:
        raise TokenNotFoundError(f'word "{asked}" has no token: the tokenizer leaves its characters out')
    same = occurrences(encoding.prompt, word.text, encoding.names)
    return Span(word.text, indices, 1 + sum(other.start < word.start for other in same))


def _span_at(encoding: Encoding | None, group: int | tuple[int, ...] | list[int]) -> Span:
    if isinstance(group, list):
        raise TokenNotFoundError(
            f"a span of several tokens is a tuple, such as {tuple(group)}; a list is one a prompt"
        )
    indices = group if isinstance(group, tuple) else (group,)
    for index in indices or (None,):
        _check_index(encoding, index)
    if encoding is None:
        return Span("token " + "+".join(map(str, indices)), indices)
    start = min(encoding.offsets[index][0] for index in indices)
    end = max(encoding.offsets[index][1] for index in indices)
    return Span(encoding.prompt[start:end], indices, _repetition(encoding, indices))


def _check_index(encoding: Encoding | None, index: object) -> None:
    if not isinstance(index, int) or isinstance(index, bool):
        raise TokenNotFoundError(f"a token index is an integer; got {index!r}")
    if encoding is None and index < 1:
        raise TokenNotFoundError(
            f"token index {index} is out of range; the text begins at 1, after the start token"
        )
    if encoding is not None and index not in encoding.own:
        tokens = ", ".join(f"{i}: {encoding.prompt[slice(*encoding.offsets[i])]}" for i in encoding.own)
        raise TokenNotFoundError(
            f"token index {index} is out of range for the prompt {_quoted(encoding.prompt)}; its tokens are: "
            f"{tokens or 'none'}"
        )


def _repetition(encoding: Encoding, indices: tuple[int, ...]) -> int:
    """Count how often the same tokens, at the same distances, have begun up to here.

    Of several encoders the one counts that the first token belongs to: their numbers mean different tokens.
    """
    first, end = next(own for own in encoding.ranges if own[0] <= indices[0] < own[1])
    here = [index for index in indices if first <= index < end]
    distances = [index - here[0] for index in here]
    wanted = [encoding.ids[index] for index in here]
    starts = range(first - min(distances), here[0] + 1)
    return sum([encoding.ids[start + d] for d in distances] == wanted for start in starts)


def _choices(encoding: Encoding) -> str:
    end = encoding.visible_end if encoding.truncated else len(encoding.prompt)
    words = [word.text for word in whole_words(encoding.prompt, encoding.names) if word.end <= end]
    return ", ".join(dict.fromkeys(words)) or "none"


def _hint(encoding: Encoding, text: str) -> str:
    words = {folded(word.text): word.text for word in whole_words(encoding.prompt, encoding.names)}
    close = get_close_matches(folded(text), words, n=1, cutoff=0.6)
    return f' (did you mean "{words[close[0]]}"?)' if close else ""


def _quoted(prompt: str) -> str:
    return f'"{prompt}"'
