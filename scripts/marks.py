"""Documents in which a command writes its tables between two marks, so that they can be made again."""

from __future__ import annotations

from pathlib import Path

from .settings import UsageError

Marks = tuple[str, str]
"""A line before and a line after what is written."""


def check_marks(file: Path, marks: Marks) -> None:
    """Refuse a document that cannot be written, before anything is measured for it.

    Raises:
        UsageError: a document that is not there, or without both marks, in their order.
    """
    _parts(file, marks)


def write_between_marks(file: Path, text: str, marks: Marks) -> None:
    """Put text between the marks of a document, in the place of what stood there.

    Raises:
        UsageError: as `check_marks`; the document is left alone then.
    """
    before, after = _parts(file, marks)
    file.write_text(f"{before}{marks[0]}\n\n{text.strip()}\n\n{marks[1]}{after}", encoding="utf-8")


def _parts(file: Path, marks: Marks) -> tuple[str, str]:
    try:
        document = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise UsageError(f"cannot write into {file}: {reason}; it must hold {_named(marks)}") from problem
    before, begin, rest = document.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise UsageError(f"{file} must hold {_named(marks)}")
    return before, after


def _named(marks: Marks) -> str:
    return f"the marks {' and '.join(marks)}, each on a line of its own"
