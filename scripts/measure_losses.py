"""Measures how one step on the starting noise lowers each loss: `python scripts/measure_losses.py --write`.

The embedded pipeline, one prompt, some seeds: the loss at the first denoising step after `Rectify(size)`, for
sizes from nothing to a tenth of the latents' norm. It says how far a gradient can be trusted on trained
weights, and nothing of what the images show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from heedful.emoji import load_pipeline
from heedful.guidance import Objective, Rectify, RelativeStep, guide
from heedful.guidance.losses import LOSSES, Loss
from heedful.scripts.marks import write_between_marks
from rich.console import Console

DOCS = Path(__file__).resolve().parents[1] / "docs" / "losses.md"
MARKS: Final = ("<!-- step figures: begin -->", "<!-- step figures: end -->")
PROMPT: Final = "a red bow and a blue car"
BOXES: Final = {"red bow": (0.0, 0.0, 0.5, 1.0), "blue car": (0.5, 0.0, 1.0, 1.0)}
SIZES: Final = (0.0, 0.005, 0.02, 0.05, 0.1)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@app.command()
def main(
    seeds: Annotated[int, typer.Option(help="starting noises, from seed 1 on", min=1)] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    write: Annotated[bool, typer.Option(help="write the table into docs/losses.md")] = False,
) -> None:
    """Measure each loss after one step of several sizes."""
    torch.set_num_threads(threads)
    pipe = load_pipeline("cpu")
    pipe.set_progress_bar_config(disable=True)
    lines = [
        f'"{PROMPT}", the mean of {seeds} seeds, float32.',
        "",
        f"| loss at the first step after `Rectify(size)`, size | {_row(f'{size:g}' for size in SIZES)} |",
        "|---" * (1 + len(SIZES)) + "|",
    ]
    for name, loss in LOSSES.items():
        if name == "retention":  # it has nothing to compare with at the first step
            continue
        values = [_mean(pipe, loss, size, range(1, 1 + seeds)) for size in SIZES]
        lines.append(f"| `{name}` | {_row(f'{value:.3f}' for value in values)} |")
        console.print(lines[-1], markup=False, soft_wrap=True)
    if write:
        write_between_marks(DOCS, "\n".join(lines), MARKS)


def _row(cells: Iterable[str]) -> str:
    return " | ".join(cells)


def _mean(pipe: Any, loss: Loss, size: float, seeds: Sequence[int]) -> float:
    return sum(_after(pipe, loss, size, seed) for seed in seeds) / len(seeds)


def _after(pipe: Any, loss: Loss, size: float, seed: int) -> float:
    objective = Objective([loss], words=list(BOXES), boxes=BOXES, step=RelativeStep(0.0), start=Rectify(size))
    with guide(pipe, objective) as session:
        pipe(
            PROMPT,
            num_inference_steps=1,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        )
    return session.run.steps[0].losses[0]


if __name__ == "__main__":
    app()
