"""Measures guided masked-image pre-training against random masks: `python scripts/measure_masking.py run`.

Three maskings of one budget: random, concentrated patches hidden more readily, empty patches hidden more
readily. A seed has one start, one order of images and one set of held-out masks for all three, so that they
are compared in pairs. A row a training goes into runs/masking/rows.jsonl.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from heedful.emoji.judge import to_tensor
from heedful.emoji.vocabulary import SUBJECTS
from heedful.emoji.world import Scene, scenes
from heedful.explain.probing.pretraining import (
    Budget,
    encoded,
    pretrain,
    probe_accuracy,
)
from heedful.explain.probing.sift import concentration
from PIL import Image
from rich.console import Console
from transformers import ViTMAEConfig, ViTMAEForPreTraining

BEGIN, END = "<!-- masking figures: begin -->", "<!-- masking figures: end -->"
FOLDER: Final = Path("runs/masking")
STRENGTHS: Final = {"random": 0.0, "concentrated hidden more": 2.0, "empty hidden more": -2.0}
SEEDS: Final = {"train": 9_410, "held out": 9_411, "probe, fit": 9_412, "probe, tested": 9_413}
CONTRAST: Final = 0.04  # OpenCV's own; an image without keypoints is masked at random
SHAPE: Final = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256,
    "decoder_hidden_size": 48, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 192, "image_size": 64, "patch_size": 8,
}  # fmt: skip
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()
Row = dict[str, Any]


@app.callback()
def about() -> None:
    """Guided masked-image pre-training against random masks."""


@app.command()
def run(
    seeds: Annotated[int, typer.Option(help="trainings of each masking", min=1)] = 5,
    first: Annotated[int, typer.Option(help="the seed to begin with", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="steps of each", min=1)] = 400,
    images: Annotated[int, typer.Option(help="scenes to train on", min=64)] = 3000,
    out: Annotated[Path, typer.Option(help="folder of the rows")] = FOLDER,
) -> None:
    """Train what is not in the rows yet, one seed after the other."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    data = {name: _data(out, name, count) for name, count in _counts(images).items()}
    for seed in range(first, seeds):
        for masking, strength in STRENGTHS.items():
            if (masking, seed) in {(row["masking"], row["seed"]) for row in _rows(out)}:
                continue
            row = _trained(masking, strength, Budget(steps=steps, seed=seed), data)
            with (out / "rows.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            console.print(masking, seed, f"loss {row['losses'][-1]:.4f}", f"probe {row['probe']:.3f}")


def _counts(images: int) -> dict[str, int]:
    return {"train": images, "held out": 512, "probe, fit": 1000, "probe, tested": 1000}


def _data(out: Path, name: str, count: int) -> dict[str, torch.Tensor]:
    """Scenes with their concentration and their first subject, drawn once."""
    path = out / f"{name.replace(', ', '-').replace(' ', '-')}-{count}.pt"
    if not path.is_file():
        only = 1 if name.startswith("probe") else None
        drawn: list[Scene] = list(scenes(SEEDS[name], count, subjects=only, pairs="any"))
        pictures = [Image.fromarray(each.image) for each in drawn]
        torch.save(
            {
                "pixels": to_tensor(pictures),
                "weights": concentration(pictures, (8, 8), contrast=CONTRAST).count.flatten(1),
                "labels": torch.tensor([SUBJECTS.index(each.subjects[0].name) for each in drawn]),
            },
            path,
        )
    return torch.load(path, weights_only=True)


def _trained(masking: str, strength: float, budget: Budget, data: dict[str, dict[str, torch.Tensor]]) -> Row:
    torch.manual_seed(budget.seed)
    model = ViTMAEForPreTraining(ViTMAEConfig(**SHAPE))
    model.set_attn_implementation("eager")  # a CPU takes half the time for it at so few tokens
    before = _probed(model, data)
    held = data["held out"]
    with console.status(masking) as status:
        course = pretrain(
            model,
            data["train"]["pixels"],
            data["train"]["weights"],
            (held["pixels"], held["weights"]),
            strength=strength,
            budget=budget,
            strengths=tuple(STRENGTHS.values()),
            shown=lambda step, all_: status.update(f"{masking}, seed {budget.seed}: step {step} of {all_}"),
        )
    told = asdict(course)
    told["masked"] = {str(key): value for key, value in course.masked.items()}
    return {"masking": masking, "seed": budget.seed, **told, "probe_before": before,
            "probe": _probed(model, data)}  # fmt: skip


def _probed(model: torch.nn.Module, data: dict[str, dict[str, torch.Tensor]]) -> float:
    parts = [
        (encoded(model, data[name]["pixels"]), data[name]["labels"])
        for name in ("probe, fit", "probe, tested")
    ]
    return float(probe_accuracy(parts[0], parts[1]).mean())


def _rows(out: Path) -> list[Row]:
    file = out / "rows.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


if __name__ == "__main__":
    app()
