"""Figures of planted rows, by hand: rates, colours, costs, help that was not needed or was missing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluating import PROMPTS, brighter, evaluation, row
from heedful.evaluation import EvaluationError
from heedful.evaluation import page as left
from heedful.evaluation.comparison import compare, image_costs
from heedful.evaluation.figures import (
    PAIRS,
    Results,
    by_kind,
    by_subject,
    equal_cost,
    no_help,
    overview,
    tables,
)
from heedful.evaluation.plots import success_against_cost
from heedful.evaluation.sheets import cases_sheet, gains
from heedful.explain.evaluation.table import Table


def results(**rows: list[dict[str, Any]]) -> Results:
    named = {name.replace("_", "-"): own for name, own in rows.items()}
    return Results("tiny", named, {"plain": "plain sampling"}, {"steps": 2})


def value(table: Table, method: str, figure: str) -> float:
    return table.get(method, figure).value


SEEN = [
    {"cat": True, "bow": True},
    {"cat": True, "bow": False},
    {"cat": False, "bow": False},
    {"cat": True, "bow": True},
]
COLOURED = [{"red bow": True}, {"red bow": False}, {"red bow": False}, {"red bow": False}]


def planted() -> Results:
    """Four items of two prompts: plain sampling is complete in two, the other method in three."""
    base = [
        row(place, seen, coloured=colours)
        for place, (seen, colours) in enumerate(zip(SEEN, COLOURED, strict=True))
    ]
    other = [
        row(place, {"cat": True, "bow": place != 2}, coloured=COLOURED[place], forwards=forwards, moved=moved)
        for place, (forwards, moved) in enumerate([(51.0, False), (80.0, True), (50.0, False), (60.0, True)])
    ]
    extra = [
        row(place, {"cat": True, "bow": place == 1}, check=[0.0, float(place == 1)]) for place in range(4)
    ]
    for record in base:
        record["check"] = [0.0, 0.5]
    return results(plain=base, other=other, plain_2=extra)


def test_rates_colours_and_costs_are_as_by_hand() -> None:
    table = overview(planted(), "pairs")

    assert value(table, "plain", "all subjects") == 0.5
    assert value(table, "plain", "each subject") == 5 / 8
    assert value(table, "plain", "colour bound") == 0.5  # of two bows that are seen, one is red
    assert table.get("plain", "colour bound").n == 2
    assert value(table, "plain", "all in colour") == 0.25
    assert value(table, "other", "all subjects") == 0.75
    assert value(table, "other", "cost") == pytest.approx((51 + 80 + 50 + 60) / 200)
    assert value(table, "plain", "cost") == 1
    assert "CLIP full" not in table.figures  # nothing was compared
    assert {entry.method for entry in table.entries} == {"plain", "other"}  # candidates are no method


def test_the_bootstrap_draws_prompts_and_not_images() -> None:
    seen = [{"cat": place < 8} for place in range(16)]  # each prompt has both its images alike
    found = results(plain=[row(place, one) for place, one in enumerate(seen)])
    entry = overview(found, "pairs").get("plain", "all subjects")

    rng = np.random.default_rng(1)
    of_prompts = rng.choice([0.0, 1.0], size=(4000, 8)).mean(1)
    low, high = np.quantile(of_prompts, [0.025, 0.975])
    assert (entry.value, entry.n) == (0.5, 16)
    assert (entry.low, entry.high) == (pytest.approx(low, abs=0.13), pytest.approx(high, abs=0.13))
    assert entry.high - entry.low > 0.55  # of images drawn one by one it would be about .48


def test_where_all_are_seen_the_interval_is_of_as_many_trials_as_prompts() -> None:
    found = results(plain=[row(place, {"cat": True}) for place in range(8)])
    entry = overview(found, "pairs").get("plain", "all subjects")

    assert (entry.value, entry.high, entry.n) == (1, 1, 8)
    assert entry.low == pytest.approx(1 / (1 + 1.959964**2 / 4), abs=1e-6)  # Wilson of 4 of 4
    costs = overview(found, "pairs").get("plain", "cost")
    assert (costs.low, costs.high) == (1, 1)


def test_best_of_n_stands_beside_a_method_at_its_own_cost() -> None:
    table = equal_cost(planted(), "pairs")

    # 1.205 images: item 1 is complete in the second candidate alone, which check and judge both choose.
    assert value(table, "other", "best-of-N by check") == pytest.approx((2 + 0.205) / 4)
    assert value(table, "other", "best-of-N by judge") == pytest.approx((2 + 0.205) / 4)
    assert value(table, "other", "less best-of-N by check") == pytest.approx(0.75 - 2.205 / 4)


def test_a_method_dearer_than_all_candidates_has_no_figure_beside_them() -> None:
    found = planted()
    for record in found.rows["other"]:
        record["forwards"] = 101.0

    assert not equal_cost(found, "pairs").entries


def test_help_that_is_not_needed_is_priced_and_missing_help_is_told() -> None:
    table = no_help(planted())

    assert value(table, "other", "cost") == pytest.approx((51 + 60) / 100)  # items 0 and 3
    assert value(table, "other", "over 1.03") == 0.5
    assert value(table, "other", "still complete") == 1
    assert value(table, "other", "left without help") == 0.5  # of items 1 and 2 the second was not moved
    assert table.get("other", "left without help").n == 2


def test_what_guidance_adds_to_a_batch_is_divided_by_its_probes() -> None:
    base = [row(place, {"cat": True}, forwards=50.0) for place in range(4)]
    rows = [row(place, {"cat": True}, forwards=53.0) for place in range(4)]
    for record, probes in zip(rows, (0, 1, 2, 1), strict=True):
        record["probes"] = probes
    assert [record["forwards"] for record in image_costs(rows, base)] == [50, 53, 56, 53]
    assert [record["forwards"] for record in rows] == [53] * 4


@pytest.mark.parametrize(("field", "unknown"), [("probes", None), ("forwards", None)])
def test_costs_are_left_as_they_are_where_something_is_not_known(field: str, unknown: Any) -> None:
    base = [row(place, {"cat": True}, forwards=50.0) for place in range(2)]
    rows = [{**row(place, {"cat": True}, forwards=53.0), "probes": place} for place in range(2)]
    rows[1][field] = unknown
    assert image_costs(rows, base) == rows


def test_who_cannot_tell_whether_it_moved_has_no_such_figure() -> None:
    found = planted()
    for record in found.rows["other"]:
        record["moved"] = None

    assert "left without help" not in no_help(found).figures


def test_subjects_kinds_and_groups_are_told_apart() -> None:
    rows = [
        row(0, {"cat": True, "dog": False}, kind="animal-animal"),
        row(1, {"cat": True, "bow": True}, kind="animal-object"),
        row(2, {"cat": False, "dog": True, "rat": True}, group="three"),
        row(3, {"rat": True}, group="single"),
    ]
    found = results(plain=rows)

    subjects = by_subject(found)
    assert {name: value(subjects, "plain", name) for name in subjects.figures} == {
        "bow": 1, "cat": 2 / 3, "dog": 0.5, "rat": 1,
    }  # fmt: skip
    assert found.groups == (PAIRS, "pairs", "three", "single")
    assert [len(found.of(group).rows["plain"]) for group in found.groups] == [3, 2, 1, 1]
    kinds = by_kind(found.of("pairs"), "pairs")
    assert {name: value(kinds, "plain", name) for name in kinds.figures} == {
        "animal-animal": 0, "animal-object": 1,
    }  # fmt: skip
    assert "single-equal-cost" not in tables(found)


def test_seconds_are_the_cost_where_operations_were_not_counted() -> None:
    rows = {
        name: [row(0, {"cat": True}, forwards=None, seconds=seconds)]
        for name, seconds in (("plain", 2.0), ("other", 3.0))
    }
    found = Results("tiny", rows, {}, {}, counted=False)

    assert found.values("other", "cost").tolist() == [1.5]


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EvaluationError, match="the same items; not as plain: other"):
        results(plain=[row(0, {"cat": True})], other=[row(1, {"cat": True})])
    with pytest.raises(EvaluationError, match="needs the rows of plain sampling"):
        results(other=[row(0, {"cat": True})])
    with pytest.raises(EvaluationError, match='no figure "beauty"; there are: all subjects'):
        results(plain=[row(0, {"cat": True})]).values("plain", "beauty")


def test_cases_are_in_the_order_of_what_was_gained() -> None:
    found = gains(planted(), "other")

    assert [place for _, place in found] == [1, 2, 0, 3]
    assert [round(gain) for gain, _ in found] == [1, 1, 0, 0]


def test_everything_is_left_behind_and_best_of_n_is_drawn_as_far_as_it_is_worth(tmp_path: Path) -> None:
    whole = evaluation(tmp_path)
    told: list[str] = []
    found = compare(whole, [brighter()], watch=lambda what: told.append(what) or (lambda done, total: None))
    assert told[:2] == ["plain sampling", "60 brighter"]
    ratio = max(found.of(group).values("brighter", "cost").mean() for group in (PAIRS, "pairs", "three"))
    wanted = min(4, max(1, math.ceil(round(ratio, 6))))
    assert [name for name in found.rows if name.startswith("plain-")] == [
        f"plain-{number}" for number in range(2, wanted + 1)
    ]

    paths = left.save(found, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "tables.json", "tables.csv", "pictures/cost.png", "pictures/cases-brighter.png", "evaluation.md",
    ]  # fmt: skip
    page = paths[-1].read_text()
    assert "# noise: every subject, and at what cost" in page
    assert "best-of-N is chosen by what judges it" in page
    assert "![cost](pictures/cost.png)" in page
    whole_json = json.loads(paths[0].read_text())
    assert whole_json["format"] == "heedful.evaluate/1"
    assert {"all-but-single", "pairs", "three", "single", "no-help", "subjects"} <= set(whole_json["tables"])
    assert Table.from_json(json.dumps(whole_json["tables"]["pairs"])).get("plain", "cost").n == 4
    lines = paths[1].read_text().splitlines()
    assert lines[0] == "table,method,model,figure,value,low,high,n"
    assert any(line.startswith("pairs-kinds,brighter,noise,animal-object,") for line in lines)


def test_one_method_twice_is_refused_and_best_of_n_can_be_left_out(tmp_path: Path) -> None:
    whole = evaluation(tmp_path)
    with pytest.raises(EvaluationError, match="each method may be given once, got brighter, brighter"):
        compare(whole, [brighter(), brighter()])
    found = compare(whole, [], most_candidates=1)
    assert list(found.rows) == ["plain"]
    assert found.notes[-1] == "Best-of-N was not drawn."
    assert success_against_cost(found).axes
    assert cases_sheet(found, "plain", tmp_path) is not None
    assert cases_sheet(found.only(lambda record: record["item"] == 0), "plain", tmp_path) is None
    assert len(PROMPTS) == 4
