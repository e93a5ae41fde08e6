"""Several tokenizers as one, for denoisers that read the texts of several encoders one after the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from .encoding import OTHER_TEXT, PADDING, Encoding, Range, encode
from .errors import GuidanceError


@dataclass(frozen=True)
class Stretch:
    """One encoder's part of the joint sequence.

    Attributes:
        tokenizer: any tokenizer of transformers.
        length: the number of positions, padding included.
        other: prompts in whose place this encoder was given another text, so that its positions say nothing
            of their words.
    """

    tokenizer: Any
    length: int
    other: Collection[str] = ()


class JoinedTokenizer:
    """Tokenizers whose sequences stand one after the other, as one that `encode` knows.

    Stable Diffusion 3 reads 77 positions that its two CLIP encoders share (their vocabulary is the same) and
    then T5's; a word has its tokens in both, and one that CLIP cuts off may still be in T5's. Flux reads T5's
    alone, whose length the pipeline is told.
    """

    padding_side = "right"

    def __init__(self, *stretches: Stretch) -> None:
        """
        Raises:
            GuidanceError: no stretch at all, or one without positions.
        """
        if not stretches or any(one.length < 1 for one in stretches):
            lengths = ", ".join(str(one.length) for one in stretches) or "none"
            raise GuidanceError(f"tokenizers are joined with at least one position each; got {lengths}")
        self.stretches = stretches

    def encoding(self, prompt: str) -> Encoding:
        """The prompt's tokens at their positions in the joint sequence.

        Raises:
            GuidanceError: all encoders were given other texts.
        """
        found = [
            None if prompt in one.other else encode(one.tokenizer, prompt, one.length)
            for one in self.stretches
        ]
        read = [one for one in found if one is not None]
        if not read:
            raise GuidanceError(
                f'no text encoder was given the prompt "{prompt}" itself: its words have no positions'
            )
        return Encoding(
            prompt=read[0].prompt,
            ids=self._laid_out(found, "ids", 0, 0),
            pieces=self._laid_out(found, "pieces", PADDING, OTHER_TEXT),
            offsets=self._laid_out(found, "offsets", (0, 0), (0, 0)),
            ranges=tuple(self._ranges(found)),
            truncated=all(one.truncated for one in read),
            limit=max(one.limit for one in read),
            names=frozenset().union(*(one.names for one in read)),
        )

    def _ranges(self, found: Sequence[Encoding | None]) -> list[Range]:
        ranges, start = [], 0
        for one, stretch in zip(found, self.stretches, strict=True):
            ranges += [] if one is None else [(start + first, start + end) for first, end in one.ranges]
            start += stretch.length
        return ranges

    def _laid_out(
        self, found: Sequence[Encoding | None], what: str, padding: Any, other: Any
    ) -> tuple[Any, ...]:
        """What each encoding says of its positions, filled up to its length; the last one is not."""
        laid: list[Any] = []
        start = 0
        for one, stretch in zip(found, self.stretches, strict=True):
            laid += (padding,) * (start - len(laid))
            laid += (other,) * stretch.length if one is None else getattr(one, what)
            start += stretch.length
        return tuple(laid)
