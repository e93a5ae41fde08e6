"""Shares, intervals and tables of the comparison, from rows made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from heedful.scripts.emoji_figures import differences, paired_difference, report, table, wilson
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

TITLES = {"plain": "plain sampling", "default": "heedful, default"}


def row(
    method: str, prompt: str, seed: int, hit: bool, group: str = "seen", forwards: float = 40.0
) -> dict[str, Any]:
    return {
        "method": method, "prompt": prompt, "seed": seed, "set": group, "forwards": forwards,
        "all_seen": hit, "all_in_colour": False, "exact": hit,
    }  # fmt: skip


def rows_of_two() -> list[dict[str, Any]]:
    plain = [row("plain", f"p{i}", seed, hit=i < 2) for i in range(8) for seed in range(2)]
    default = [row("default", f"p{i}", seed, hit=i < 6, forwards=60.0) for i in range(8) for seed in range(2)]
    return (
        plain
        + default
        + [row("plain", "a cat", 0, True, "single", 10.0), row("default", "h", 0, True, "held-out")]
    )


@given(st.integers(1, 400).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_the_interval_of_a_share_is_wilsons(trial: tuple[int, int]):
    expected = binomtest(*trial).proportion_ci(0.95, method="wilson")

    assert wilson(*trial) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_another_interval_would_be_noticed():
    other = binomtest(3, 20).proportion_ci(0.95, method="exact")

    assert wilson(3, 20) != pytest.approx((other.low, other.high), abs=1e-3)


@pytest.mark.parametrize("trial", [(0, 0), (3, 2), (-1, 5)])
def test_a_share_of_nothing_is_refused(trial: tuple[int, int]):
    with pytest.raises(ValueError, match="wanted hits of at least one trial"):
        wilson(*trial)


def test_a_paired_difference_is_that_of_the_shares_on_common_prompts():
    found = paired_difference(rows_of_two(), "default", "plain", "all_seen")

    assert found is not None
    middle, low, high = found
    assert middle == pytest.approx(0.5)
    assert 0 < low < middle < high < 1
    assert paired_difference(rows_of_two(), "plain", "default", "all_seen") == pytest.approx(
        (-middle, -high, -low)
    )
    assert paired_difference(rows_of_two(), "default", "other", "all_seen") is None


def test_equal_methods_differ_by_nothing():
    rows = rows_of_two()
    same = [*rows, *({**r, "method": "default"} for r in rows if r["method"] == "plain")]

    assert paired_difference(same, "default", "plain", "all_seen") == (0, 0, 0)


def test_the_table_has_a_line_a_method_and_a_column_a_group():
    lines = table(rows_of_two(), TITLES).splitlines()

    assert lines[0] == (
        "| method | all pairs | held-out pairs | seen pairs | single subject | UNet forwards an image |"
    )
    assert lines[2].startswith(
        "| plain sampling | **25.0** (10.2-49.5), n 16 |  | **25.0** (10.2-49.5), n 16 |"
    )
    assert "**76.5**" in lines[3]
    assert lines[2].endswith("| **100.0** (20.7-100.0), n 1 | 40.0 |"), "singles cost less and do not count"
    assert len(lines) == 4


def test_differences_name_each_pair_of_methods_once():
    text = differences(rows_of_two(), TITLES)

    assert text.count("against") == 1
    assert "| heedful, default against plain sampling | +50.0 |" in text


def test_a_report_tells_the_settings():
    text = report(rows_of_two(), TITLES, {"steps": 25, "step_size": 4.0})

    assert text.startswith("Settings: steps 25, step size 4.0.")
