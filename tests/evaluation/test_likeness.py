"""Similarities of images, prompts and captions, against what a plain reading of their definitions gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checking import two_towers
from evaluating import tiny_captioner
from heedful.emoji import load_judge
from heedful.emoji.world import scene
from heedful.evaluation import EvaluationError, Prompt
from heedful.evaluation.likeness import Likeness, captioner, judge_features, parts
from heedful.explain.check import embedded_comparer
from heedful.explain.comparing import Comparer
from PIL import Image
from torch import nn

PAIR = Prompt("a cat and a red bow", ("cat", "red bow"))


def noise(seed: int, size: tuple[int, int] = (40, 24)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("a cat and a red bow", ("cat", "red bow"), ("a cat", "a red bow")),
        ("a cat with a bow", ("cat", "bow"), ("a cat", "a bow")),
        ("a cat and a dog with a bow", ("cat", "bow"), ("a cat", "a bow")),
        ("two cats beside an old owl", ("cats", "owl"), ("a cats", "an owl")),
        ("a frog", ("frog",), ("a frog",)),
    ],
)
def test_parts_are_the_prompts_own_words_where_each_has_a_subject(
    text: str, labels: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert parts(Prompt(text, labels)) == expected


@pytest.mark.parametrize("templates", [("{}",), ("one {}", "{} here")])
def test_similarities_are_cosines_of_mean_embeddings(templates: tuple[str, ...]) -> None:
    model, processor = two_towers("clip")
    images = [noise(0), noise(1)]
    found = Likeness(Comparer(model, processor), "tiny", templates).measure(images, [PAIR, PAIR])

    def unit(features: Any) -> torch.Tensor:
        embeds = features if isinstance(features, torch.Tensor) else features.pooler_output
        return nn.functional.normalize(embeds.double(), dim=-1)

    with torch.no_grad():
        pixels = processor(images=images)["pixel_values"]
        seen = unit(model.get_image_features(pixel_values=pixels))

        def similarity(row: int, text: str) -> float:
            each = [
                unit(model.get_text_features(**processor(text=[one.format(text)])))[0] for one in templates
            ]
            return float(nn.functional.normalize(torch.stack(each).mean(0), dim=0) @ seen[row])

        for row in range(2):
            assert found[row]["full"] == pytest.approx(similarity(row, PAIR.text), abs=1e-5)
            least = min(similarity(row, "a cat"), similarity(row, "a red bow"))
            assert found[row]["minimum"] == pytest.approx(least, abs=1e-5)
    assert found[0].keys() == {"full", "minimum"}


def test_the_neglected_part_pulls_the_minimum_down() -> None:
    likeness = Likeness(embedded_comparer("cpu", torch.float32), "embedded")
    both, one = (
        Image.fromarray(scene(3, named=named).image)
        for named in ((("cat", None), ("bow", "red")), (("cat", None),))
    )
    whole, lacking = likeness.measure([both, one], [PAIR, PAIR])

    assert whole["full"] > lacking["full"]
    assert whole["minimum"] > lacking["minimum"] + 0.05


def test_captions_are_compared_with_the_prompt_as_far_as_they_are_read() -> None:
    comparer = Comparer(*two_towers("clip"))
    longest = comparer.model.config.text_config.max_position_embeddings - 2
    words = " ".join(["cat"] * (longest + 9))
    said = {"same": PAIR.text, "long": words, "silent": ""}
    found = {}
    for name, text in said.items():
        likeness = Likeness(comparer, "tiny", captioner=lambda images, text=text: [text])
        found[name] = likeness.measure([noise(0)], [PAIR])[0]

    assert found["same"]["by caption"] == pytest.approx(1, abs=1e-5)
    assert found["long"]["caption"] == words
    assert found["long"]["by caption"] < 1 - 1e-4
    assert -1 <= found["silent"]["by caption"] < 1


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_drawn() -> None:
    text = "a cat " + "and a dog " * 60
    likeness = Likeness(Comparer(*two_towers("clip")), "tiny")

    with pytest.raises(EvaluationError, match=r"cannot be compared: the prompt is .* tokens long"):
        likeness.check_prompts([Prompt(text, ("cat",))])


@pytest.mark.parametrize("templates", [(), ("a photo",)])
def test_templates_need_a_place_for_the_text(templates: tuple[str, ...]) -> None:
    with pytest.raises(EvaluationError, match=r"wanted templates with \{\}"):
        Likeness(Comparer(*two_towers("clip")), "tiny", templates)


def test_the_judges_features_tell_images_apart() -> None:
    features = judge_features(load_judge("cpu"))
    images = [Image.fromarray(scene(seed, named=(("cat", None),)).image) for seed in (3, 4)]
    frog = Image.fromarray(scene(3, named=(("frog", None),)).image)
    found = features([*images, frog])

    assert found.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    cats, strangers = float(found[0] @ found[1]), float(found[0] @ found[2])
    assert cats > strangers + 0.1


def test_a_blip_says_the_same_of_an_image_in_any_batch() -> None:
    say = captioner(*tiny_captioner(), longest=5)
    together = say([noise(0), noise(1, (24, 56))])

    assert together == [*say([noise(0)]), *say([noise(1, (24, 56))])]
    assert all(isinstance(text, str) and "<|" not in text for text in together)
