"""Words, phrases and indices as token positions, for tokenizers with and without offsets."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import oracles
import pytest
from heedful.guidance.encoding import align, encode
from heedful.guidance.errors import GuidanceError, TokenNotFoundError, UnsupportedError
from heedful.guidance.tokens import Span, find_spans, last_token, spans_from_indices
from heedful.guidance.words import content_words
from hypothesis import given
from hypothesis import strategies as st
from tiny import WORDS, tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CLIP = tiny_tokenizer()


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A tokenizer such as T5's: no start token, an end token, words that begin with a mark."""
    pieces = ["▁a", "▁cat", "▁and", "▁red", "▁bow", "▁back", "pack", "▁", ",", *"abcdefghijklmnopqrstuvwxyz"]
    model = Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((piece, -2.0) for piece in pieces)], 2)
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = Metaspace(), MetaspaceDecoder()
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=16
    )


class WithoutOffsets:
    """The same tokenizer as one written in Python: it knows nothing of characters."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, return_offsets_mapping: bool = False, **options: Any) -> Any:
        assert not return_offsets_mapping, "a slow tokenizer raises here"
        return self._tokenizer(text, **options)


@pytest.fixture(params=["offsets", "aligned"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return CLIP if request.param == "offsets" else WithoutOffsets(CLIP)


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        ("a cat and a frog", ["frog", "cat"], [("frog", (5,)), ("cat", (2,))]),
        ("A CAT, and a Frog!", ["cat", "FROG"], [("CAT", (2,)), ("Frog", (6,))]),
        ("a cat with a backpack", ["backpack"], [("backpack", (5, 6))]),
        ("a cat and a red bow", ["red bow"], [("red bow", (5, 6))]),
        ("a red\n  bow", ["Red Bow"], [("red\n  bow", (2, 3))]),
        ("a red-bow", ["red bow", "bow"], [("red-bow", (2, 3, 4)), ("bow", (4,))]),
        ("red, bow", ["red, bow"], [("red, bow", (1, 2, 3))]),
        ("a dog's bowl", ["dog", "bowl"], [("dog", (2,)), ("bowl", (5,))]),
        ("a dog and a Dog", ["dog#2", "dog"], [("Dog#2", (5,)), ("dog", (2,))]),
        ("the dog #2", ["dog"], [("dog", (2,))]),
        ("dog-dog bowl", ["bowl"], [("bowl", (4,))]),
        ("a cat and a frog", [], []),
        ("", [], []),
    ],
)
def test_words_and_phrases_are_found_whole(tokenizer: Any, prompt: str, words: list[str], expected: list):
    assert [(span.label, span.indices) for span in find_spans(tokenizer, prompt, words)] == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["caf\u00e9", "CAFE\u0301"])
def test_unicode_composition_and_case_make_no_difference(tokenizer: Any, form: str, asked: str):
    prompt = unicodedata.normalize(form, "a Caf\u00e9 and a cat")

    cafe, cat = find_spans(tokenizer, prompt, [asked, "cat"])

    assert cafe.indices == tuple(range(2, cat.indices[0] - 2)), (
        "all between the first article and the last two words"
    )
    assert cat.indices == (last_token(tokenizer, prompt) - 1,)


def test_pictographs_and_ideographs_are_words_of_their_own(tokenizer: Any):
    frog, cat = find_spans(tokenizer, "a \U0001f438 \u732b\u72ac", ["\U0001f438", "\u732b"])

    assert frog.indices == (2, 3, 4, 5)
    assert cat.indices == (6, 7, 8)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of a cat and a frog", ["cat", "frog"]),
        ("a dog and a dog", ["dog", "dog#2"]),
        ("A CAT with the red bow, next to an apple", ["CAT", "bow", "apple"]),
        ("there is an orange and a green chair", ["orange", "chair"]),
        ("two small dogs in the dog's 3 bowls", ["dogs", "dog", "bowls"]),
        ("a t-shirt and a teddy-bear", ["t-shirt", "teddy-bear"]),
        ("a bear and a teddy-bear", ["bear", "teddy-bear"]),
        ("a \U0001f438 on a chair", ["\U0001f438", "chair"]),
        ("red", ["red"]),
    ],
)
def test_without_words_every_content_word_is_found(tokenizer: Any, prompt: str, expected: list[str]):
    assert [span.label for span in find_spans(tokenizer, prompt)] == expected


@given(
    st.lists(st.sampled_from([*WORDS[:30], "backpack", "elephant", "Glasses", "qzx"]), min_size=1, max_size=9)
)
def test_every_word_has_the_positions_that_the_end_of_word_marks_give(words: list[str]):
    prompt = " ".join(words)
    grouped = oracles.clip_words(CLIP.tokenize(prompt))
    counts: dict[str, int] = {}
    for word, (text, positions) in zip(words, grouped, strict=True):
        counts[text] = counts.get(text, 0) + 1
        expected = Span(word, tuple(position + 1 for position in positions), counts[text])

        assert find_spans(CLIP, prompt, [f"{word}#{counts[text]}"]) == (expected,)
    assert last_token(CLIP, prompt) == 1 + sum(len(positions) for _, positions in grouped)


def test_the_comparison_with_the_marks_can_fail():
    """The frog's positions are not those of the word before it."""
    grouped = dict(oracles.clip_words(CLIP.tokenize("backpack frog")))

    assert grouped["frog"] == (2,)
    assert find_spans(CLIP, "backpack frog", ["backpack"])[0].indices != (grouped["frog"][0] + 1,)


