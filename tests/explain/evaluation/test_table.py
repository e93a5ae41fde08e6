"""Tables keep every figure and choice on their way through files; records become tables."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from heedful.explain import InputError
from heedful.explain.evaluation import Entry, PointingGame, Table, columns, records, tabulate

TABLE = Table(
    "Pointing",
    {"tolerance": 0, "baseline": "black, before | after", "items": "all"},
    (
        Entry("generic", "ViT", "pointing", 0.91, 0.85, 0.95, 500),
        Entry("generic", "ViT", "steps", math.inf, 3.0, math.inf, 500),
        Entry("random", "ViT", "pointing", math.nan, -math.inf, math.inf, 0),
    ),
)


def test_json_gives_back_what_it_was_given() -> None:
    text = TABLE.to_json()

    assert str(Table.from_json(text)) == str(TABLE)  # as text: NaN is unlike itself
    assert "Infinity" not in text
    assert "NaN" not in text  # JSON knows neither


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "x"}', '{"format": "heedful.evaluation/1"}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="table"):
        Table.from_json(text)


def test_csv_has_the_protocol_in_every_line() -> None:
    lines = list(csv.DictReader(io.StringIO(TABLE.to_csv())))

    assert len(lines) == 3
    assert {line["protocol: baseline"] for line in lines} == {"black, before | after"}
    assert (float(lines[0]["value"]), lines[0]["n"]) == (0.91, "500")


def test_markdown_has_a_line_a_method_and_the_protocol() -> None:
    text = TABLE.to_markdown()

    assert "| generic | ViT | 0.91 (0.85 to 0.95), n 500 | inf (3 to inf), n 500 |" in text
    assert "| random | ViT | nothing to measure |  |" in text
    assert "baseline: black" in text
    with pytest.raises(InputError, match="no figure colour"):
        TABLE.to_markdown(["colour"])


def test_files_are_written_by_their_ending(tmp_path: Path) -> None:
    for ending in (".json", ".csv", ".md"):
        TABLE.save(tmp_path / f"table{ending}")

    assert Table.from_json((tmp_path / "table.json").read_text()).entries[0] == TABLE.entries[0]
    with pytest.raises(InputError, match=r"\.json, \.csv, \.md"):
        TABLE.save(tmp_path / "table.xlsx")


def test_an_entry_is_found_or_the_choices_named() -> None:
    assert TABLE.get("generic", "pointing").value == 0.91
    with pytest.raises(InputError, match="methods: generic on ViT, random on ViT"):
        TABLE.get("rollout", "pointing")


def test_records_survive_json_and_become_a_table() -> None:
    measured = {
        "hit": torch.tensor([1.0, 0.0, 1.0]),
        "inside": torch.tensor([0.5, math.nan, math.inf]),
        "chance": torch.tensor([0.1, 0.1, 0.1]),
    }
    right = torch.tensor([True, False, True])
    made = records([4, 5, 6], {"generic": measured}, correct=right, model="ViT")
    back = [json.loads(json.dumps(record, allow_nan=False)) for record in made]

    assert [record["item"] for record in back] == [4, 5, 6]
    assert back[1]["correct"] is False
    np.testing.assert_array_equal(columns(back, "generic")["inside"], [0.5, math.nan, math.inf])
    every = tabulate(PointingGame(), back, model="ViT", about={"data": "planted"})
    split = tabulate(PointingGame(), back, model="ViT", correct_only=True)
    assert every.get("generic", "pointing").value == pytest.approx(2 / 3)
    assert every.protocol == {**PointingGame().told, "items": "all", "data": "planted"}
    assert (split.get("generic", "pointing").value, split.get("generic", "pointing").n) == (1, 2)
    assert split.protocol["items"] == "those the model answers correctly"


def test_records_that_do_not_fit_are_refused() -> None:
    made = records([0], {"generic": {"hit": torch.ones(1)}})

    with pytest.raises(InputError, match="not so in: generic hit"):
        records([0, 1], {"generic": {"hit": torch.ones(1)}})
    with pytest.raises(InputError, match='hold "correct"'):
        tabulate(PointingGame(), made, model="ViT", correct_only=True)
    with pytest.raises(InputError, match='no record holds "rollout"'):
        columns(made, "rollout")
    with pytest.raises(InputError, match="no record"):
        tabulate(PointingGame(), [], model="ViT")
