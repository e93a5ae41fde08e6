"""Overlays show heat where it is, sheets hold what they were given, and no text breaks them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heedful.explain import Tile, overlay, sheet
from heedful.pictures.draw import colours, diverging, printable, scaled, wrap
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

FONT = ImageFont.load_default(14)


def picture(width: int = 64, height: int = 64, colour: tuple[int, int, int] = (200, 180, 160)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def brightness(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64) @ np.array([0.2126, 0.7152, 0.0722])


def test_colours_grow_brighter_with_heat() -> None:
    ramp = colours(np.linspace(0, 1, 256)[None])
    steps = np.diff(ramp[0] @ np.array([0.2126, 0.7152, 0.0722]))
    assert (steps > -0.5).all()
    assert ramp[0, 0].tolist() == [0, 0, 0]
    assert ramp[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (40, 120)])
def test_overlay_glows_where_the_heat_is(size: tuple[int, int]) -> None:
    heat = np.zeros((4, 8), dtype=np.float32)
    heat[1, 6] = 1.0
    light = brightness(overlay(picture(*size), heat))
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert light.shape == (size[1], size[0])
    assert row / size[1] == pytest.approx(1.5 / 4, abs=0.06)
    assert column / size[0] == pytest.approx(6.5 / 8, abs=0.06)


def test_overlay_takes_tensors_and_arrays_alike_and_leaves_the_image() -> None:
    heat = torch.rand(5, 5, generator=torch.manual_seed(0), requires_grad=False)
    image = picture()
    assert overlay(image, heat).tobytes() == overlay(image, heat.numpy()).tobytes()
    assert overlay(image, heat.bfloat16()).size == image.size
    assert image.tobytes() == picture().tobytes()


def test_signed_colours_are_black_at_nothing_and_equally_bright_on_both_arms() -> None:
    arms = diverging(np.array([[-1.0, -0.5, 0.0, 0.5, 1.0]]))[0].astype(int)
    light = arms @ np.array([0.2126, 0.7152, 0.0722])

    assert arms[2].tolist() == [0, 0, 0]
    assert (arms[0, 2] > arms[0, 0], arms[4, 0] > arms[4, 2]) == (True, True)
    assert light[[0, 1]] == pytest.approx(light[[4, 3]], rel=0.2)


@pytest.mark.parametrize(
    ("values", "signed", "heat"),
    [
        ([[2.0, 4.0, 3.0]], False, [[0.0, 1.0, 0.5]]),
        ([[-1.0, 4.0, 0.0]], True, [[-0.25, 1.0, 0.0]]),
        ([[3.0, 3.0]], False, [[0.0, 0.0]]),
        ([[0.0, 0.0]], True, [[0.0, 0.0]]),
    ],
)
def test_values_are_scaled_to_heat(values: list, signed: bool, heat: list) -> None:
    assert scaled(torch.tensor(values), signed=signed).tolist() == heat
    assert scaled(np.array(values), signed=signed).tolist() == heat


def test_what_is_not_finite_cannot_be_scaled() -> None:
    with pytest.raises(ValueError, match="only finite values can be drawn"):
        scaled(torch.tensor([1.0, float("nan")]))


def test_signed_overlays_take_negative_heat() -> None:
    heat = np.array([[-1.0, 1.0]], dtype=np.float32)
    drawn = np.asarray(overlay(picture(), heat, signed=True)).astype(int)

    assert drawn[32, 4, 2] > drawn[32, 60, 2]
    with pytest.raises(ValueError, match=r"in -1..1, got -1.5 to 0.0"):
        overlay(picture(), np.array([[-1.5, 0.0]], dtype=np.float32), signed=True)


def test_overlay_without_alpha_is_the_image() -> None:
    assert overlay(picture(), np.ones((2, 2), dtype=np.float32), alpha=0).tobytes() == picture().tobytes()


@pytest.mark.parametrize(
    ("heat", "alpha", "message"),
    [
        (np.full((2, 2), 1.5, dtype=np.float32), 0.5, r"in 0..1, got 1.5 to 1.5; scale it first"),
        (np.array([[np.nan, 0.0]], dtype=np.float32), 0.5, "finite"),
        (np.zeros((0, 2), dtype=np.float32), 0.5, r"at least one value, got shape \(0, 2\)"),
        (np.zeros((2, 2), dtype=np.float32), 1.5, "alpha must lie in 0..1, got 1.5"),
    ],
)
def test_overlay_refuses(heat: np.ndarray, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(picture(), heat, alpha=alpha)


def test_sheet_enlarges_small_images_and_keeps_their_shape() -> None:
    page = sheet([[picture(64, 32)]], side=256)
    box = Image.eval(page, lambda value: 255 - value).getbbox()
    assert (box[2] - box[0], box[3] - box[1]) == (256, 128)


def test_sheet_is_deterministic_and_shows_every_image() -> None:
    rows = [
        [picture(colour=(255, 0, 0)), Tile(picture(colour=(0, 255, 0)), "frog")],
        [None, picture(colour=(0, 0, 255))],
    ]
    pages = [
        sheet(rows, row_labels=["plain", "guided"], column_labels=["a", "b"], title="t") for _ in range(2)
    ]
    assert pages[0].tobytes() == pages[1].tobytes()
    shown = {colour for _, colour in pages[0].getcolors(1 << 24)}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= shown


def test_caption_changes_the_sheet() -> None:
    plain, captioned = (sheet([[Tile(picture(), caption)]]) for caption in ("", "frog"))
    assert plain.tobytes() != captioned.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": []}, "at least one image"),
        ({"rows": [[None]]}, "at least one image"),
        (
            {"rows": [[picture()]], "row_labels": ["a", "b"]},
            "row_labels must be one text a row: wanted 1, got 2",
        ),
        ({"rows": [[picture()]], "column_labels": ["a", "b"]}, "one text a column: wanted 1, got 2"),
        ({"rows": [[picture()]], "side": 3}, "side must be at least 16 pixels, got 3"),
    ],
)
def test_sheet_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sheet(**arguments)


def test_control_characters_are_escaped() -> None:
    assert printable("a\x00b\n\tc\ud800") == "a\\x00b c\\ud800"


@given(st.text(st.characters(), max_size=80), st.integers(60, 300), st.integers(1, 4))
def test_wrapped_text_fits(text: str, width: int, lines: int) -> None:
    wrapped = wrap(text, width, FONT, lines)
    assert len(wrapped) <= lines
    assert all(FONT.getlength(line) <= width or len(line) == 1 for line in wrapped)


def test_wrapped_text_loses_nothing_that_fits() -> None:
    assert " ".join(wrap("a cat and a frog on a red chair", 80, FONT, 8)) == "a cat and a frog on a red chair"
