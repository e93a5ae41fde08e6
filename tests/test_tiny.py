"""The tiny pipeline is what other tests take it for: words, splits and grids."""

from __future__ import annotations

import pytest
import torch
from tiny import SPLIT_WORDS, WORDS, tiny_pipeline, tiny_tokenizer


@pytest.mark.parametrize("word", WORDS)
def test_known_words_are_one_token(word: str) -> None:
    assert tiny_tokenizer().tokenize(word) == [word + "</w>"]


@pytest.mark.parametrize("word", SPLIT_WORDS)
def test_split_words_are_their_parts(word: str) -> None:
    assert tuple(tiny_tokenizer().tokenize(word)) == SPLIT_WORDS[word]


def test_any_text_is_tokenised_without_loss() -> None:
    tokenizer = tiny_tokenizer()
    assert (
        tokenizer.decode(tokenizer("a café, naïve", add_special_tokens=False).input_ids) == "a café , naïve"
    )


def test_same_seed_same_image() -> None:
    images = [
        tiny_pipeline(seed=3)(
            "a cat", num_inference_steps=2, generator=torch.manual_seed(0), output_type="np"
        ).images
        for _ in range(2)
    ]
    assert images[0].shape == (1, 256, 256, 3)
    assert (images[0] == images[1]).all()


def test_building_keeps_the_callers_random_state() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    tiny_pipeline()
    assert torch.equal(torch.rand(1), expected)
