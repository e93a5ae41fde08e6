"""Tables and plot of the comparison of losses, from rows made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heedful.scripts.losses_plot import frontier, save
from heedful.scripts.losses_table import binding, coloured, further_table, main_table, ranked, report
from PIL import Image

TITLES = {"plain": "nothing", "default": "the default", "peak": "peaks"}


def row(
    method: str, seed: int, bow: bool, red: bool, group: str = "held-out", **given: Any
) -> dict[str, Any]:
    seen, labels = {"cat": True, "bow": bow}, {"cat": True, "red bow": red}
    return {
        "method": method, "prompt": "a cat and a red bow", "seed": seed, "set": group, "seen": seen,
        "in_colour": labels, "all_seen": bow, "all_in_colour": bow and red, "exact": bow,
        "forwards": 50.0, **given,
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    found = [row("plain", seed, bow=seed < 1, red=seed < 1) for seed in range(4)]
    found += [row("default", seed, bow=seed < 2, red=False, forwards=60.0) for seed in range(4)]
    found += [row("peak", seed, bow=True, red=seed < 3, forwards=62.5) for seed in range(4)]
    uncoloured = {
        "forwards": 62.5,
        "prompt": "a cat and a rat",
        "seen": {"cat": True},
        "in_colour": {"cat": True},
    }
    return [*found, row("peak", 0, bow=True, red=True, **uncoloured)]


def test_binding_counts_the_objects_with_a_colour_that_are_seen():
    own = [one for one in rows() if one["method"] == "peak"]

    assert binding(own) == (3, 4)
    assert binding([row("peak", 0, bow=False, red=True)]) == (0, 0)
    assert len(coloured(own)) == 4


def test_methods_are_ranked_by_success_without_plain_sampling():
    assert ranked(rows(), ["plain", "default", "peak"], 5) == ["peak", "default"]
    assert ranked(rows(), ["plain", "default", "peak"], 1) == ["peak"]


def test_the_table_has_plain_sampling_first_and_then_the_best():
    lines = main_table(rows(), TITLES, "default").splitlines()

    assert [one.split("|")[1].strip() for one in lines[2:]] == ["`plain`", "`peak`", "`default`"]
    assert "**100.0** (56.6-100.0), n 5 | +75.0" in lines[3]
    assert lines[3].endswith("| **75.0** (30.1-95.4), n 4 | **75.0** (30.1-95.4), n 4 | 62.5 |")
    assert lines[4].split("|")[5].strip() == "", "not against itself"
    assert "**0.0**" in lines[4], "both bows that are seen have another colour"


def test_further_sets_have_a_table_of_their_own():
    three = [row("plain", 0, True, True, "three"), row("peak", 0, False, False, "three")]

    text = report([*rows(), *three], TITLES, "default", {"steps": "25"})

    assert text.startswith("Settings: steps 25.")
    assert "Three subjects" in text
    assert "every object has a colour" not in text
    assert "| **50.0** (9.5-90.5), n 2 |" in further_table(three, TITLES, "three").splitlines()[3]


def test_the_plot_shows_cost_and_success(tmp_path: Path):
    drawn = frontier(rows(), ["plain", "peak"])
    (axes,) = drawn.axes
    save(drawn, tmp_path / "pictures" / "plot.png")

    assert [text.get_text() for text in axes.texts] == ["plain", "peak"]
    points = [container.lines[0].get_xydata()[0] for container in axes.containers]
    assert np.allclose(points, [(1.0, 25.0), (1.25, 100.0)], atol=0.02)
    with Image.open(tmp_path / "pictures" / "plot.png") as picture:
        assert picture.size == (1080, 690)


def test_a_method_without_plain_sampling_has_no_cost_to_be_measured_by():
    with pytest.raises(ValueError, match="plain"):
        frontier([one for one in rows() if one["method"] == "peak"], ["peak"])
