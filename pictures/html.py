"""Results as HTML that needs nothing besides itself, for notebooks and reports; every text is escaped.

A figure carries its picture as a data URI. Nothing is fetched, nothing runs: a fragment has no script, and
colours that are inherited, so that it fits a light page and a dark one.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .draw import checked_heat, colours, diverging

FORMATS: Final = ("png", "webp", "jpeg")
"""What `data_uri` can write; png keeps every pixel."""
LARGEST_PNG: Final = 96 * 1024
"""Bytes up to which a picture is worth keeping pixel by pixel."""
QUALITY: Final = 90
_JOINERS: Final = "\u200c\u200d"  # invisible, but they make one emoji of several
_BORDER: Final = "1px solid rgba(128,128,128,.35)"


@dataclass(frozen=True)
class Figure:
    """A picture, the caption under it, and what it shows for those who cannot see it (else the caption)."""

    image: Image.Image
    caption: str = ""
    alt: str = ""


def data_uri(image: Image.Image, format: str | None = None) -> str:
    """The picture as an address that holds it whole.

    Args:
        image: any PIL image; modes that the format does not know become RGB.
        format: one of `FORMATS`; None takes png as long as that stays under 96 KiB, else webp of quality 90.

    Raises:
        ValueError: for another format.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f'format must be None or one of {", ".join(FORMATS)}; got "{format}"')
    if format is None:
        kept = _encoded(image, "png")
        format, found = ("png", kept) if len(kept) <= LARGEST_PNG else ("webp", _encoded(image, "webp"))
    else:
        found = _encoded(image, format)
    return f"data:image/{format};base64,{base64.b64encode(found).decode()}"


def heat_uri(heat: Float[np.ndarray, "height width"] | Float[Tensor, "height width"]) -> str:
    """Heat in 0..1 as a grey png of its own small grid, a few hundred bytes: 0 is black, 1 white.

    A page enlarges it and colours it (see `colour_tables`), which gives what `overlay` paints.

    Raises:
        ValueError: if it is not two-dimensional, not finite or outside 0..1.
    """
    grey = (checked_heat(heat, 0) * 255).round().astype(np.uint8)
    return data_uri(Image.fromarray(grey), "png")


def colour_tables(*, signed: bool = False, knots: int = 33) -> tuple[str, str, str]:
    """How red, green and blue follow from grey, as `tableValues` of an SVG `feComponentTransfer`.

    The colours are those of `overlay`; for signed heat, grey is (heat + 1) / 2.
    """
    ramp = np.linspace(-1 if signed else 0, 1, knots)[None]
    painted = (diverging(ramp) if signed else colours(ramp))[0] / 255
    red, green, blue = (" ".join(f"{value:.3g}" for value in channel) for channel in painted.T)
    return red, green, blue


def shown(value: Any) -> str:
    """Text for a page, escaped: `<`, `&`, quotes as entities, what cannot be seen as its code (`\\x00`)."""
    letters = (
        letter
        if letter.isprintable() or letter.isspace() or letter in _JOINERS
        else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in str(value)
    )
    return escape("".join(letters))


def figure_row(figures: Sequence[Figure | None], width: int = 160) -> str:
    """Figures beside each other, wrapped where the page is narrow; None leaves a place empty.

    Raises:
        ValueError: for a width under 16 pixels.
    """
    if width < 16:
        raise ValueError(f"width must be at least 16 pixels, got {width}")
    cells = [_figure(one, width) if one else f'<div style="width:{width}px"></div>' for one in figures]
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin:8px 0">{"".join(cells)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table whose first column heads its rows; None is a dash, and floats have three digits.

    Raises:
        ValueError: for a row that is not as long as the columns.
    """
    for row in rows:
        if not row or len(row) != len(columns):
            raise ValueError(f"wanted {len(columns)} cells a row ({', '.join(columns)}), got {len(row)}")
    head = "".join(_cell("th", name, "col") for name in columns)
    body = "".join(
        f"<tr>{_cell('th', row[0], 'row')}{''.join(_cell('td', cell) for cell in row[1:])}</tr>"
        for row in rows
    )
    style = "border-collapse:collapse;font-variant-numeric:tabular-nums"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def facts(values: Mapping[str, Any]) -> str:
    """Settings, a name and a value each, in one line that wraps."""
    pairs = (f"{shown(name)}&nbsp;<b>{shown(cell_text(value))}</b>" for name, value in values.items())
    return f'<p style="margin:6px 0;opacity:.8">{" &middot; ".join(pairs)}</p>'


def card(title: str, *parts: str, note: str = "") -> str:
    """A titled box around parts that are HTML already, with a note under its title.

    Args:
        title: text; it is escaped here, as is the note.
        parts: what `figure_row`, `table` and `facts` return.
        note: text.
    """
    under = f'<p style="margin:4px 0 0;opacity:.75">{shown(note)}</p>' if note else ""
    head = f'<strong style="font-size:1.1em;overflow-wrap:anywhere">{shown(title)}</strong>{under}'
    style = f"font-family:system-ui,sans-serif;border:{_BORDER};border-radius:8px;padding:12px 16px"
    return f'<section style="{style};max-width:960px">{head}{"".join(parts)}</section>'


def cell_text(value: Any) -> str:
    """A value as a person writes it: a dash for nothing, yes and no, floats with three digits."""
    if value is None or value == "":
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell_text(one) for one in value)
    return str(value)


def _encoded(image: Image.Image, format: str) -> bytes:
    known = {"png": ("1", "L", "LA", "P", "RGB", "RGBA"), "webp": ("RGB", "RGBA"), "jpeg": ("L", "RGB")}
    fitting = image if image.mode in known[format] else image.convert("RGB")
    options = {"optimize": True} if format == "png" else {"quality": QUALITY}
    buffer = io.BytesIO()
    fitting.save(buffer, format, **options)
    return buffer.getvalue()


def _figure(figure: Figure, width: int) -> str:
    alt = shown(figure.alt or figure.caption)
    picture = f'<img src="{data_uri(figure.image)}" alt="{alt}" style="width:100%;border-radius:4px">'
    style = "font-size:.85em;opacity:.8;overflow-wrap:anywhere"
    caption = f'<figcaption style="{style}">{shown(figure.caption)}</figcaption>' if figure.caption else ""
    return f'<figure style="margin:0;width:{width}px">{picture}{caption}</figure>'


def _cell(kind: str, value: Any, scope: str = "") -> str:
    side = "right" if isinstance(value, int | float) and not isinstance(value, bool) else "left"
    style = f"text-align:{side};padding:3px 10px 3px 0;border-bottom:{_BORDER};overflow-wrap:anywhere"
    about = f' scope="{scope}"' if scope else ""
    return f'<{kind}{about} style="{style}">{shown(cell_text(value))}</{kind}>'
