"""The prompts that methods are compared on."""

from __future__ import annotations

from collections import Counter

import pytest
from heedful.emoji.prompts import (
    WORN,
    benchmark,
    coloured_prompts,
    held_out_prompts,
    seen_prompts,
    single_prompts,
    three_subject_prompts,
    tuning_prompts,
)
from heedful.emoji.vocabulary import ANIMALS, COLOURS, HELD_OUT, LABELS, OBJECTS, SUBJECTS


def test_the_benchmark_has_each_pair_once_in_its_three_templates():
    prompts = benchmark()

    assert len(prompts) == 276
    assert len({frozenset(prompt.subjects) for prompt in prompts}) == 276
    assert Counter(prompt.kind for prompt in prompts) == {
        "animal-animal": 66,
        "animal-object": 144,
        "object-object": 66,
    }
    assert sum(" with a" in prompt.text for prompt in prompts) == 36
    assert prompts[0].text == "a bear and a bird"


@pytest.mark.parametrize("seed", [0, 7])
def test_colours_stand_where_the_benchmark_has_them_and_differ_within_a_prompt(seed: int):
    for prompt in benchmark(seed):
        colours = [colour for _, colour in prompt.named]
        for name, colour in prompt.named:
            assert (colour is None) == (name in ANIMALS or " with " in prompt.text)
            assert colour is None or colour in COLOURS
        assert prompt.kind != "object-object" or len(set(colours)) == 2
        assert all(label in LABELS and label in prompt.text for label in prompt.labels)
        assert ("with" in prompt.text) == (prompt.kind == "animal-object" and prompt.subjects[1] in WORN)
        assert not any(f" a {vowel}" in f" {prompt.text}" for vowel in "aeiou")


def test_colours_depend_on_the_seed_alone():
    assert benchmark(3) == benchmark(3)
    assert benchmark(3) != benchmark(4)


def test_held_out_seen_and_tuning_prompts_have_nothing_in_common():
    held_out, seen, tuning = held_out_prompts(), seen_prompts(64), tuning_prompts(40)

    assert {frozenset(prompt.subjects) for prompt in held_out} == HELD_OUT
    assert len({*held_out, *seen, *tuning}) == len(HELD_OUT) + 64 + 40
    assert {*held_out, *seen_prompts(240)} == set(benchmark())


@pytest.mark.parametrize("count", [24, 64, 120])
def test_a_sample_of_seen_prompts_holds_each_kind_by_its_share(count: int):
    kinds = Counter(prompt.kind for prompt in seen_prompts(count))
    all_kinds = Counter(prompt.kind for prompt in seen_prompts(240))

    for kind, whole in all_kinds.items():
        assert abs(kinds[kind] - whole * count / 240) <= 1


def test_there_is_one_prompt_a_subject_alone():
    assert [prompt.subjects for prompt in single_prompts()] == [(name,) for name in SUBJECTS]
    assert {"a cat", "an apple"} <= {prompt.text for prompt in single_prompts()}


@pytest.mark.parametrize("count", [-1, 241])
def test_more_prompts_than_there_are_cannot_be_drawn(count: int):
    with pytest.raises(ValueError, match=f"240 seen pairs, one prompt each; got count={count}"):
        seen_prompts(count)


@pytest.mark.parametrize("seed", [0, 5])
def test_coloured_prompts_name_each_held_out_object_in_a_colour(seed: int):
    prompts = coloured_prompts(seed)

    assert {frozenset(prompt.subjects) for prompt in prompts} == {
        pair for pair in HELD_OUT if pair & set(OBJECTS)
    }
    for prompt in prompts:
        colours = [colour for _, colour in prompt.named if colour is not None]
        assert all((colour is not None) == (name in OBJECTS) for name, colour in prompt.named)
        assert len(set(colours)) == len(colours)
        assert all(label in LABELS and label in prompt.text for label in prompt.labels)
        assert (" with " in prompt.text) == (prompt.subjects[1] in WORN and prompt.subjects[0] in ANIMALS)
    assert coloured_prompts(seed) != coloured_prompts(seed + 1)


@pytest.mark.parametrize("seed", [0, 5])
def test_three_subject_prompts_hold_one_held_out_pair_each(seed: int):
    prompts = three_subject_prompts(seed)

    assert {frozenset(prompt.subjects[:2]) for prompt in prompts} == HELD_OUT
    for prompt in prompts:
        assert len(set(prompt.subjects)) == 3
        assert sum(pair <= set(prompt.subjects) for pair in HELD_OUT) == 1
        colours = [colour for name, colour in prompt.named if name in OBJECTS]
        assert None not in colours
        assert len(set(colours)) == len(colours)
        assert prompt.text.count(" and ") == 2
    assert three_subject_prompts(seed) == prompts != three_subject_prompts(seed + 1)
