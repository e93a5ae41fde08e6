"""Plots show the figures they are made of; sheets show the best and the worst, and no case twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from heedful.explain.evaluation import Estimate
from heedful.scripts import methods_plots as plots
from heedful.scripts.methods_pictures import best, by_pieces
from heedful.scripts.methods_sheets import cases, items
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from methods_standins import SHARES, outcome, summarised
from PIL import Image


def test_bars_are_as_long_as_their_figures_and_controls_are_gray() -> None:
    found = {name: Estimate(share, share - 0.1, share + 0.1, 9) for name, share in SHARES.items()}
    drawn = plots.bars(
        {"pointing: hits": found, "other: none": {"good": Estimate(1.0, 0.0, 2.0, 3)}}, list(found)
    )
    left, right = drawn.axes[:2]

    by_name = dict(
        zip([text.get_text() for text in left.get_yticklabels()][::-1], left.patches[::-1], strict=True)
    )
    assert {name: pytest.approx(bar.get_width()) for name, bar in by_name.items()} == dict(SHARES)
    grays = {name for name, bar in by_name.items() if len(set(bar.get_facecolor()[:2])) == 1}
    assert grays == {"random", "edges", "random weights"}
    assert len(right.patches) == 1
    assert left.get_title() == "pointing\nhits"


def test_curves_go_through_their_points() -> None:
    points = [(0.0, Estimate(1.0, 0.9, 1.1, 5)), (0.5, Estimate(0.25, 0.2, 0.3, 5))]
    drawn = plots.curves({"positive": {"good": points}, "negative": {"random": points}}, "share", "accuracy")

    line = drawn.axes[0].get_lines()[0]
    np.testing.assert_allclose(line.get_xydata(), [[0.0, 1.0], [0.5, 0.25]])
    assert [axes.get_title() for axes in drawn.axes] == ["positive", "negative"]
    assert drawn.axes[1].get_lines()[0].get_linestyle() != "-"


def test_a_matrix_is_symmetric_with_every_pair() -> None:
    drawn = plots.matrix(outcome().tables["agreement"])
    values = drawn.axes[0].images[0].get_array()

    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == ["good", "fair", "random"]
    np.testing.assert_allclose(values, [[1, 0.5, -0.25], [0.5, 1, 0], [-0.25, 0, 1]])
    assert sorted(text.get_text() for text in drawn.axes[0].texts) == [
        "-.2", "-.2", ".0", ".0", ".5", ".5",
    ]  # fmt: skip


def test_spreads_reach_from_quantile_to_quantile() -> None:
    drawn = plots.spread({"good": np.arange(101.0), "random": np.zeros(101)}, "steps")
    thin, thick, middle = drawn.axes[0].get_lines()[3:6]

    np.testing.assert_allclose(thin.get_xdata(), [10, 90])
    np.testing.assert_allclose(thick.get_xdata(), [25, 75])
    np.testing.assert_allclose(middle.get_xdata(), [50])


def test_files_are_small_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        plots.save(plots.matrix(outcome().tables["agreement"]), tmp_path / name)

    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").stat().st_size < 60_000
    with Image.open(tmp_path / "one.png") as image:
        assert min(image.size) > 150


def test_the_generic_rule_is_always_among_the_best() -> None:
    found = summarised()
    compared = found.comparisons["pointing"]

    assert best(found, "pointing", 2) == ["good", "fair"]
    renamed = dict(zip(["good", "fair", "generic"], compared.rows.values(), strict=False))
    object.__setattr__(compared, "rows", renamed)
    assert best(found, "pointing", 2) == ["good", "generic"]


@given(
    arrays(float, st.integers(0, 12), elements=st.floats(-1, 1) | st.just(float("nan"))), st.integers(1, 5)
)
def test_best_and_worst_cases_are_apart(values: np.ndarray, count: int) -> None:
    top, bottom = cases(values, count)
    known = values[~np.isnan(values)]

    assert len(top) == len(bottom) == min(count, len(known) // 2)
    assert not set(top) & set(bottom)
    if top:
        assert values[top[0]] == known.max()
        assert values[bottom[0]] == known.min()
        assert values[top].min() >= values[bottom].max()


def test_cases_are_named_by_their_items() -> None:
    """A test of right answers alone leaves rows out; its rows are others than the records."""
    made = outcome()
    for record in made.records[:3]:
        record["correct"] = False
    test = made.study.tests[0]

    assert items(made, test)[:2] == [0, 1]
    object.__setattr__(test, "correct_only", True)
    assert items(made, test)[:2] == [3, 4]


def test_correlation_by_length_needs_enough_rows_of_a_length() -> None:
    columns = {
        "pieces": np.array([4.0] * 12 + [5.0] * 3 + [6.0] * 10),
        "spearman": np.array([0.5] * 12 + [1.0] * 3 + [np.nan] * 5 + [-0.5] * 5),
    }

    assert [(place, found.value, found.n) for place, found in by_pieces(columns, whole=False)] == [
        (4.0, 0.5, 12), (6.0, -0.5, 5),
    ]  # fmt: skip
    ((place, whole),) = by_pieces({**columns, "pieces": np.full(25, 9.0)}, whole=True)
    assert (place, whole.n) == (9.0, 20)
