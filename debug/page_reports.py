"""Lends a tab the report of what it has drawn, as a file to save."""

from __future__ import annotations

import re

from .page_sessions import Sessions
from .report import report

ALL = "all"


def lent(sessions: Sessions, key: str, name: str) -> tuple[str, str] | None:
    """File name and text of the report of a tab's attempt, by its number, or of "all"; None if it is gone."""
    session = sessions.find(key)
    if session is None or not session.history:
        return None
    if name == ALL:
        return "heedful-session.html", report([entry.attempt for entry in session.history])
    entry = session.entry(int(name)) if re.fullmatch(r"\d{1,9}", name) else None
    if entry is None:
        return None
    settings = entry.attempt.settings
    slug = re.sub(r"[^a-z0-9]+", "-", settings.prompt.lower())[:48].strip("-") or "prompt"
    return f"heedful-{slug}-seed-{settings.seed}.html", report(entry.attempt)
