"""What the tabs of the page share: the worker, the sessions, how a job is followed, a failure told."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..explain import ExplainError
from ..guidance import GuidanceError
from ..pictures.draw import colours, diverging
from . import page_views as views
from .errors import Cancelled, DebugError
from .page_jobs import Job, Worker
from .page_sessions import Session, Sessions

with suppress(ImportError):
    import gradio as gr


@dataclass(frozen=True)
class Shared:
    """The one worker of the server, and the sessions of its tabs."""

    worker: Worker
    sessions: Sessions = field(default_factory=Sessions)

    def session(self, request: gr.Request) -> Session:
        """The session of the tab that a request comes from."""
        return self.sessions.open(str(request.session_hash))


def run(
    worker: Worker,
    session: Session,
    work: Callable[[Job], Any],
    kept: Callable[[Any], dict[Any, Any]],
    status: Any,
) -> Iterator[dict[Any, Any]]:
    """Carry out a tab's job: updates of the status while it runs, then what `kept` makes of its result.

    A job whose tab is gone is cancelled.
    """
    job = session.job = worker.submit(work)
    try:
        for told in worker.updates(job):
            yield {status: views.progress(told)}
        session.job = None
        try:
            yield kept(job.result())
        except (Cancelled, CancelledError):
            yield {status: views.notice("Cancelled; nothing was kept.")}
        except Exception as problem:
            yield {status: failure(problem)}
    finally:
        job.cancel()


def failure(problem: Exception) -> str:
    """What went wrong, for the person; for errors of the program itself the terminal gets the trace."""
    if isinstance(problem, (DebugError, GuidanceError, ExplainError)):
        return views.notice(" ".join(str(problem).split()), "bad")
    traceback.print_exception(problem)
    told = f"{type(problem).__name__}: {problem}".splitlines()[0][:300]
    return views.notice(f"This should not have happened: {told}. The terminal shows where.", "bad")


def part(value: str, **options: Any) -> Any:
    """A part of the page in HTML, whose buttons tell Python what was chosen (see templates/page.js)."""
    return gr.HTML(value, js_on_load=_text("page.js"), **options)


@cache
def style() -> str:
    """The page's style sheet, with the colours of heat as the pictures have them."""
    ramps = {"RAMP": colours(_levels(0)), "SIGNED": diverging(_levels(-1))}
    sheet = _text("page.css")
    for name, ramp in ramps.items():
        sheet = sheet.replace(f" {name})", f" {', '.join(f'rgb{tuple(rgb)}' for rgb in ramp[0].tolist())})")
    return sheet


def _levels(least: int) -> Any:
    import numpy as np

    return np.linspace(least, 1, 17)[None]


@cache
def _text(name: str) -> str:
    return (views.TEMPLATES / name).read_text(encoding="utf-8")
