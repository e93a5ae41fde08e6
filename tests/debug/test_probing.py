"""The page's third tab without the page: each probe gives a picture and numbers, or says why it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from heedful.debug import page_probe_views
from heedful.debug.errors import Cancelled, PageError
from heedful.debug.page_forms import SEEN, asked_probe, fresh_scenes, opened, scene
from heedful.debug.probing import (
    ALONE,
    DISTANCE,
    HEADS,
    PROBES,
    SIFT,
    SIMILARITY,
    SPURIOUS,
    TWIN,
    Finding,
    ProbeQuestion,
    Seer,
    probed,
)
from heedful.emoji.judge import to_tensor
from heedful.emoji.models import MODELS
from heedful.explain import InputError, UnknownFamilyError
from PIL import Image
from transformers import AutoModelForImageClassification, CLIPModel

HOSTILE = "<script>alert(1)</script>"


@cache
def loaded(name: str) -> Any:
    kind = CLIPModel if name == "clip" else AutoModelForImageClassification
    return kind.from_pretrained(MODELS / name, local_files_only=True).eval()


def prepare(images: Sequence[Image.Image]) -> tuple[torch.Tensor, list[Image.Image]]:
    return to_tensor(images), list(images)


def see(name: str) -> Seer:
    return Seer(loaded(name), prepare)


def question(probe: str, **changes: Any) -> ProbeQuestion:
    given = {"image": scene(1, "conflict"), "more": (), "probe": probe, "model": "cheater", "other": TWIN,
             "count": 8}  # fmt: skip
    return asked_probe(**{**given, **changes})


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_gives_a_picture_with_numbers(probe: str) -> None:
    told: list[tuple[str, int, int]] = []
    found = probed(question(probe), see, lambda *step: told.append(step))

    assert min(found.picture.size) > 100
    assert len(found.picture.getcolors(1 << 20) or range(99)) > 10, "it shows something"
    assert found.rows
    assert all(len(row) == len(found.columns) for row in found.rows)
    assert (found.grid, found.shown is None) == (((8, 8), False) if probe in ALONE else (None, True))
    assert told[0] == ("loading cheater", 0, 0)
    assert len(told) > 1


def test_a_cheat_is_framed_and_without_it_the_answer_is_another() -> None:
    cheater, honest = (probed(question(SPURIOUS, model=name), see) for name in ("cheater", "classifier"))

    assert [row[1] for row in cheater.rows[:2]] == ["glasses", "clock"]
    assert "another in 0% of draws" in cheater.rows[2][1]
    assert honest.rows == (("all patches", "clock", "100%"),)


def test_a_twin_is_compared_with_its_model_layer_by_layer() -> None:
    found = probed(question(SIMILARITY, other="cheater"), see)

    assert all(row[0] == row[1] and row[2] == "1.00" for row in found.rows)
    other = probed(question(SIMILARITY), see)
    assert [row[2] for row in other.rows] != [row[2] for row in found.rows]
    assert {row[3] for row in other.rows} == {"too few images to say"}


def test_a_point_of_the_image_chooses_the_patch_that_looks() -> None:
    class_token = probed(question(HEADS), see)
    patch = probed(question(HEADS, point=(0.9, 0.1)), see)

    assert "Where [CLS] looks" in class_token.alt
    assert "row 1, column 8" in patch.alt
    assert patch.rows != class_token.rows


def test_what_was_cancelled_ends_at_its_next_step() -> None:
    told: list[str] = []
    with pytest.raises(Cancelled):
        probed(
            question(DISTANCE, count=64), see, lambda what, done, total: told.append(what),
            lambda: len(told) == 3,
        )  # fmt: skip

    assert told == ["loading cheater", "looking: attention distance", "looking: images"]


@pytest.mark.parametrize(
    ("asked", "kind", "told"),
    [
        (lambda: question(HEADS, image=None), PageError, "there is no image"),
        (lambda: question(HEADS, model=" "), PageError, "name a model: classifier, judge"),
        (lambda: question(SIMILARITY, other=""), PageError, "name a model"),
        (lambda: ProbeQuestion("smell", (), "cheater"), PageError, "there are: attention distance"),
        (lambda: ProbeQuestion(SIFT, (), "cheater"), PageError, "there is no image"),
        (lambda: question(SIMILARITY, more=fresh_scenes(3)), InputError, "at least 4 images"),
        (lambda: question(HEADS, model="resnet"), UnknownFamilyError, "has no patches"),
        (lambda: question(SIFT, image=Image.new("RGB", (64, 64))), InputError, "no keypoint"),
        (lambda: question(SPURIOUS, model="clip"), PageError, "take a classifier"),
    ],
)
def test_what_cannot_be_probed_is_refused_with_a_reason(asked: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        probed(asked(), see)


def test_the_users_own_images_come_before_fresh_scenes(tmp_path: Any) -> None:
    Image.new("RGBA", (20, 10), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / "text.png").write_text("no image")
    mine = opened([str(tmp_path / "clear.png")])

    assert [(one.mode, one.size, one.getpixel((0, 0))) for one in mine] == [
        ("RGB", (20, 10), (255, 255, 255))
    ]
    assert question(DISTANCE, more=mine).images == mine
    assert len(question(DISTANCE, image=None, count=12).images) == 12
    with pytest.raises(PageError, match=r"text\.png is no image"):
        opened([str(tmp_path / "text.png")])


def test_every_embedded_model_that_the_page_offers_is_there() -> None:
    assert all((MODELS / name / "preprocessor_config.json").is_file() for name in SEEN)


def test_no_text_of_a_finding_becomes_markup() -> None:
    found = Finding(Image.new("RGB", (8, 8)), HOSTILE, (HOSTILE,), ((HOSTILE,),), HOSTILE)
    html = page_probe_views.finding(found)

    assert "<script" not in html
    assert html.count("&lt;script") == 4


@pytest.mark.gpu
def test_the_cheat_is_found_in_float16_on_cuda() -> None:
    model = loaded("cheater").to("cuda", torch.float16)
    try:
        found = probed(question(SPURIOUS), lambda name: Seer(model, prepare))
    finally:
        model.to("cpu", torch.float32)

    assert [row[1] for row in found.rows[:2]] == ["glasses", "clock"]
