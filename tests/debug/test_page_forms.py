"""The page's fields: what they mean when empty, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from heedful.debug.errors import AttemptError, DebugError, PageError
from heedful.debug.page_forms import OWN, asked_question, asked_settings, flattened, parsed_size
from heedful.debug.page_services import Pipelines
from heedful.debug.settings import AttemptSettings
from PIL import Image

EMPTY = {"words": "", "model": "embedded", "seed": 0, "steps": 30, "scale": "", "strength": 1.0,
         "scheduler": OWN, "size": None, "negative": None}  # fmt: skip
IMAGE = Image.new("RGB", (8, 8))


def settings(prompt: str | None = "a cat", **changes: Any) -> AttemptSettings:
    return asked_settings(prompt, **{**EMPTY, **changes})


def question(**changes: Any) -> Any:
    given = {"image": IMAGE, "kind": "texts", "targets": "a cat\n\n a frog \na cat", "method": "generic",
             "layer": "", "head": None, "model": "embedded"}  # fmt: skip
    return asked_question(**{**given, **changes})


def test_empty_fields_are_the_defaults() -> None:
    assert settings("  a cat ") == AttemptSettings("a cat")
    assert settings(seed=None, words=None, model="", scale=None) == AttemptSettings("a cat")


def test_every_field_counts() -> None:
    given = {"words": "cat, red bow", "model": "folder", "seed": 3, "steps": 5, "scale": "6.5", "strength": 2,
             "scheduler": "euler", "size": " 96 x 64 ", "negative": "blur"}  # fmt: skip
    found = settings("a cat and a red bow", **given)

    assert found == AttemptSettings(
        "a cat and a red bow", ("cat", "red bow"), "folder", 3, 5, 6.5, 2.0, "euler", (96, 64), "blur"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt": None}, "the prompt is empty"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"size": "64"}, "such as 768x512"),
        ({"size": "0x64"}, "from 8 on"),
        ({"scale": "much"}, "such as 7.5"),
        ({"scale": "nan"}, "guidance_scale must be a number"),
        ({"words": "cat,,frog"}, "word 2"),
    ],
)
def test_what_is_no_setting_is_refused_by_name(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(AttemptError, match=told):
        settings(**changes)


def test_a_size_is_width_first() -> None:
    assert parsed_size("768X512") == (768, 512)
    assert parsed_size("") is None


def test_a_question_takes_each_line_once() -> None:
    found = question()

    assert (found.texts, found.labels, found.model, found.layer) == (("a cat", "a frog"), (), None, None)
    assert question(kind="classes").labels == ("a cat", "a frog")
    assert question(kind="classes", targets="").labels == ()


def test_layer_and_head_go_with_the_methods_that_heed_them() -> None:
    assert question(method="raw_attention", layer="3", head="1").layer == 3
    assert question(method="raw_attention", layer="3", head="1").head == 1
    with pytest.raises(PageError, match="generic looks at no single layer"):
        question(method="generic", layer="3")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": None}, "there is no image"),
        ({"targets": " "}, "give one text"),
        ({"method": "raw_attention", "layer": "top"}, "the layer is a number"),
    ],
)
def test_a_question_without_its_parts_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(PageError, match=told):
        question(**changes)


def test_errors_of_the_page_are_errors_of_the_room() -> None:
    assert issubclass(PageError, DebugError)


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))

    assert [flattened(image).getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


def test_the_embedded_pipeline_is_kept_and_of_others_the_latest() -> None:
    loaded: list[str | None] = []
    pipelines = Pipelines(lambda name: loaded.append(name) or object())
    for name in (None, "one", "one", None, "two", None, "one"):
        pipelines(name)

    assert loaded == [None, "one", "two", "one"]
