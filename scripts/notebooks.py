"""Makes the notebooks of docs/notebooks of their sources and executes them: `scripts/notebooks.py run`.

A source is a Python file in the percent format: `# %% [markdown]` begins a cell of prose, `# %%` one of
code. Sources can be reviewed, linted and tested; the .ipynb beside each is what was executed, with its
pictures, and nothing that changes from one run to the next.
"""

from __future__ import annotations

import io
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from PIL import Image
from rich.console import Console

NOTEBOOKS: Final = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
MARK, PROSE = "# %%", "# %% [markdown]"
LARGEST: Final = 600_000
"""Bytes of a notebook's file: it travels with the repository."""
PATIENCE: Final = 600
"""Seconds that a cell may take."""
QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",  # pictures and figures are those of a CPU, to the last digit
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # a bar of ipywidgets is not missed
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
"""What a kernel is told, so that its outputs are the notebook's own."""
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()
Names = Annotated[list[str] | None, typer.Argument(help="such as 2-probing; all where none is given")]


@dataclass(frozen=True)
class Cell:
    """A cell of a source: prose in Markdown, or Python."""

    kind: Literal["markdown", "code"]
    text: str


@app.command()
def run(names: Names = None) -> None:
    """Execute notebooks and write each beside its source."""
    for source in chosen(names):
        with console.status(f"executing {source.stem}"):
            text = written(executed(notebook(source)))
        source.with_suffix(".ipynb").write_text(text, encoding="utf-8")
        console.print(f"{source.stem}: {len(text) / 1000:.0f} kB", highlight=False)


@app.command()
def check(names: Names = None) -> None:
    """Say which notebooks are not of their source, too large, or hold an error; exit code 1 if one is."""
    wrongs = [f"{source.stem}: {wrong}" for source in chosen(names) for wrong in wrongs_of(source)]
    for wrong in wrongs:
        console.print(wrong, highlight=False)
    raise typer.Exit(bool(wrongs))


def chosen(names: Sequence[str] | None = None) -> list[Path]:
    """The sources of these names, or all in their order.

    Raises:
        typer.BadParameter: for a name that is none.
    """
    there = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]-*.py"))}
    if unknown := [name for name in names or () if name not in there]:
        raise typer.BadParameter(f"there is no notebook {', '.join(unknown)}; there are: {', '.join(there)}")
    return [there[name] for name in names or there]


def cells(source: Path) -> list[Cell]:
    """The cells of a source; what stands before the first mark is the file's own docstring.

    Raises:
        ValueError: for a source without cells, or a line of prose that is not a comment.
    """
    found: list[tuple[Literal["markdown", "code"], list[str]]] = []
    for line in source.read_text(encoding="utf-8").splitlines():
        if line.startswith(MARK):
            found.append(("markdown" if line == PROSE else "code", []))
        elif found:
            found[-1][1].append(line)
    if not found:
        raise ValueError(f'{source.name} has no cells: each begins with a line "{MARK}" or "{PROSE}"')
    return [
        Cell(kind, _prose(lines, source) if kind == "markdown" else _code(lines)) for kind, lines in found
    ]


def _prose(lines: Sequence[str], source: Path) -> str:
    for line in lines:
        if line and line != "#" and not line.startswith("# "):
            raise ValueError(f'in a cell of prose of {source.name} every line begins with "# "; got {line!r}')
    return "\n".join(line[2:] for line in lines).strip()


def _code(lines: Sequence[str]) -> str:
    return "\n".join(lines).strip()


def notebook(source: Path) -> Any:
    """The notebook of a source, not executed; its cells are numbered, so that the file stays the same."""
    from nbformat import v4

    book = v4.new_notebook()
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    make = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    book.cells = [
        make[cell.kind](cell.text, id=f"cell-{number}") for number, cell in enumerate(cells(source), 1)
    ]
    return book


def executed(book: Any) -> Any:
    """The notebook with its outputs, from a kernel of this interpreter that knows nothing but `QUIET`.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    manager = AsyncKernelManager(kernel_name="python3")
    quiet = ["--IPKernelApp.log_level=40"]  # it warns of its own local sockets
    client = NotebookClient(
        book, km=manager, timeout=PATIENCE, startup_timeout=PATIENCE, extra_arguments=quiet
    )
    client.execute(env={**os.environ, **QUIET}, cwd=str(NOTEBOOKS))
    return _cleaned(book)


def _cleaned(book: Any) -> Any:
    """Without times and versions, and with one small PNG where a picture came in several formats."""
    book.metadata["language_info"] = {"name": "python"}
    for cell in book.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _small(data["image/png"])
                for other in set(data) - {"image/png", "text/plain"}:
                    del data[other]
    return book


def _small(png: str) -> str:
    """A PNG in base64 with 256 colours at most: sheets have few that differ to the eye."""
    image = Image.open(io.BytesIO(b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return b64encode(buffer.getvalue()).decode()


def written(book: Any) -> str:
    """The notebook as its file has it."""
    import nbformat

    return nbformat.writes(book) + "\n"


def wrongs_of(source: Path) -> Iterator[str]:
    """What is wrong with the notebook that is beside a source."""
    import nbformat

    path = source.with_suffix(".ipynb")
    if not path.is_file():
        yield "was never executed"
        return
    book = nbformat.read(path, as_version=4)
    if [(cell.cell_type, cell.source) for cell in book.cells] != [(c.kind, c.text) for c in cells(source)]:
        yield "is not of its source: execute it again"
    if (size := path.stat().st_size) > LARGEST:
        yield f"has {size} bytes, more than {LARGEST}: show fewer or smaller pictures"
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "was not executed from top to bottom"
    outputs = [output for cell in code for output in cell.outputs]
    if any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs):
        yield "holds an error or a warning"
    if not code or not any("image/png" in output.get("data", {}) for output in code[-1].outputs):
        yield "does not end with a picture"
    if str(NOTEBOOKS.parents[1]) in path.read_text(encoding="utf-8"):
        yield "holds a path of the machine that executed it"


if __name__ == "__main__":
    app()
