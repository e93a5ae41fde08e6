"""What the commands share on the terminal: quiet libraries, one clear line for what was asked wrongly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from .settings import UsageError


def quieten() -> None:
    """Keep the libraries' bars and hints for programmers off the terminal; downloads still show theirs."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when they are imported
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@contextmanager
def clear_errors() -> Iterator[None]:
    """One line and exit code 2 for whatever was asked wrongly; errors of the program keep their trace."""
    try:
        yield
    except Exception as problem:
        if not _is_asked_wrongly(problem):
            raise
        typer.echo(f"error: {' '.join(str(problem).split())}", err=True)
        raise typer.Exit(2) from problem


@contextmanager
def stoppable(told: str) -> Iterator[None]:
    """Say after Ctrl-C what is left of the work; 130 is what a shell expects then."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(f"stopped; {told}", err=True)
        raise typer.Exit(130) from stop


def goes_on(out: Path) -> str:
    """What is left of work that keeps rows."""
    return f"the same command goes on from the rows in {out}, and loses the batch in hand"


def _is_asked_wrongly(problem: Exception) -> bool:
    if isinstance(problem, UsageError):
        return True
    from ..evaluation.errors import EvaluationError
    from ..explain.errors import ExplainError  # heavy rooms: mistakes in the arguments answer at once
    from ..guidance.errors import GuidanceError

    return isinstance(problem, (EvaluationError, ExplainError, GuidanceError))
