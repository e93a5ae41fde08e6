"""What says whether subjects are there: the judge, check, a detector; each with words it must tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from evaluating import PROMPTS, save_owl_vit
from heedful.emoji import load_judge
from heedful.emoji.world import scene
from heedful.evaluation import EvaluationError, Prompt
from heedful.evaluation.eyes import CheckEyes, DetectorEyes, JudgeEyes, overlap
from heedful.explain import check
from heedful.scripts.loading import load_model, load_processor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

BOW = Prompt("a cat and a red bow", ("cat", "red bow"))


def shown(*named: tuple[str, str | None], seed: int = 3) -> Image.Image:
    return Image.fromarray(scene(seed, named=named).image)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """A cat with a red bow, with a blue one, and alone."""
    return [
        shown(("cat", None), ("bow", "red")), shown(("cat", None), ("bow", "blue")), shown(("cat", None)),
    ]  # fmt: skip


def test_the_judge_sees_subjects_and_their_colours(images: list[Image.Image]) -> None:
    eyes = JudgeEyes(load_judge("cpu"))
    eyes.check_prompts([BOW])
    found = eyes.look(images, [BOW] * 3)

    assert [dict(one.subjects) for one in found] == [
        {"cat": True, "bow": True}, {"cat": True, "bow": True}, {"cat": True, "bow": False},
    ]  # fmt: skip
    assert [one.coloured["red bow"] for one in found] == [True, False, False]
    assert found[0].scores["bow"] > 0.5 > found[2].scores["bow"]
    with pytest.raises(EvaluationError, match='does not know "bench" of the prompt "a bench"; it knows bear'):
        eyes.check_prompts([Prompt("a bench", ("bench",))])


def test_check_is_asked_for_names_first_and_then_for_coloured_names(images: list[Image.Image]) -> None:
    asked: list[Any] = []

    def checker(images: Any, words: Any, *, prompt: Any) -> Any:
        asked.append(words)
        return check(images, words, prompt=prompt, device="cpu", relevance=False)

    plain = Prompt("a cat", ("cat",))
    found = CheckEyes(checker, "the embedded CLIP").look([*images, images[2]], [BOW, BOW, BOW, plain])

    assert asked == [[["cat", "bow"]] * 3 + [["cat"]], [["red bow"]] * 3]
    assert [one.subjects["cat"] for one in found] == [True] * 4
    assert [one.subjects["bow"] for one in found[:3]] == [True, True, False]
    assert [one.coloured["red bow"] for one in found[:3]] == [True, False, False]
    assert found[3].coloured == {}


class Boxes:
    """A detector that finds planted boxes: text to (score, left, top, right, bottom)."""

    def __init__(self, **planted: tuple[float, float, float, float, float]) -> None:
        self.planted = {name.replace("_", " "): box for name, box in planted.items()}

    def __call__(self, image: Image.Image, *, candidate_labels: list[str], threshold: float) -> Any:
        sides = ("xmin", "ymin", "xmax", "ymax")
        return [
            {"label": text, "score": box[0], "box": dict(zip(sides, box[1:], strict=True))}
            for text in candidate_labels
            if (box := self.planted.get(text)) and box[0] >= threshold
        ]


def test_one_thing_is_not_two_subjects() -> None:
    both = Prompt("a cat and a dog", ("cat", "dog"))
    apart = Boxes(a_cat=(0.6, 0, 0, 10, 10), a_dog=(0.5, 20, 0, 30, 10))
    alike = Boxes(a_cat=(0.6, 0, 0, 10, 10), a_dog=(0.5, 0, 0, 10, 11))

    looked = [
        DetectorEyes(detect, "planted", 0.4).look([Image.new("RGB", (8, 8))], [both])[0]
        for detect in (apart, alike)
    ]
    assert [dict(one.subjects) for one in looked] == [{"cat": True, "dog": True}, {"cat": True, "dog": False}]
    assert looked[1].scores == {"cat": 0.6, "dog": 0.0}


def test_a_colour_counts_where_it_fits_best_and_its_thing_is_there() -> None:
    def coloured(**planted: Any) -> bool:
        eyes = DetectorEyes(Boxes(**planted), "planted", 0.4)
        return eyes.look([Image.new("RGB", (8, 8))], [BOW])[0].coloured["red bow"]

    box = (0, 0, 4, 4)
    assert coloured(a_bow=(0.5, *box), a_red_bow=(0.5, *box), a_blue_bow=(0.3, *box))
    assert not coloured(a_bow=(0.5, *box), a_red_bow=(0.5, *box), a_blue_bow=(0.6, *box))
    assert not coloured(a_bow=(0.3, *box), a_red_bow=(0.5, *box))
    assert not coloured(a_bow=(0.5, *box))


@given(*[st.lists(st.integers(0, 9), min_size=4, max_size=4) for _ in range(2)])
def test_overlap_is_counted_in_cells(one: list[int], other: list[int]) -> None:
    def box(sides: list[int]) -> tuple[int, int, int, int]:
        left, right = sorted(sides[:2])
        top, bottom = sorted(sides[2:])
        return left, top, right, bottom

    masks = []
    for left, top, right, bottom in (box(one), box(other)):
        mask = np.zeros((9, 9), dtype=bool)
        mask[top:bottom, left:right] = True
        masks.append(mask)
    union = (masks[0] | masks[1]).sum()
    expected = (masks[0] & masks[1]).sum() / union if union else 0.0
    assert overlap(box(one), box(other)) == pytest.approx(expected)


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owl")
    save_owl_vit(folder)
    return folder


def test_a_detector_of_transformers_is_asked_through_its_pipeline(owl: Path) -> None:
    model, processor = load_model(str(owl), "cpu", torch.float32), load_processor(str(owl), texts=True)
    detect = transformers.pipeline(
        "zero-shot-object-detection", model=model, tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )  # fmt: skip
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8))
    found = DetectorEyes(detect, "owl", 1e-4).look([image], [BOW])[0]

    inputs = processor(text=[["a cat", "a bow"]], images=image, return_tensors="pt")
    with torch.no_grad():
        scores = model(**inputs).logits.sigmoid()[0]  # (patch, text)
    assert max(found.scores.values()) == pytest.approx(float(scores.max()), rel=1e-4)
    best = ("cat", "bow")[int(scores.max(0).values.argmax())]
    assert found.subjects[best]
    assert not any(DetectorEyes(detect, "owl", 0.99999999).look([image], PROMPTS[:1])[0].subjects.values())