@given(st.text(alphabet="aA cgo\u00e9\u00df'-,.#2\u0130\U0001f438\u732b\n", max_size=25))
def test_aligned_positions_equal_the_offsets_of_the_tokenizer(prompt: str):
    encoding = encode(CLIP, prompt)
    slow = encode(WithoutOffsets(CLIP), prompt)

    assert (slow.ids, slow.first, slow.last) == (encoding.ids, encoding.first, encoding.last)
    for place in (match.span() for match in re.finditer(r"\w+", prompt)):
        assert slow.positions(*place) == encoding.positions(*place)


def test_unknown_tokens_are_aligned_with_what_their_neighbours_leave():
    tokenizer = sentencepiece_like()
    prompt = "a \U0001f438 cat"
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]

    offsets = align(tokenizer, ids, prompt)

    assert tokenizer.unk_token_id in ids
    assert offsets[-1] == (4, 7)
    assert any(prompt[slice(*offset)] == "\U0001f438" for offset in offsets)


@pytest.mark.parametrize("slow", [False, True])
def test_a_tokenizer_without_start_token_counts_from_zero(slow: bool):
    tokenizer: Any = WithoutOffsets(sentencepiece_like()) if slow else sentencepiece_like()

    spans = find_spans(tokenizer, "a cat and a red backpack", ["cat", "red backpack", "a"])

    assert [span.indices for span in spans] == [(1,), (4, 5, 6), (0,)]
    assert last_token(tokenizer, "a cat and a red backpack") == 7
    assert spans_from_indices(tokenizer, "a cat", [0])[0].text.strip() == "a"


def test_vectors_of_textual_inversion_belong_to_one_word(tokenizer: Any):
    inverted = tiny_tokenizer()
    inverted.add_tokens(["<toy>", "<toy>_1", "<hat>"])
    slow = WithoutOffsets(inverted) if isinstance(tokenizer, WithoutOffsets) else inverted

    spans = find_spans(slow, "a <toy> with a <hat> and a cat")

    assert [(span.label, span.indices) for span in spans] == [
        ("<toy>", (2, 3)),
        ("<hat>", (6,)),
        ("cat", (9,)),
    ]
    assert find_spans(slow, "a <toy>", ["<toy>"])[0].indices == (2, 3)
    with pytest.raises(TokenNotFoundError, match='word "<cap>" is not in the prompt'):
        find_spans(slow, "a <toy>", ["<cap>"])


@pytest.mark.parametrize(
    ("prompt", "words", "message"),
    [
        (
            "a cat and a frog",
            ["frgo"],
            'word "frgo" is not in the prompt "a cat and a frog"; its words are: a, cat, and, frog',
        ),
        ("a cat and a frog", ["frgo"], 'did you mean "frog"'),
        ("a caterpillar", ["cat"], "its words are: a, caterpillar"),
        ("two dogs", ["dog"], 'did you mean "dogs"'),
        ("a red, green bow", ["red bow"], "is not in the prompt"),
        ("a red. Bow", ["red bow"], "is not in the prompt"),
        ("a dog", ["dog#2"], 'place 2 of "dog", which stands in the prompt "a dog" 1 time;'),
        ("a dog", ["dog#0"], "places count from 1"),
        ("a dog", ["cat#2"], 'word "cat" is not in the prompt'),
        ("a dog", ["dog", "DOG"], 'word "DOG" is named twice'),
        ("a dog", [""], 'word "" is not in the prompt'),
        ("a dog, a cat", [","], 'word "," is not in the prompt'),
        ("", ["dog"], "its words are: none"),
        ("", None, "the prompt is empty"),
        (" \n", None, "the prompt is empty"),
        (
            "a photo of the",
            None,
            "name the words yourself, one or more of: a, photo, of, the",
        ),
        (
            "a cat " * 40 + "frog",
            ["frog"],
            "takes 77 tokens.* the words that remain are: a, cat",
        ),
        ("a cat " * 37 + "a backpack", ["backpack"], "cut off"),
        ("a cat " * 40 + "frog", None, "cut off"),
    ],
)
def test_what_the_prompt_does_not_hold_is_an_error_with_the_choices(
    tokenizer: Any, prompt: str, words: list[str] | None, message: str
):
    with pytest.raises(TokenNotFoundError, match=message):
        find_spans(tokenizer, prompt, words)


