"""What the page shows of a probe, as HTML: its picture, its numbers, how to read them."""

from __future__ import annotations

from ..pictures.html import data_uri
from .page_views import macros
from .probing import Finding


def finding(found: Finding) -> str:
    """The picture, the table and the note; every text goes through a template that escapes it."""
    src = data_uri(found.picture, "webp")
    return str(macros().finding(src, found.alt, found.columns, found.rows, found.note))
