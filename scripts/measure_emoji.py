"""Measures the embedded models on fresh scenes, prints a table, writes the model cards and the sample sheets.

`python scripts/measure_emoji.py` measures all; `--only judge --only clip` some; `--no-write` changes no file.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from heedful.emoji import family_figures as families
from heedful.emoji import figures as measures
from heedful.emoji.cards import write_figures
from heedful.emoji.models import MODELS
from heedful.scripts.emoji_figures import wilson
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from heedful.emoji.figures import Figure, Sampled

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


class What(StrEnum):
    """What can be measured."""

    VAE = "vae"
    CLIP = "clip"
    JUDGE = "judge"
    CLASSIFIER = "classifier"
    CHEATER = "cheater"
    RESNET = "resnet"
    DETR = "detr"
    VISUAL_BERT = "visual-bert"
    LXMERT = "lxmert"
    BERT = "bert"
    SAMPLING = "sampling"


CARDS = {What.VAE: "pipeline", What.SAMPLING: "pipeline"}


@app.command()
def main(
    only: Annotated[list[What] | None, typer.Option(help="measure these alone; may be repeated")] = None,
    rounds: Annotated[int, typer.Option(help="images a prompt when sampling", min=1)] = 3,
    write: Annotated[bool, typer.Option(help="write model cards and sample sheets")] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
) -> None:
    """Measure the embedded models."""
    if threads:
        torch.set_num_threads(threads)
    table = Table("model", "figure", "value (95 % interval)", "images")
    for what in only or list(What):
        console.print(f"measuring: {what.value}")
        measured, sampled = _measure(what, rounds)
        card = CARDS.get(what, what.value)
        rows = [(figure.name, _text(figure), figure.count) for figure in measured]
        for name, value, count in rows:
            table.add_row(card, name, value, str(count))
        if write:
            when = (
                f"Measured on fresh scenes by `python scripts/measure_emoji.py`, torch {torch.__version__}."
            )
            write_figures(MODELS / card / "README.md", rows, when)
            _save_sheets(sampled)
    console.print(table)


def _text(figure: Figure) -> str:
    if figure.unit == "dB":
        return f"{figure.value:.1f} dB"
    if figure.unit == "mean":
        return f"{figure.value:.3f}"
    low, high = wilson(round(figure.value * figure.count), figure.count)
    return f"{figure.value:.3f} ({low:.3f} to {high:.3f})"


def _measure(what: What, rounds: int) -> tuple[list[Figure], list[Sampled]]:
    if what is What.SAMPLING:
        return measures.measure_sampling(rounds, progress=console.print)
    if what is What.DETR:
        return families.measure_detr(), [families.show_boxes()]
    alone = {
        What.VAE: measures.measure_vae,
        What.CLIP: measures.measure_clip,
        What.JUDGE: measures.measure_judge,
        What.CLASSIFIER: measures.measure_classifier,
        What.CHEATER: measures.measure_cheater,
        What.RESNET: families.measure_resnet,
        What.VISUAL_BERT: families.measure_visual_bert,
        What.LXMERT: families.measure_lxmert,
        What.BERT: families.measure_bert,
    }
    return alone[what](), []


def _save_sheets(sampled: list[Sampled]) -> None:
    from heedful.emoji.training.export import lay_out

    for one in sampled:
        path = PICTURES / f"emoji-{one.kind.replace(' ', '-')}.png"
        wide = one.images[0].width > 64
        lay_out(one.images[:48], path, columns=6 if wide else 12, scale=1 if wide else 2)
        console.print(f"wrote {path}")


if __name__ == "__main__":
    app()