def test_truncation_keeps_what_fits_and_a_limit_can_be_given(tokenizer: Any):
    prompt = "a cat " * 40

    assert last_token(tokenizer, prompt) == 76
    assert last_token(tokenizer, prompt, max_length=10) == 9
    assert find_spans(tokenizer, prompt, ["cat#4"], max_length=10)[0].indices == (8,)
    with pytest.raises(TokenNotFoundError, match="takes 10 tokens"):
        find_spans(tokenizer, prompt, ["cat#5"], max_length=10)


@pytest.mark.parametrize(("prompt", "expected"), [("", 1), ("cat", 2), ("a backpack", 4), ("a cat!", 4)])
def test_the_last_token_is_where_the_end_token_stands(tokenizer: Any, prompt: str, expected: int):
    padded = CLIP(prompt, padding="max_length", truncation=True)["input_ids"]

    assert last_token(tokenizer, prompt) == expected
    assert padded[expected] == CLIP.eos_token_id
    assert CLIP.eos_token_id not in padded[:expected]


def test_indices_are_taken_as_they_are_and_named(tokenizer: Any):
    prompt = "a dog and a dog with a backpack"

    spans = spans_from_indices(tokenizer, prompt, [2, 5, (8, 9), 9])

    assert [span.label for span in spans] == ["dog", "dog#2", "backpack", "pack"]
    assert [span.indices for span in spans] == [(2,), (5,), (8, 9), (9,)]
    assert spans_from_indices(tokenizer, prompt, 2) == spans[:1]


@given(st.lists(st.sampled_from(["cat", "dog", "backpack", "red"]), min_size=1, max_size=6), st.data())
def test_words_and_their_indices_give_the_same_spans(words: list[str], data: st.DataObject):
    prompt = " and ".join(words)
    spans = find_spans(CLIP, prompt)
    chosen = data.draw(st.sampled_from(spans)) if spans else None

    if chosen:
        assert spans_from_indices(CLIP, prompt, [chosen.indices]) == (chosen,)
        assert find_spans(CLIP, prompt, [chosen.label]) == (chosen,)


def test_without_a_prompt_indices_are_taken_on_trust():
    assert [span.label for span in spans_from_indices(None, None, [2, (3, 4)])] == ["token 2", "token 3+4"]
    with pytest.raises(TokenNotFoundError, match="begins at 1, after the start token"):
        spans_from_indices(None, None, [0])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0], 'index 0 is out of range for the prompt "a dog"; its tokens are: 1: a, 2: dog'),
        ([-1], "index -1 is out of range"),
        ([2, 3], "index 3 is out of range"),
        (77, "index 77 is out of range"),
        ([(1, 9)], "index 9 is out of range"),
        ([True], "a token index is an integer; got True"),
        ([()], "a token index is an integer; got None"),
        ([[1, 2]], r"a tuple, such as \(1, 2\); a list is one a prompt"),
    ],
)
def test_indices_outside_the_prompt_are_refused_with_its_tokens(tokenizer: Any, indices: Any, message: str):
    with pytest.raises(TokenNotFoundError, match=message):
        spans_from_indices(tokenizer, "a dog", indices)


def test_padding_on_the_left_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"

    with pytest.raises(UnsupportedError, match="pads on the left"):
        last_token(tokenizer, "a dog")


def test_one_error_catches_them_all():
    with pytest.raises(GuidanceError):
        find_spans(CLIP, "a dog", ["cat"])
    assert issubclass(TokenNotFoundError, ValueError)


@given(st.text(max_size=30))
def test_any_text_is_split_into_words_that_stand_in_it(prompt: str):
    for word in content_words(prompt):
        assert prompt[word.start : word.end] == word.text
