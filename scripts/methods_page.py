"""The page of evidence in Markdown: tables, pictures, protocols, and prose whose figures are looked up."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np

from ..explain import explain
from ..explain.errors import InputError
from ..explain.evaluation import CONTROLS, Estimate
from ..explain.evaluation.intervals import share
from .methods_pictures import Picture
from .methods_settings import STUDIES
from .methods_summary import Summary
from .settings import UsageError

FRAME: Final = """# Which method to believe

Methods are sorted by their mean rank over the tests of a study, controls stand below; larger figures are
better. {{ legend }}

{% if studies | length > 1 %}{{ overall() }}

{% endif %}{% for name in studies %}## {{ name }}

{{ section(name) }}
{% for each in pictures(name) %}
{{ each }}
{% endfor %}
{% endfor %}"""
"""The page where no frame of one's own lies beside it."""
LEGEND: Final = """**Bold**: the best method, and those that are not worse beyond the interval of the paired
difference. *: beats every control beyond the interval of the paired difference. In brackets: 95 % intervals.
A mean rank of 0 is the best method of every test, 1 the worst."""


def save(path: Path, summaries: Sequence[Summary], drawn: Sequence[Picture]) -> Path:
    """Write the page; pictures that lie elsewhere are copied into a folder of the page's name beside it.

    `PAGE.frame.md` beside `PAGE.md` is its frame, if it is there: a Jinja template in which `Page`'s methods
    can be called. Whatever figure it names must be there.

    Raises:
        UsageError: a frame that is no template, or that names what was not measured.
    """
    page = Page(path, summaries, drawn)
    frame = path.with_suffix(".frame.md")
    text = frame.read_text(encoding="utf-8") if frame.is_file() else FRAME
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    try:
        made = environment.from_string(text).render(page.names)
    except (jinja2.TemplateError, InputError) as problem:
        raise UsageError(f"the frame {frame} cannot be filled: {problem}") from problem
    path.parent.mkdir(parents=True, exist_ok=True)
    page.copy_shown(made)
    path.write_text(made.rstrip() + "\n", encoding="utf-8")
    return path


