"""Tiny Stable Diffusion 3 and Flux with random weights: real architectures, in a blink, without a hub.

Heads, sides, and the lengths of the encoders' texts are unequal, so that nothing fits by chance.
"""

from __future__ import annotations

from tiny import SPLIT_WORDS, WORDS
from transformers import T5Tokenizer


def tiny_t5_tokenizer(length: int = 512) -> T5Tokenizer:
    """T5's tokenizer that knows `WORDS` whole and `SPLIT_WORDS` in parts, which are not CLIP's parts."""
    pieces = [f"\u2581{word}" for word in WORDS]
    pieces += [f"\u2581{word[:-3]}" for word in SPLIT_WORDS] + [word[-3:] for word in SPLIT_WORDS]
    letters = sorted({letter for word in (*WORDS, *SPLIT_WORDS) for letter in word})
    known = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in pieces)]
    known += [(letter, -9.0) for letter in ["\u2581", *letters, ",", "."]]
    return T5Tokenizer(vocab=known, extra_ids=0, model_max_length=length)
