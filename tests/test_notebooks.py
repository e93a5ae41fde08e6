"""The notebooks of the docs: their code runs, what they say holds, and the files are of their sources."""

from __future__ import annotations

import ast
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from heedful.scripts import notebooks

SOCKETS = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
"""Those of the kernel's client are not ours."""
NAMES = tuple(path.stem for path in notebooks.chosen())
Said = Callable[[dict[str, Any]], bool]
SAID: dict[str, tuple[Said, ...]] = {
    "1-interpretability": (
        lambda of: all(of["shares"][name][0] > 0.5 for name in of["later"]),
        lambda of: all(
            abs(one - other) < 1e-5 for name in of["earlier"] for one, other in [of["shares"][name]]
        ),
    ),
    "2-probing": (
        lambda of: not of["found"].local().any(),
        lambda of: of["found"].entropy.mean() < of["control"].entropy.mean(),
        lambda of: (
            sum(raised > real for raised, real in zip(of["made"].strengths, of["best"], strict=True)) > 7
        ),
    ),
    "3-clip": (
        lambda of: [one.verdict for one in of["verdict"].words] == ["heeded", "heeded", "neglected"],
        lambda of: [one["frog"].verdict for one in of["verdicts"]] == ["neglected", "heeded"],
    ),
    "4-debiasing": (
        lambda of: of["sights"][1][1].accuracy > of["sights"][0][1].accuracy,
        lambda of: of["made"].best.validation < of["made"].history[0].validation,
    ),
    "5-guidance": (
        lambda of: of["again"].tobytes() == of["plain"].tobytes(),
        lambda of: of["judge"]([of["plain"], of["guided"]])[1].sees_all(of["words"]),
        lambda of: not of["judge"]([of["plain"]])[0].sees_all(of["words"]),
    ),
}
"""What the prose of each notebook claims, asked of its variables."""


def ran(name: str) -> dict[str, Any]:
    """The variables of a notebook whose cells were carried out here, without a kernel to wait for."""
    (source,) = notebooks.chosen([name])
    space: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebooks.cells(source), 1):
        if cell.kind == "code":
            exec(compile(cell.text, f"{name}, cell {number}", "exec"), space)
    return space


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a screen, on a CPU whatever is there, and with no plot left open."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    pyplot.close("all")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_what_it_says_holds(
    name: str, quiet: None, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ran(name)

    assert [said(space) for said in SAID[name]] == [True] * len(SAID[name])
    assert capsys.readouterr().out.count("\n") >= 3, "it prints its figures"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_executed_from_its_source(name: str) -> None:
    (source,) = notebooks.chosen([name])

    assert list(notebooks.wrongs_of(source)) == []


def test_a_notebook_for_each_section_of_the_tutorial() -> None:
    assert tuple(SAID) == NAMES
    with pytest.raises(typer.BadParameter, match=r"there is no notebook 9-nothing; there are: 1-interpret"):
        notebooks.chosen(["9-nothing"])


SOURCE = '''"""Why it exists."""

# %% [markdown]
# # A title
#
# Some prose.

# %%
from PIL import Image

print("seen")
Image.new("RGB", (40, 30), {colour!r})
'''


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "1-small.py"
    made.write_text(SOURCE.format(colour="red"), encoding="utf-8")
    return made


def test_a_source_has_cells_of_prose_and_code(source: Path) -> None:
    prose, code = notebooks.cells(source)

    assert (prose.kind, prose.text) == ("markdown", "# A title\n\nSome prose.")
    assert (code.kind, code.text.splitlines()[0]) == ("code", "from PIL import Image")
    assert isinstance(ast.parse(code.text), ast.Module)


@pytest.mark.parametrize(
    ("text", "told"),
    [("print(1)\n", "has no cells"), ("# %% [markdown]\n# fine\nbare\n", "every line begins with")],
)
def test_a_source_that_is_none_is_refused(text: str, told: str, tmp_path: Path) -> None:
    wrong = tmp_path / "1-wrong.py"
    wrong.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        notebooks.cells(wrong)


@pytest.fixture
def kernels() -> Iterator[None]:
    """What a kernel's client leaves open is closed here, and not while another test runs."""
    yield
    gc.collect()


@SOCKETS
def test_a_kernel_executes_a_notebook_and_its_file_stays_the_same(source: Path, kernels: None) -> None:
    assert list(notebooks.wrongs_of(source)) == ["was never executed"]
    texts = [notebooks.written(notebooks.executed(notebooks.notebook(source))) for _ in range(2)]
    source.with_suffix(".ipynb").write_text(texts[0], encoding="utf-8")

    assert texts[0] == texts[1]
    assert list(notebooks.wrongs_of(source)) == []
    assert '"text/plain"' in texts[0]
    assert "image/jpeg" not in texts[0]
    source.write_text(SOURCE.format(colour="blue"), encoding="utf-8")
    assert list(notebooks.wrongs_of(source)) == ["is not of its source: execute it again"]


@SOCKETS
def test_a_kernel_carries_out_a_whole_notebook(kernels: None) -> None:
    (source,) = notebooks.chosen(["3-clip"])
    book = notebooks.executed(notebooks.notebook(source))
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]

    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert not [
        output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"
    ]


@SOCKETS
def test_a_cell_that_fails_ends_the_execution(source: Path, kernels: None) -> None:
    from nbclient.exceptions import CellExecutionError

    source.write_text("# %%\nraise KeyError('here')\n", encoding="utf-8")
    with pytest.raises(CellExecutionError, match="KeyError"):
        notebooks.executed(notebooks.notebook(source))
