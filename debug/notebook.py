"""Shows an attempt in a notebook: both images, where its guided words looked, what came out."""

from __future__ import annotations

from typing import Final

from ..pictures import html
from .attempt import Attempt
from .opinions import outcomes
from .sources import Source, entries

_MOST: Final = 6  # words whose maps are shown


def html_of(attempt: Attempt) -> str:
    """One card; all texts are escaped. `report` shows every word at every step."""
    (entry,) = entries(attempt)
    labels = [span.label for span in attempt.guided.spans]
    rows = [_row(source, labels[:_MOST]) for source in entry.sources]
    said = [{one.word: one.says for one in outcomes(source)} for source in entry.sources]
    columns = ["word", *(source.name for source in entry.sources)]
    table = html.table(columns, [[label, *(one.get(label) for one in said)] for label in labels])
    settings = attempt.settings
    facts = html.facts({"seed": settings.seed, "steps": settings.steps, "strength": settings.strength})
    note = f"{len(labels) - _MOST} more words are not shown" if len(labels) > _MOST else ""
    return html.card(settings.prompt, *rows, table, facts, note=note)


def _row(source: Source, labels: list[str]) -> str:
    assert source.image is not None
    assert source.record is not None
    figures = [html.Figure(source.image, source.name, f"the {source.name} image")]
    for label in labels:
        picture = source.record.overlay(source.image, label, source.index)
        figures.append(html.Figure(picture, label, f"{source.name}: where {label} looked"))
    return html.figure_row(figures)