class Page:
    """What a frame can ask for."""

    def __init__(self, path: Path, summaries: Sequence[Summary], drawn: Sequence[Picture]) -> None:
        self.path, self.drawn = path, drawn
        given = {each.outcome.study.name: each for each in summaries}
        # Whatever the order on the command line, a page has its studies in that of the list.
        self.summaries = {name: given[name] for name in (*STUDIES, *given) if name in given}

    @property
    def names(self) -> Mapping[str, Any]:
        """All of it by name."""
        asked = (
            "has", "count", "accuracy", "section", "overall", "differences", "pictures", "plot", "value",
            "less", "beats", "best", "wins",
        )  # fmt: skip
        own = {name: getattr(self, name) for name in asked}
        default = inspect.signature(explain).parameters["method"].default
        return {**own, "studies": list(self.summaries), "legend": LEGEND, "default": default}

    def has(self, study: str) -> bool:
        """Whether the study was made."""
        return study in self.summaries

    def count(self, study: str) -> int:
        """How many items it has."""
        return len(self._of(study).outcome.records)

    def accuracy(self, study: str) -> str:
        """The part of its items that the model answers rightly.

        Raises:
            InputError: where the study knows no truth.
        """
        known = [record["correct"] for record in self._of(study).outcome.records if "correct" in record]
        if not known:
            raise InputError(f'the study "{study}" does not say what is right')
        return _written(share(np.array(known, dtype=bool)))

    def section(self, study: str) -> str:
        """The table of the main figures of all tests, and the tests' protocols."""
        each = self._of(study)
        told = STUDIES.get(study, each.outcome.study.model_name)
        parts = [f"{told}. {self.count(study)} items."]
        if each.comparisons:
            parts.append(_table(each))
        parts.append("Protocols:\n\n" + "\n".join(_protocols(each)))
        return "\n\n".join(parts)

    def overall(self, *studies: str) -> str:
        """For each method: where it beats every control, where nothing is better, its mean rank.

        Args:
            studies: that count; none for all.
        """
        counted = [self._of(name) for name in studies or self.summaries]
        names = dict.fromkeys(row.method for each in counted for row in each.rows)
        lines = [_line(["method", "beats every control", "best, or not worse", "mean rank"])]
        lines.append(_line(["---"] * 4))
        rows = [(name, *_stand(name, counted)) for name in names if name not in CONTROLS]
        for name, won, good, count, rank in sorted(rows, key=lambda row: row[4]):
            lines.append(_line([name, f"{won} of {count}", f"{good} of {count}", f"{rank:.2f}"]))
        return "\n".join(lines)

    def pictures(self, study: str) -> list[str]:
        """All pictures of a study, as Markdown."""
        return [self._shown(each) for each in self.drawn if each.study == study]

    def plot(self, study: str, name: str) -> str:
        """One of them: `STUDY-NAME.png`.

        Raises:
            InputError: a picture that is not there.
        """
        wanted = f"{study}-{name}.png"
        for each in self.drawn:
            if each.path.name == wanted:
                return self._shown(each)
        there = ", ".join(each.path.name for each in self.drawn)
        raise InputError(f"no picture {wanted}; there are: {there}")

    def value(self, study: str, test: str, method: str, figure: str | None = None) -> str:
        """A figure of a test's table with its interval; None: the main one."""
        each = self._of(study)
        if figure is None:
            return _written(self._compared(study, test).value(method))
        found = each.outcome.tables[test].get(method, figure)
        return _written(Estimate(found.value, found.low, found.high, found.n))

    def less(self, study: str, test: str, method: str, other: str) -> str:
        """The paired difference of two methods with its interval."""
        found = self._compared(study, test).less(method, other)
        return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"

    def beats(self, study: str, test: str, method: str, other: str | None = None) -> bool:
        """Whether it is better than the other, or than every control, beyond the interval."""
        return self._compared(study, test).beats(method, None if other is None else [other])

    def best(self, study: str, test: str) -> str:
        """The best method of a test."""
        return self._compared(study, test).best

    def wins(self, method: str, *studies: str) -> str:
        """In how many tests (of all studies, or of these) it beats every control beyond the interval."""
        won, _, count, _ = _stand(method, [self._of(name) for name in studies or self.summaries])
        return f"{won} of {count}"

    def differences(self, method: str, others: Sequence[str], studies: Sequence[str]) -> str:
        """A table of one method less each of the others, in every test; **bold** beyond the interval.

        A place is empty where a study did not ask that method, as its protocol says.
        """
        lines = [_line(["study, test", *(f"{method} less {other}" for other in others)])]
        lines.append(_line(["---"] * (len(others) + 1)))
        for study in studies:
            for test, compared in self._of(study).comparisons.items():
                cells = [
                    _apart(compared.less(method, other)) if other in compared.rows else "" for other in others
                ]
                lines.append(_line([f"{study}, {test}: {compared.figure}", *cells]))
        return "\n".join(lines)

    def _of(self, study: str) -> Summary:
        if study not in self.summaries:
            raise InputError(f'the study "{study}" was not made; there are: {", ".join(self.summaries)}')
        return self.summaries[study]

    def _compared(self, study: str, test: str) -> Any:
        found = self._of(study).comparisons
        if test not in found:
            raise InputError(f'"{study}" has no test "{test}" with a main figure; it has: {", ".join(found)}')
        return found[test]

    def copy_shown(self, text: str) -> None:
        """Copy the pictures that the text shows and that lie elsewhere."""
        for each in self.drawn:
            place = self._place(each)
            if place != each.path and self._shown(each) in text:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(each.path, place)

    def _place(self, each: Picture) -> Path:
        if each.path.is_relative_to(self.path.parent):
            return each.path
        return self.path.with_suffix("") / each.path.name

    def _shown(self, each: Picture) -> str:
        return f"![{each.caption}]({self._place(each).relative_to(self.path.parent).as_posix()})"


def _stand(method: str, counted: Sequence[Summary]) -> tuple[int, int, int, float]:
    """Tests in which it beats every control, in which nothing is better, all of them, its mean rank."""
    rows = [row for each in counted for row in each.rows if row.method == method]
    cells = [cell for row in rows for cell in row.cells if cell is not None]
    rank = float(np.mean([cell.rank for cell in cells])) if cells else np.nan
    return sum(cell.beats for cell in cells), sum(cell.best for cell in cells), len(cells), rank


def _apart(found: Estimate) -> str:
    text = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def _table(each: Summary) -> str:
    lines = [_line(["method", *(head.replace(": ", ":<br>", 1) for head in each.heads)])]
    lines.append(_line(["---"] * (len(each.heads) + 1)))
    for row in each.rows:
        cells = ["" if cell is None else f"**{cell.long}**" if cell.best else cell.long for cell in row.cells]
        lines.append(_line([f"*{row.method}*" if row.control else row.method, *cells]))
    return "\n".join(lines)


def _protocols(each: Summary) -> list[str]:
    """What all tests share once, then each test's own."""
    told = {name: dict(table.protocol) for name, table in each.outcome.tables.items()}
    first, *others = told.values()
    shared = {key: value for key, value in first.items() if all(own.get(key) == value for own in others)}
    lines = [f"- all: {_listed(shared)}"] if shared and len(told) > 1 else []
    for name, own in told.items():
        rest = {key: value for key, value in own.items() if key not in shared or len(told) == 1}
        lines.append(f"- {name}: {_listed(rest)}")
    return lines


def _listed(told: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in told.items())


def _written(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
