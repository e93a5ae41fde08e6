"""The tables of docs/pipelines.md say what the tests try today, no more and no less."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import hosting_controls
import hosting_transformers
import hosting_unets
import pytest
from attachments import ATTACHMENTS, COMPILED, KINDS, REFUSED
from heedful.guidance.hosts import HOSTS
from pipelines_table import (
    FAILS,
    FEATURES,
    OUTCOMES,
    PAGE,
    SHOWN_IN_SHORT,
    TURNED_AWAY,
    WITHOUT,
    WORKS,
    markdown,
)

CASES = [*hosting_unets.CASES, *hosting_controls.CASES, *hosting_transformers.CASES]
FURTHER = [*hosting_controls.FURTHER, *hosting_transformers.FURTHER]
FURTHER = [*hosting_controls.FURTHER, *hosting_transformers.FURTHER]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def outcomes():
    """What the tests found when they last wrote it down."""
    return json.loads(OUTCOMES.read_text(encoding="utf-8"))


def test_every_pipeline_has_a_row_with_every_feature(outcomes):
    rows = outcomes["pipelines"]
    assert set(rows) == {case.name for case in (*CASES, *FURTHER)}
    for case in CASES:
        assert set(rows[case.name]) == set(FEATURES.values()), case.name
    for case in FURTHER:
        assert set(rows[case.name]) >= set(SHOWN_IN_SHORT), case.name


def test_everything_attached_has_its_cells(outcomes):
    expected = {one.name: set(one.kinds) for one in (*ATTACHMENTS, *COMPILED, *REFUSED)}
    expected |= {f"prompt embeddings, {by}": {kind.name for kind in KINDS} for by in ("words", "indices")}
    assert {name: set(cells) for name, cells in outcomes["attachments"].items()} == expected


def test_nothing_fails(outcomes):
    found = {cell for table in outcomes.values() for cells in table.values() for cell in cells.values()}
    assert FAILS not in found
    assert found == {WORKS, WITHOUT, TURNED_AWAY}
    without = {
        column for cells in outcomes["pipelines"].values() for column in cells if cells[column] == WITHOUT
    }
    assert without <= {"guidance off"}


def test_the_page_shows_them(outcomes):
    page = PAGE.read_text(encoding="utf-8")
    for name, rows in outcomes.items():
        assert markdown(name, rows) in page


def test_features_are_what_the_tests_of_every_pipeline_are():
    tree = ast.parse((HERE / "test_hosts.py").read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert {name for name in names if name.startswith("test_") and "cuda" not in name} == set(FEATURES)


def test_every_known_pipeline_is_tried():
    tried = {case.name.split(",")[0] for case in (*CASES, *FURTHER)}
    assert set(HOSTS) <= tried
