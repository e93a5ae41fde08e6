"""Fragments hold their pictures, escape every text, and are well-formed; heat keeps its values."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from heedful.pictures import html
from heedful.pictures.draw import colours, diverging, overlay
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

VOID = {"img", "br"}
HOSTILE = "<script>alert(1)</script>\"'&\x00\u202e\ud800 👩\u200d🚀"


class Reader(HTMLParser):
    """Collects tags and text, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def picture(side: int = 16, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (side, side), 128)


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


@pytest.mark.parametrize("format", [None, *html.FORMATS])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_a_data_uri_holds_the_picture(format: str | None, mode: str) -> None:
    uri = html.data_uri(picture(16, mode), format)
    assert uri.startswith(f"data:image/{format or 'png'};base64,")
    assert opened(uri).size == (16, 16)


def test_small_pictures_keep_every_pixel_and_large_ones_become_small() -> None:
    assert opened(html.data_uri(noise(64))).tobytes() == noise(64).tobytes()
    large = html.data_uri(noise(512))
    assert large.startswith("data:image/webp")
    assert len(large) < len(html.data_uri(noise(512), "png"))


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match='one of png, webp, jpeg; got "gif"'):
        html.data_uri(picture(), "gif")


@pytest.mark.parametrize("shape", [(8, 8), (3, 5)])
def test_heat_keeps_its_values_and_its_grid(shape: tuple[int, int]) -> None:
    heat = torch.rand(shape, generator=torch.manual_seed(0))
    found = np.asarray(opened(html.heat_uri(heat))) / 255
    assert found.shape == shape
    assert np.abs(found - heat.numpy()).max() <= 0.5 / 255 + 1e-6


def test_heat_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="scale it first"):
        html.heat_uri(np.full((2, 2), 1.2, dtype=np.float32))


@pytest.mark.parametrize("signed", [False, True])
def test_the_colour_tables_give_the_colours_of_overlays(signed: bool) -> None:
    tables = [[float(value) for value in text.split()] for text in html.colour_tables(signed=signed)]
    grey = np.linspace(0, 1, 301)
    painted = np.stack([np.interp(grey, np.linspace(0, 1, len(table)), table) for table in tables], -1)
    wanted = diverging(2 * grey[None] - 1) if signed else colours(grey[None])
    assert np.abs(painted * 255 - wanted[0]).max() < 3


@given(st.text(st.characters(), max_size=40))
def test_shown_text_is_read_back_as_text_alone(text: str) -> None:
    reader = Reader(f"<p>{html.shown(text)}</p>")
    assert reader.tags == ["p"]
    reader.text.encode("utf-8")  # fails on a lone surrogate
    plain = text.replace("\r", "\n")
    if all(letter.isprintable() for letter in plain):
        assert reader.text == plain


def test_what_cannot_be_seen_is_told_and_emoji_stay_whole() -> None:
    assert html.shown(HOSTILE).endswith("\\x00\\u202e\\ud800 👩\u200d🚀")


@given(st.text(st.characters(), max_size=20), st.text(st.characters(), max_size=20))
def test_no_text_breaks_a_card(title: str, text: str) -> None:
    figures = html.figure_row([html.Figure(picture(), text, text), None])
    reader = Reader(
        html.card(title, figures, html.table([text, "b"], [[text, text]]), html.facts({text: text}))
    )
    assert reader.open == []
    assert set(reader.tags) <= {
        "section", "strong", "p", "div", "figure", "img", "figcaption", "table", "thead", "tbody",
        "tr", "th", "td", "b",
    }  # fmt: skip


def test_a_card_runs_nothing_and_fetches_nothing() -> None:
    figures = html.figure_row([html.Figure(picture(), HOSTILE)])
    text = html.card(HOSTILE, figures, html.table([HOSTILE, "b"], [[HOSTILE, 1]]), note=HOSTILE)
    reader = Reader(text)
    assert "script" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert all(value.startswith("data:") for name, value in reader.attributes if name in ("src", "href"))


def test_pictures_have_a_text_for_those_who_cannot_see_them() -> None:
    row = html.figure_row(
        [html.Figure(picture(), "caption"), html.Figure(picture(), "caption", "what it shows")]
    )
    assert re.findall(r'alt="([^"]*)"', row) == ["caption", "what it shows"]


def test_a_table_heads_rows_and_columns_and_shows_values_as_people_write_them() -> None:
    text = html.table(["word", "peak", "heeded"], [["frog", 0.123456, True], ["cat", None, False]])
    reader = Reader(text)
    assert reader.tags.count("th") == 5
    assert "0.123" in reader.text
    assert "0.1234" not in reader.text
    assert "frog0.123yes" in reader.text
    assert "cat\u2013no" in reader.text


@pytest.mark.parametrize("row", [["a"], []])
def test_rows_of_another_length_are_refused(row: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"wanted 2 cells a row \(word, peak\), got {len(row)}"):
        html.table(["word", "peak"], [row])


def test_too_narrow_figures_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 pixels, got 3"):
        html.figure_row([], width=3)


def test_an_overlay_in_a_page_is_the_overlay_of_pillow() -> None:
    """Image under grey heat that is coloured and laid over with opacity alpha: what the report does."""
    heat = torch.rand(16, 16, generator=torch.manual_seed(1))
    grey = opened(html.heat_uri(heat))
    painted = Image.fromarray(colours(np.asarray(grey) / 255))
    page = Image.blend(picture(16), painted, 0.6)
    difference = np.abs(np.asarray(page, dtype=int) - np.asarray(overlay(picture(16), heat), dtype=int))
    assert difference.max() <= 4
