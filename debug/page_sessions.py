"""What each tab of the browser has tried: its history, what it looks at, the job it waits for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from PIL import Image

from .attempt import Attempt
from .page_jobs import Job

KEPT = 40
"""Attempts that a session remembers."""


@dataclass(frozen=True, eq=False)
class Entry:
    """An attempt with its number in the session, from 1."""

    number: int
    attempt: Attempt


@dataclass
class Session:
    """One tab.

    Attributes:
        key: what its requests carry.
        history: its attempts, the oldest first, at most `KEPT`.
        forgotten: how many older ones were dropped.
        shown: the number of the attempt that the page shows; None before the first.
        word: the label of the word whose attention is laid over the images; None for the bare images.
        step: the index of the step looked at; None for the mean of all.
        job: what it waits for.
        image: the image that the second tab explains; `grid` the (rows, columns) of its patches, once known.
        probed: the image that the third tab looks at; `probed_grid` as `grid`.
        scenes: how many scenes the third tab has taken.
    """

    key: str = ""
    history: list[Entry] = field(default_factory=list)
    forgotten: int = 0
    shown: int | None = None
    word: str | None = None
    step: int | None = None
    job: Job | None = None
    image: Image.Image | None = None
    grid: tuple[int, int] = (8, 8)
    probed: Image.Image | None = None
    probed_grid: tuple[int, int] = (8, 8)
    scenes: int = 0

    def add(self, attempt: Attempt) -> Entry:
        """Remember an attempt and show it; the oldest makes room."""
        number = 1 + self.forgotten + len(self.history)
        entry = Entry(number, attempt)
        self.history.append(entry)
        if len(self.history) > KEPT:
            del self.history[0]
            self.forgotten += 1
        self.shown = number
        return entry

    def entry(self, number: int | None) -> Entry | None:
        """The attempt of that number, or None where there is none (any more)."""
        return next((one for one in self.history if one.number == number), None)

    @property
    def current(self) -> Entry | None:
        """The attempt that the page shows."""
        return self.entry(self.shown)


class Sessions:
    """All open tabs, by the key that the browser's requests carry."""

    def __init__(self) -> None:
        self._found: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def open(self, key: str) -> Session:
        """The tab's session, made at its first request."""
        with self._lock:
            return self._found.setdefault(key, Session(key))

    def find(self, key: str) -> Session | None:
        """The tab's session, or None for a key that no tab has."""
        return self._found.get(key)

    def close(self, key: str) -> None:
        """Forget a tab, and stop what it waits for."""
        with self._lock:
            session = self._found.pop(key, None)
        if session is not None and session.job is not None:
            session.job.cancel()
