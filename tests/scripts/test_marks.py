"""Tables between the marks of a document."""

from __future__ import annotations

from pathlib import Path

import pytest
from heedful.scripts.marks import check_marks, write_between_marks
from heedful.scripts.settings import UsageError

MARKS = BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def test_text_takes_the_place_between_the_marks_and_leaves_the_rest(tmp_path: Path):
    file = tmp_path / "page.md"
    file.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")

    check_marks(file, MARKS)
    write_between_marks(file, "new\n", MARKS)
    write_between_marks(file, "newer\n", MARKS)

    assert file.read_text() == f"# Before\n\n{BEGIN}\n\nnewer\n\n{END}\n\nAfter\n"


@pytest.mark.parametrize("text", ["no marks", BEGIN, f"{END} {BEGIN}"])
def test_a_document_without_the_marks_is_left_alone(tmp_path: Path, text: str):
    file = tmp_path / "page.md"
    file.write_text(text)

    for refused in (lambda: check_marks(file, MARKS), lambda: write_between_marks(file, "new", MARKS)):
        with pytest.raises(UsageError, match=f"must hold the marks {BEGIN} and {END}"):
            refused()
    assert file.read_text() == text


def test_a_document_that_is_not_there_is_not_made(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot write into .*page\.md: No such file"):
        write_between_marks(tmp_path / "page.md", "new", MARKS)
    assert not (tmp_path / "page.md").exists()
