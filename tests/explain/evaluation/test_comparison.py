"""Comparisons: paired over the same rows, every control counts, and what compares nothing says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from heedful.explain import InputError
from heedful.explain.evaluation import (
    CONTROLS,
    AgreementTest,
    PointingTest,
    Segmentation,
    paired,
)
from heedful.explain.evaluation.comparison import Comparison, compare, has_main_figure
from hypothesis import given, settings
from hypothesis import strategies as st

NOISE = np.random.default_rng(0).normal(size=(4, 300))
BASE = NOISE[0] * 3


def rows(**shifts: float) -> dict[str, np.ndarray]:
    """Rows that differ much from each other, and little between methods."""
    return {
        name.replace("_", " "): BASE + shift + 0.1 * NOISE[place % 3 + 1]
        for place, (name, shift) in enumerate(shifts.items())
    }


def test_small_differences_show_where_the_same_rows_are_compared() -> None:
    found = Comparison("Spearman", rows(good=0.2, fair=0.19, random=0.0, edges=0.1))

    assert found.less("good", "random").value == pytest.approx(0.2, abs=0.03)
    assert found.less("good", "random").low > 0.15
    assert found.value("good").low < found.value("random").high  # unpaired, one could not tell
    assert (found.methods, found.controls) == (("good", "fair"), ("random", "edges"))
    assert found.best == "good"
    assert found.as_good() == ("good", "fair")
    assert found.beats("good")
    assert not found.beats("good", ["fair"])


def test_one_control_that_is_as_good_is_enough_to_lose() -> None:
    found = Comparison("Spearman", rows(good=0.2, random=0.0, edges=0.2))

    assert found.beats("good", ["random"])
    assert not found.beats("good")
    assert not Comparison("Spearman", rows(good=0.2)).beats("good")  # nothing was beaten


def test_the_table_names_every_difference() -> None:
    found = Comparison("Spearman", rows(good=0.2, fair=0.1, random=0.0, edges=0.1))
    table = found.table("tiny", "Blank-out")

    assert table.figures == ("Spearman", "less random", "less edges")
    assert table.get("good", "less edges").low > 0
    assert table.get("edges", "less random").value == pytest.approx(0.1, abs=0.03)
    assert found.table("tiny", against=["good"]).get("fair", "less good").high < 0
    with pytest.raises(InputError, match="found 0"):
        table.get("edges", "less edges")


def test_rows_without_a_value_do_not_count_and_groups_are_drawn_whole() -> None:
    values = {"good": np.array([1.0, np.nan, 1, 0]), "random": np.array([0.0, 0, np.nan, 0])}

    assert Comparison("hit", values).less("good", "random").n == 2
    assert Comparison("hit", {"a": np.full(3, np.nan), "b": np.zeros(3)}).best == "b"
    with pytest.raises(InputError, match="no method has a value"):
        _ = Comparison("hit", {"a": np.full(3, np.nan)}).best
    many = {"good": np.tile([1.0, 0.4], 50), "random": np.zeros(100)}
    alone = Comparison("hit", many).less("good", "random")
    grouped = Comparison("hit", many, tuple([0.0] * 50 + [1.0] * 50)).less("good", "random")
    assert grouped.high - grouped.low < alone.high - alone.low  # both groups are alike


def test_one_row_that_is_better_is_no_evidence() -> None:
    hits = np.zeros(500)
    hits[3] = 1

    assert paired(hits, np.zeros(500)).low == 0
    assert not Comparison("pointing", {"a": hits, "random": np.zeros(500)}).beats("a")


@given(st.integers(0, 3), st.floats(-5, 5))
@settings(max_examples=15, deadline=None)
def test_a_difference_is_the_negative_of_its_reverse(seed: int, shift: float) -> None:
    values = np.random.default_rng(seed).normal(size=(2, 30))
    found = Comparison("x", {"a": values[0] + shift, "b": values[1]})

    there, back = found.less("a", "b"), found.less("b", "a")
    assert there.value == pytest.approx(-back.value)
    assert there.low <= there.value <= there.high


def test_records_become_comparisons() -> None:
    def record(item: int, correct: bool) -> dict[str, Any]:
        hits = {"generic": 1.0, "random": 0.0 if correct else 1.0}
        columns = {name: {"hit": hit, "inside": 0.5, "chance": 0.1} for name, hit in hits.items()}
        return {"item": item, "correct": correct, "tests": {"pointing": columns, "agreement": {}}}

    found = [record(item, item > 1) for item in range(6)]
    assert compare(PointingTest(), found).less("generic", "random").value == pytest.approx(4 / 6)
    only = compare(PointingTest(correct_only=True), found)
    assert only.less("generic", "random").value == 1
    assert only.figure == "pointing"
    with pytest.raises(InputError, match='no record of "pointing"'):
        compare(PointingTest(correct_only=True), found[:2])


def test_what_compares_no_methods_says_so() -> None:
    assert has_main_figure(Segmentation())
    assert not has_main_figure(AgreementTest().experiment)
    with pytest.raises(InputError, match="Pairwise has no main figure"):
        compare(AgreementTest(), [{"item": 0, "tests": {"agreement": {"a ~ b": {"spearman": 0.1}}}}])
    with pytest.raises(InputError, match="the same rows of every method"):
        Comparison("x", {"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(InputError, match=f'no rows of "{CONTROLS[0]}"'):
        Comparison("x", {"a": np.zeros(2)}).value(CONTROLS[0])
