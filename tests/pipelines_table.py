"""Makes the tables of docs/pipelines.md from what the tests find, so that the page promises nothing else.

A plug-in of pytest, made use of only where it is named:

    PYTHONPATH=tests .venv/bin/python -m pytest -p pipelines_table tests/guidance

What these tests find is written to docs/pipelines.json, and the tables from there into the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
OUTCOMES, PAGE = DOCS / "pipelines.json", DOCS / "pipelines.md"

FEATURES = {
    "test_it_runs_guided_and_tells_of_its_steps": "guided",
    "test_words_reach_their_columns_in_probes": "words",
    "test_words_reach_their_columns_in_records": "recorded",
    "test_only_the_conditional_rows_are_read": "rows",
    "test_guiding_lowers_the_loss_and_not_guiding_does_not": "loss",
    "test_everything_is_given_back_after_an_exception": "given back",
    "test_with_nothing_to_do_no_pixel_changes": "null",
    "test_recording_changes_no_pixel": "null",
    "test_two_prompts_equal_two_singles": "batch",
    "test_two_images_of_a_prompt": "batch",
    "test_guidance_off": "guidance off",
    "test_other_schedulers": "schedulers",
    "test_bfloat16": "bfloat16",
}
"""What each test of every pipeline shows, in the words of the table."""

IN_SHORT = "test_the_others_of_their_kind_are_guided_and_given_back"
SHOWN_IN_SHORT = ("guided", "rows", "given back", "null")
"""Of pipelines that differ from one of the others in little, one test shows these."""

ATTACHED = "test_what_is_attached_works_while_guided"
EMBEDDED = "test_prompt_embeddings_mean_the_same_as_their_prompt"
REFUSED = "test_what_cannot_be_guided_is_refused_before_anything_runs"
WORKS, FAILS, WITHOUT, TURNED_AWAY = "works", "fails", "has none", "refused"
_found: dict[str, dict[str, dict[str, str]]] = {"pipelines": {}, "attachments": {}}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Keep what became of each test that shows a feature."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        passed = TURNED_AWAY if item.originalname == REFUSED else WORKS
        outcome = {"passed": passed, "skipped": WITHOUT}.get(report.outcome, FAILS)
        for table, row, column in _places(item):
            cells = _found[table].setdefault(row, {})
            cells[column] = outcome if cells.get(column, WORKS) == WORKS else cells[column]
    return report


def pytest_sessionfinish() -> None:
    """Write what was found over what was known of the same cells, and the tables anew."""
    known = json.loads(OUTCOMES.read_text(encoding="utf-8")) if OUTCOMES.exists() else {}
    for table, rows in _found.items():
        for row, cells in rows.items():
            known.setdefault(table, {}).setdefault(row, {}).update(cells)
    OUTCOMES.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(known)


def _places(item: Any) -> list[tuple[str, str, str]]:
    """The cells that a test fills, by table, row and column."""
    name, params = item.originalname, getattr(getattr(item, "callspec", None), "params", {})
    if name in FEATURES:
        return [("pipelines", params["case"].name, FEATURES[name])]
    if name == IN_SHORT:
        return [("pipelines", params["case"].name, column) for column in SHOWN_IN_SHORT]
    if name == ATTACHED:
        return [("attachments", params["attached"].name, params["kind"].name)]
    if name == EMBEDDED:
        return [("attachments", f"prompt embeddings, {params['by']}", params["kind"].name)]
    if name == REFUSED:
        return [("attachments", params["refused"].name, params["kind"].name)]
    return []


def write_page(outcomes: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """Put the tables between their marks on the page."""
    page = PAGE.read_text(encoding="utf-8")
    for table, rows in outcomes.items():
        first, last = (f"<!-- {table}: {edge} -->" for edge in ("from here", "to here"))
        before, _, rest = page.partition(first)
        page = f"{before}{first}\n{markdown(table, rows)}\n{last}{rest.partition(last)[2]}"
    PAGE.write_text(page, encoding="utf-8")


def markdown(name: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """One of the tables; a cell without an entry was not tried."""
    found = dict.fromkeys(column for cells in rows.values() for column in cells)
    columns = list(dict.fromkeys(FEATURES.values()) if name == "pipelines" else found)
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for row, cells in rows.items():
        lines.append(f"| {row} | " + " | ".join(_mark(cells.get(one)) for one in columns) + " |")
    return "\n".join(lines)


def _mark(outcome: str | None) -> str:
    return {WORKS: "yes", FAILS: "**no**", WITHOUT: "-", TURNED_AWAY: TURNED_AWAY, None: " "}[outcome]
