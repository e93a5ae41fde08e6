"""The command `heedful explain`: parses, calls, prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import explain_settings as asked
from .explain_settings import ExplainSettings
from .settings import DTYPES
from .terminal import clear_errors, quieten

if TYPE_CHECKING:
    from .explain_results import Finding


def explain(
    image: Annotated[Path, typer.Argument(help="The image, in any format that Pillow opens, of any size.")],
    text: Annotated[
        list[str] | None,
        typer.Option(help="A text to compare the image with; repeat it for several.", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="A class, by label or number; repeat it for several. Default: the predicted one."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(asked.METHODS)}; comma-separated or repeated for several. Default: libra."
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="Show what the patch at this pixel attends to (raw attention), not what answers rest on.",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help=f"The layer of {', '.join(asked.LAYERED)}, from 0; -1 is the last. Default: -1."),
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="The head of raw_attention, from 0. Default: the mean of all.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a model of transformers in safetensors. Default: the embedded CLIP "
            "with --text, else the embedded classifier."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write into; it is made.")] = Path("out"),
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(DTYPES)}. Default: float16 on cuda, else float32.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of smoothgrad's noise. Default: 0.")] = None,
) -> None:
    """Show which parts of an image, and which words, a model's answer rests on.

    Examples:

    `heedful explain photo.png --text "a cat" --text "a frog"`

    `heedful explain photo.png --label cat --method generic,rollout,flow --out out/cat`

    `heedful explain photo.png --query 40,24 --layer 3 --head 0`

    `heedful explain photo.jpg --text "a red bow" --model openai/clip-vit-base-patch32 --method legrad`

    Into the folder go a sheet (one method: the texts or labels side by side; several: methods side by side, a
    line a text) and, for each method, its numbers in a safetensors file that `Relevance.load` reads.

    Colours go from the least relevant (black) to the most (white) within each map. Methods with a sign draw
    what speaks against the answer in blue. The table says where each map is largest, in pixels of the image.
    """
    with clear_errors():
        settings = ExplainSettings(
            image=image,
            texts=tuple(text or ()),
            labels=tuple(label or ()),
            methods=asked.parse_methods(method or []),
            query=None if query is None else asked.parse_query(query),
            layer=layer,
            head=head,
            model=model,
            device=device,
            dtype=dtype,
            seed=seed,
        )
        _carry_out(settings, out)


def _carry_out(settings: ExplainSettings, out: Path) -> None:
    quieten()
    from . import explain as work
    from . import explain_results as left
    from .results import make_folder

    picture = work.open_image(settings.image)
    make_folder(out)
    console = Console(stderr=True)
    with console.status("loading the model"):
        question = work.pose(settings, picture)
    answers = []
    with console.status("explaining") as status:
        for answer in work.answer(settings, question):
            answers.append(answer)
            status.update(f"explained by {answer.method}")
    _print(left.findings(question, answers))
    for path in left.save(out, settings, question, answers):
        typer.echo(f"wrote {path}")


def _print(findings: Sequence[Finding]) -> None:
    """A table: each target's score, and where every method finds it."""
    from ..pictures.draw import printable

    worded = any(finding.word is not None for finding in findings)
    table = Table()
    for name in ("target", "score", "method", "peak at x,y", *(["word"] if worded else [])):
        table.add_column(name)
    for finding in findings:
        word = [escape(printable(finding.word or ""))] if worded else []
        x, y = finding.peak
        target = escape(printable(finding.target))
        table.add_row(target, f"{finding.score:.3f}", finding.method, f"{x},{y}", *word)
    Console().print(table)
