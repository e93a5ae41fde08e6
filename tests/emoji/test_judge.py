"""The judge sees what is drawn, and says clearly what it cannot answer."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from heedful.emoji import Judge, Sighting, load_judge
from heedful.emoji.judge import to_tensor
from heedful.emoji.vocabulary import LABELS
from heedful.emoji.world import label, scene, scenes
from PIL import Image


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_it_loads_without_arguments_in_float32_and_knows_every_label(judge: Judge) -> None:
    assert judge.labels == LABELS
    assert judge.model.dtype == torch.float32
    assert judge.model.config.problem_type == "multi_label_classification"


def test_it_sees_what_is_drawn(judge: Judge) -> None:
    drawn = list(scenes(4_321, 60, pairs="any"))
    sightings = judge([Image.fromarray(one.image) for one in drawn])
    right = [
        set(seen.subjects) == {one.name for one in truth.subjects}
        for truth, seen in zip(drawn, sightings, strict=True)
    ]
    assert np.mean(right) >= 0.9


def test_it_sees_the_colour_of_an_object(judge: Judge) -> None:
    drawn = [
        scene(seed, named=(("bow", colour),))
        for seed, colour in enumerate(("red", "blue", "green", "yellow"))
    ]
    for truth, seen in zip(drawn, judge([Image.fromarray(one.image) for one in drawn]), strict=True):
        assert seen.sees(label("bow", truth.subjects[0].colour))
        assert len([name for name in seen.labels if name.endswith(" bow")]) == 1


def test_other_sizes_and_modes_are_brought_to_its_own(judge: Judge) -> None:
    image = Image.fromarray(scene(5, named=(("frog", None),)).image)
    large = image.resize((256, 256), Image.Resampling.BICUBIC).convert("RGBA")
    assert all(seen.sees("frog") for seen in judge([image, large]))


def test_batches_do_not_change_what_is_seen(judge: Judge) -> None:
    images = [Image.fromarray(one.image) for one in scenes(6, 5)]
    at_once, one_by_one = judge(images), judge(images, batch_size=2)
    for left, right in zip(at_once, one_by_one, strict=True):
        assert left.scores == pytest.approx(right.scores, abs=1e-5)


def test_no_images_are_no_sightings(judge: Judge) -> None:
    assert judge([]) == []


def test_a_single_image_or_an_array_is_refused() -> None:
    prepare = inspect.unwrap(to_tensor)  # without the tests' own type checks, which would be quicker
    with pytest.raises(TypeError, match="put it into a list"):
        prepare(Image.new("RGB", (64, 64)))
    with pytest.raises(TypeError, match=r"Image\.fromarray"):
        prepare([np.zeros((64, 64, 3), np.uint8)])


def sighting(**scores: float) -> Sighting:
    return Sighting({name.replace("_", " "): score for name, score in scores.items()})


def test_a_sighting_answers_for_words_phrases_and_articles() -> None:
    seen = sighting(frog=0.9, bow=0.8, cat=0.2, red_bow=0.7, blue_bow=0.1)
    assert seen.sees("frog")
    assert seen.sees("A Frog")
    assert seen.sees("the red bow")
    assert not seen.sees("cat")
    assert seen.subjects == ("frog", "bow")
    assert seen.labels == ("frog", "bow", "red bow")
    assert seen.verdicts(["cat", "red bow"]) == {"cat": False, "red bow": True}
    assert seen.sees_all(["frog", "bow"])
    assert not seen.sees_all(["frog", "cat"])


@pytest.mark.parametrize("word", ["frgo", "red", "red frog", ""])
def test_an_unknown_word_is_an_error_that_lists_the_labels(word: str) -> None:
    with pytest.raises(ValueError, match=f'no label "{word}".*frog, bow.*red bow'):
        sighting(frog=0.9, bow=0.8, red_bow=0.7).sees(word)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0])
def test_a_threshold_that_is_no_probability_is_refused(judge: Judge, threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Judge(judge.model, threshold)


def test_its_preparation_is_the_one_its_folder_states(judge: Judge) -> None:
    from heedful.emoji.models import MODELS
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(MODELS / "judge", backend="pil")
    image = Image.fromarray(scene(7).image)
    stated = processor([image], return_tensors="pt")["pixel_values"]
    assert torch.allclose(to_tensor([image]), stated, atol=1e-6)
