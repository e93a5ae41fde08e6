"""The sets of prompts: the benchmark's counts and templates, and what a file of one's own may hold."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from heedful.emoji.vocabulary import ANIMALS, COLOURS, OBJECTS
from heedful.evaluation import PromptError, read_prompts
from heedful.evaluation.prompts import EMBEDDED, REAL, Prompt, from_line, split_colour
from hypothesis import given
from hypothesis import strategies as st

THINGS = tuple("apple backpack balloon bench bow bowl car chair clock crown glasses suitcase".split())


def test_the_benchmark_has_every_pair_of_its_words_once_in_its_templates() -> None:
    prompts = REAL["benchmark"]()

    assert Counter(prompt.kind for prompt in prompts) == {
        "animal-animal": 66, "animal-object": 144, "object-object": 66,
    }  # fmt: skip
    pairs = {frozenset(prompt.subjects) for prompt in prompts}
    assert pairs == {frozenset(pair) for pair in combinations((*ANIMALS, *THINGS), 2)}
    assert sum(" with " in prompt.text for prompt in prompts) == 36
    colour, word = f"(?:{'|'.join(COLOURS)})", r"[a-z]+"
    templates = {
        "animal-animal": f"an? {word} and an? {word}",
        "animal-object": f"an? {word} (?:and an? {colour}|with an?) {word}",
        "object-object": f"an? {colour} {word} and an? {colour} {word}",
    }
    assert all(re.fullmatch(templates[prompt.kind], prompt.text) for prompt in prompts)
    assert not any("couch" in prompt.text for prompt in prompts)


def test_singles_are_each_word_alone() -> None:
    prompts = REAL["single"]()

    assert sorted(prompt.text for prompt in prompts) == sorted(
        f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in (*ANIMALS, *THINGS)
    )


def test_the_embedded_sets_have_their_sizes_and_groups() -> None:
    sizes = {name: len(make()) for name, make in EMBEDDED.items()}

    assert sizes == {
        "held-out": 36, "seen": 64, "tuning": 64, "coloured": 22, "three": 36, "single": 24, "benchmark": 276,
    }  # fmt: skip
    assert all({prompt.group for prompt in make()} == {name} for name, make in EMBEDDED.items())
    assert all(len(prompt.subjects) == 3 for prompt in EMBEDDED["three"]())
    assert all(name in OBJECTS for prompt in EMBEDDED["coloured"]() for name, _ in prompt.coloured)


def test_a_text_file_marks_subjects_or_leaves_them_to_be_found(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(
        "# mine\n\na [cat] and a [red bow]\na dog beside two green chairs\na [teddy  bear] on ice\n"
    )

    found = read_prompts(file)

    assert [prompt.text for prompt in found] == [
        "a cat and a red bow", "a dog beside two green chairs", "a teddy  bear on ice",
    ]  # fmt: skip
    assert [prompt.labels for prompt in found] == [
        ("cat", "red bow"), ("dog", "green chairs"), ("teddy bear",),
    ]  # fmt: skip
    assert found[0].subjects == ("cat", "bow")
    assert found[0].coloured == (("bow", "red bow"),)
    assert {prompt.group for prompt in found} == {"own"}


def test_json_lines_name_subjects_and_groups(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "a cat and a dog", "subjects": ["dog"], "group": "hard"}\n{"prompt": "a frog"}\n'
    )

    found = read_prompts(file)

    assert [(prompt.labels, prompt.group) for prompt in found] == [(("dog",), "hard"), (("frog",), "own")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "# nothing\n", "holds no prompt"),
        ("p.txt", "a cat\nof the and\n", 'line 2 of .*"of the and" must have at least one subject'),
        ("p.txt", "a [cat] and a [cat]", "each once; got cat, cat"),
        ("p.jsonl", "a cat", "wanted an object such as"),
        ("p.jsonl", '{"prompt": "a cat", "subjects": "cat"}', "subjects must be a list"),
        ("p.jsonl", '{"prompt": 3}', "prompt must be a text"),
        ("p.jsonl", '{"prompt": "a cat", "subjects": ["dog"]}', '"dog" is not in the prompt'),
        ("none.txt", None, "cannot read the prompts file .*none.txt: No such file"),
    ],
)
def test_what_is_no_prompt_is_said_with_its_line(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(PromptError, match=message):
        read_prompts(tmp_path / name)


@given(st.permutations([("", "cat"), ("red", "bow"), ("green", "chair"), ("", "turtle")]), st.integers(1, 4))
def test_brackets_and_content_words_find_the_same(named: list[tuple[str, str]], count: int) -> None:
    labels = [f"{colour} {name}".strip() for colour, name in named[:count]]
    marked = from_line(" and ".join(f"a [{label}]" for label in labels))

    assert marked == from_line(marked.text) == Prompt(marked.text, tuple(labels))
    assert [split_colour(label) for label in labels] == named[:count]
