"""Pictures of attention probes: right sizes, the right cells in their colours."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from explain_tiny import tiny
from heedful.explain.errors import InputError
from heedful.explain.probing.draw_attention import (
    filter_sheet,
    head_sheet,
    norm_lines,
    position_sheet,
    statistics,
)
from heedful.explain.probing.embeddings import Embeddings, embeddings_of
from heedful.explain.probing.head_statistics import HeadStatistics, head_statistics
from heedful.explain.probing.heads import HeadMaps, head_maps
from heedful.explain.probing.norms import norm_ratios
from PIL import Image


def some(seed: int = 0) -> HeadStatistics:
    values = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    return HeadStatistics(values, values, values, (3, 5), (8, 8), ("a.0", "a.1", "a.2"))


def test_statistics_show_every_head_and_the_even_line() -> None:
    figure = statistics({"one": some(), "two": some(1)}, {"two": some(2)})
    axes = np.array(figure.axes).reshape(3, 2)
    lines = axes[0, 0].get_lines()

    assert [axes[0, column].get_title() for column in (0, 1)] == ["one", "two"]
    np.testing.assert_allclose([line.get_ydata() for line in lines[:4]], some().distance.mean(0).T)
    assert lines[-1].get_ydata()[0] == pytest.approx(some().uniform)
    assert len(axes[0, 1].get_lines()) == len(lines) + 5


def test_norms_of_a_tower_without_special_tokens_have_two_lines() -> None:
    figure = norm_lines({name: norm_ratios(*tiny(name)) for name in ("vit", "siglip")})

    assert [len(axes.get_lines()) for axes in figure.axes] == [5, 3]


def test_the_query_is_framed_where_it_is() -> None:
    found = HeadMaps(torch.zeros(2, 3, 3, 5), (1, 4), ("layers.0", "layers.1"))
    with_frame = np.asarray(head_sheet(found, Image.new("RGB", (50, 30)), side=100))
    without = np.asarray(
        head_sheet(HeadMaps(found.maps, None, found.layers), Image.new("RGB", (50, 30)), side=100)
    )
    green = (with_frame == (40, 220, 90)).all(-1)

    assert green.sum() == 6 * (20 * 20 - 16 * 16)
    assert not (without == (40, 220, 90)).all(-1).any()


def test_positions_stand_where_their_patches_are() -> None:
    similarity = torch.zeros(2, 3, 2, 3)
    similarity[1, 2, 0, 1] = 1
    found = Embeddings(similarity, torch.zeros(1, 3, 2, 2), torch.ones(1))
    picture = np.asarray(position_sheet(found, side=13))  # one pixel a patch, white lines of one between

    assert picture.shape == (7, 13, 3)
    assert picture[4, 10].tolist() == [255, 224, 176]
    assert (picture[:, :, :] == (255, 224, 176)).all(-1).sum() == 1
    assert (picture[[0, 3, 6]] == 255).all()


def test_large_grids_are_thinned_out() -> None:
    found = Embeddings(torch.zeros(20, 17, 20, 17), torch.zeros(1, 3, 2, 2), torch.ones(1))

    assert position_sheet(found, side=1).size == (9 * 18 + 1, 10 * 21 + 1)


def test_filters_keep_their_colours() -> None:
    filters = torch.zeros(3, 3, 2, 4)
    filters[2, 0] = 1.0
    picture = np.asarray(filter_sheet(Embeddings(torch.zeros(1, 1, 1, 1), filters, torch.ones(3)), 2, side=1))

    assert picture.shape == (7, 11, 3)
    assert picture[4, 1].tolist() == [255, 128, 128]
    assert picture[1, 1].tolist() == [128, 128, 128]
    gray = np.asarray(
        filter_sheet(Embeddings(torch.zeros(1, 1, 1, 1), filters[:, :1], torch.ones(3)), 2, side=1)
    )
    assert gray[4, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["dinov2_registers", "siglip"])
def test_every_picture_of_a_model_can_be_drawn(name: str) -> None:
    model, inputs = tiny(name)
    known = embeddings_of(model, size=(24, 40))
    pictures = [
        position_sheet(known),
        filter_sheet(known),
        head_sheet(head_maps(model, inputs, (2, 4)), Image.new("L", (40, 24))),
    ]

    assert all(picture.mode == "RGB" for picture in pictures)
    statistics({name: head_statistics(model, inputs)})


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r'pip install "heedful\[probe\]"'):
        statistics({"one": some()})
