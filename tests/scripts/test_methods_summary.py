"""What a summary says of methods whose worth is known, as text, table, file and page."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from heedful.explain.evaluation import CONTROLS, Table
from heedful.scripts.methods_page import Page, save
from heedful.scripts.methods_pictures import Picture
from heedful.scripts.methods_results import to_csv, to_json
from heedful.scripts.methods_summary import summary
from heedful.scripts.settings import UsageError
from methods_standins import COUNT, SHARES, outcome, summarised


def test_methods_are_sorted_controls_below_and_what_beats_them_is_marked() -> None:
    found = summarised()

    assert [row.method for row in found.rows] == list(SHARES)
    assert [row.control for row in found.rows] == [name in CONTROLS for name in SHARES]
    assert [row.method for row in found.rows if row.last] == ["poor"]
    cells = {row.method: row.cells[0] for row in found.rows}
    assert {name for name, cell in cells.items() if cell.beats} == {"good", "fair"}
    assert {name for name, cell in cells.items() if cell.best} == {"good"}
    assert [cells[name].rank for name in ("good", "fair", "poor")] == [0, 0.5, 1]
    assert found.heads == ("pointing: pointing",)


def test_cells_say_value_and_interval() -> None:
    cell = summarised().rows[0].cells[0]

    value, half = cell.short.rstrip("*").split(" ±")
    assert float(value) == pytest.approx(cell.found.value, abs=5e-4)
    assert float(half) == pytest.approx((cell.found.high - cell.found.low) / 2, abs=5e-4)
    assert cell.short.endswith("*")
    assert cell.long == f"{cell.found.value:.3f} ({cell.found.low:.2f} to {cell.found.high:.2f})*"


def test_tables_are_written_whole() -> None:
    found = [summarised(), summarised("other", 7)]

    told = json.loads(to_json(found))["studies"]
    assert list(told) == ["stand-in", "other"]
    table = Table.from_json(json.dumps(told["other"]["tests"]["pointing"]))
    assert table == found[1].outcome.tables["pointing"]
    less = Table.from_json(json.dumps(told["stand-in"]["differences"]["pointing"]))
    compared = found[0].comparisons["pointing"]
    assert less.get("good", "less random").value == compared.less("good", "random").value

    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    own = {(row["study"], row["test"], row["method"], row["figure"]): row for row in rows}
    assert len(own) == len(rows)
    row = own["stand-in", "pointing", "good", "pointing"]
    assert float(row["value"]) == pytest.approx(compared.value("good").value)
    assert ("stand-in", "pointing", "good", "less edges") in own


def page(tmp_path: Path, frame: str | None = None, *names: str) -> str:
    if frame is not None:
        (tmp_path / "page.frame.md").write_text(frame)
    drawn = [Picture("stand-in", "plot", tmp_path / "drawn" / "stand-in-figures.png", "all figures")]
    drawn[0].path.parent.mkdir(exist_ok=True)
    drawn[0].path.write_bytes(b"png")
    made = [summarised(name, place) for place, name in enumerate(names or ("stand-in",))]
    (tmp_path / "docs").mkdir(exist_ok=True)
    place = tmp_path / "page.md" if frame is not None else tmp_path / "docs" / "page.md"
    return save(place, made, drawn).read_text()


def test_a_page_without_a_frame_shows_everything(tmp_path: Path) -> None:
    text = page(tmp_path)

    assert "## stand-in" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip().strip("*") for line in lines[2:]] == list(SHARES)
    assert "**0." in lines[2]
    assert "- pointing: points at: the centre of the largest patch" in text
    assert "](page/stand-in-figures.png)" in text
    assert (tmp_path / "docs" / "page" / "stand-in-figures.png").read_bytes() == b"png"
    assert "beats every control |" not in text  # of one study there is nothing to sum up


def test_several_studies_are_summed_up(tmp_path: Path) -> None:
    text = page(tmp_path, None, "stand-in", "other")

    assert "| good | 2 of 2 | 2 of 2 | 0.00 |" in text
    assert "| poor | 0 of 2 | 0 of 2 | 1.00 |" in text


def test_a_frame_looks_figures_up(tmp_path: Path) -> None:
    compared = summarised().comparisons["pointing"]
    text = page(
        tmp_path,
        '{{ value("stand-in", "pointing", "good") }} '
        '{{ value("stand-in", "pointing", "good", "pointing") }}\n'
        '{{ value("stand-in", "agreement", "good ~ fair", "Spearman") }}\n'
        '{{ less("stand-in", "pointing", "good", "fair") }} {{ best("stand-in", "pointing") }}\n'
        '{{ beats("stand-in", "pointing", "poor") }} {{ beats("stand-in", "pointing", "good", "fair") }}\n'
        '{{ wins("fair") }} {{ count("stand-in") }} {{ has("other") }} {{ accuracy("stand-in") }}\n'
        '{{ plot("stand-in", "figures") }}\n'
        '{{ differences("fair", ["good", "random"], ["stand-in"]) }}',
    ).splitlines()

    value = compared.value("good")
    written = f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"
    assert text[0] == f"{written} {written}"
    assert text[1] == "0.500 (0.500 to 0.500)"
    assert text[2].startswith(f"{compared.less('good', 'fair').value:+.3f} (")
    assert text[2].endswith(" good")
    assert text[3] == "False True"
    assert text[4].startswith(f"1 of 1 {COUNT} False 1.000 (0.9")
    assert text[5] == "![all figures](drawn/stand-in-figures.png)"
    assert text[6] == "| study, test | fair less good | fair less random |"
    assert text[8].startswith("| stand-in, pointing: pointing | **-0.")
    assert text[8].count("**") == 4


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ('{{ value("none", "pointing", "good") }}', 'study "none" was not made; there are: stand-in'),
        ('{{ value("stand-in", "none", "good") }}', 'has no test "none" with a main figure'),
        ('{{ value("stand-in", "agreement", "good") }}', 'has no test "agreement" with a main figure'),
        ('{{ value("stand-in", "pointing", "none") }}', 'no rows of "none"'),
        ('{{ plot("stand-in", "none") }}', "no picture stand-in-none.png; there are: stand-in-figures.png"),
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ ", "cannot be filled"),
    ],
)
def test_a_frame_that_names_what_was_not_measured_is_refused(
    tmp_path: Path, frame: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        page(tmp_path, frame)


def test_rows_that_the_model_answers_wrongly_do_not_count_where_they_should_not() -> None:
    """The page's figure is of the table's own rows."""
    made = outcome()
    found = summary(made)
    entry = made.tables["pointing"].get("good", "pointing")

    assert Page(Path("page.md"), [found], []).value("stand-in", "pointing", "good") == (
        f"{entry.value:.3f} ({entry.low:.3f} to {entry.high:.3f})"
    )
