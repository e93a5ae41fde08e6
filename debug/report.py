"""Writes results as one HTML file that needs nothing besides itself, for a colleague who was not there.

It opens offline, fetches nothing and runs nothing but its own script, whose hash its policy names. Without
scripts everything is still there. Every text goes through a template that escapes it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ..pictures.html import colour_tables, shown
from .errors import ReportError
from .sources import Entry, Reported, entries
from .views import Part, part, stride_for

TEMPLATES: Final = Path(__file__).with_name("templates")
MARKS: Final = {"heeded": "✓", "neglected": "✗", "unsure": "?"}
TITLE: Final = 120
_EXPLAINED: Final = (
    "Check: how sure CLIP is that the image shows the word, against text without it. Classifier: its "
    "probability. Judge: what the embedded world's judge sees. Attention: the highest that the word got at "
    "the last step that guidance looked at; attended or weak."
)
_NUMBERS: Final = (
    "A map shows, for each place of the image, the share of attention that the word gets there, averaged "
    "over heads and layers. Peak: the highest share. Mass: the mean share. Entropy: how widely it is "
    "spread, in bits. Centre and spread: where it lies, and how far from there, with the image's sides of "
    "length 1. "
    "Strongest rival: what else of the prompt has most attention where the word looks, and the word's own "
    "there. CLIP relevance and classifier relevance: what those models looked at in the finished image."
)


def report(
    attempts: Reported | Sequence[Reported],
    path: str | Path | None = None,
    *,
    title: str = "",
    images: Sequence[Image.Image] = (),
) -> str:
    """One HTML page with images, where every word looked, losses, verdicts, and how to make it again.

    Args:
        attempts: an `Attempt`, a `GuidedRun`, an `AttentionRecord`, or several of them, beside each other.
        path: the file to write, if any.
        title: text above all; the first prompt by default.
        images: what came out, one an image, for runs and records: they hold none themselves.

    Returns:
        The page. Under 5 MB for an attempt at 512 x 512 pixels; where the maps of single steps would take
        more than 2 MB, only every second, third, ... step is in it, and it says so.

    Raises:
        ReportError: nothing to report, images that do not match, or a file that cannot be written.
    """
    found = entries(attempts, images)
    stride = stride_for(found)
    page = _page([part(entry, stride) for entry in found], title or _title(found), _differences(found))
    if path is not None:
        _write(Path(path), page)
    return page


def _page(parts: Sequence[Part], title: str, differences: Sequence[Mapping[str, str]]) -> str:
    style = _resource("report.css") + _backgrounds(parts)
    script = _resource("report.js")
    page: str = _template().render(
        parts=parts,
        title=title,
        differences=differences,
        columns=list(dict.fromkeys(side.name for one in parts for side in one.sides)),
        colours={"heat": colour_tables(), "signed": colour_tables(signed=True)},
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        explained=_EXPLAINED,
        numbers=_NUMBERS,
    )
    return page.lstrip()


def _backgrounds(parts: Sequence[Part]) -> str:
    """Under each map lies a small copy of its image: once in the style, not once a map."""
    rules = []
    for number, one in enumerate(parts, start=1):
        for place, side in enumerate(one.sides):
            ground = f"background-image:url({side.thumb});" if side.thumb else ""
            rules.append(f".p{number}s{place}{{{ground}aspect-ratio:{side.width}/{side.height}}}")
            if not side.thumb:
                rules.append(f".p{number}s{place} img{{opacity:1}}")
    return "\n".join(rules)


def _title(found: Sequence[Entry]) -> str:
    prompt = next((entry.prompt for entry in found if entry.prompt), "") or "Where the words looked"
    short = prompt if len(prompt) <= TITLE else prompt[: TITLE - 1].rstrip() + "\u2026"
    return short if len(found) == 1 else f"{len(found)} attempts: {short}"


def _differences(found: Sequence[Entry]) -> list[dict[str, str]]:
    """For each entry the settings in which not all are alike."""
    from .views import told

    rows = [{name: told(value) for name, value in entry.settings.items()} for entry in found]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "prompt"))
    unlike = [name for name in names if len({row.get(name) for row in rows}) > 1]
    return [{name.replace("_", " "): row[name] for name in unlike if name in row} for row in rows]


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as problem:
        raise ReportError(f"cannot write the report {path}: {problem.strerror or problem}") from problem


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _resource(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    world = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    world.filters["shown"] = lambda value: Markup(shown(value))
    world.globals["marks"] = MARKS
    return world.get_template("report.html")
