"""Measures guided masked-image pre-training against random masks: `python scripts/measure_masking.py run`.

Three maskings of one budget: random, concentrated patches hidden more readily, empty patches hidden more
readily. A seed has one start, one order of images and one set of held-out masks for all three, so that they
are compared in pairs. A row a training goes into runs/masking/rows.jsonl.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import torch
import typer
from heedful.emoji.judge import to_tensor
from heedful.emoji.vocabulary import SUBJECTS
from heedful.emoji.world import Scene, scenes
from heedful.explain.probing.plots import COLOURS, empty, save
from heedful.explain.probing.pretraining import (
    Budget,
    Pretraining,
    encoded,
    pretrain,
    probe_accuracy,
    steps_to,
)
from heedful.explain.probing.sift import concentration
from heedful.scripts.emoji_figures import line
from heedful.scripts.marks import write_between_marks
from heedful.scripts.settings import UsageError
from PIL import Image
from rich.console import Console
from scipy import stats
from transformers import ViTMAEConfig, ViTMAEForPreTraining

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS: Final = "<!-- masking: begin -->", "<!-- masking: end -->"
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


@app.command()
def write(
    out: Annotated[Path, typer.Option(help="folder of the rows")] = FOLDER,
    document: Annotated[Path | None, typer.Option(help="a document with the marks")] = None,
) -> None:
    """Print tables of the rows, or write them into a document and draw the curves beside it."""
    rows = _rows(out)
    whole = [seed for seed in sorted({row["seed"] for row in rows}) if _complete(rows, seed)]
    if len(whole) < 2:
        raise UsageError(
            f"{out} holds {len(whole)} seeds with all maskings; wanted are at least 2: run first"
        )
    kept = [row for row in rows if row["seed"] in whole]
    text = "\n\n".join(_tables(kept, whole))
    print(text)
    if document is not None:
        write_between_marks(document, text, MARKS)
        save(_curves(kept), document.parent / "pictures" / "sift-masking.png")


def _complete(rows: list[Row], seed: int) -> bool:
    return {row["masking"] for row in rows if row["seed"] == seed} == set(STRENGTHS)


def _tables(rows: list[Row], seeds: list[int]) -> Iterator[str]:
    settings = rows[0]["settings"]
    yield (
        f"{len(seeds)} seeds; {settings['steps']} steps of {settings['batch']} of {settings['images']} "
        f"scenes, {settings['ratio']:.0%} of the patches hidden; mean over seeds (95 % interval by Student's "
        "t), and the difference from random masks seed by seed."
    )
    head = ["masks in training", "loss on random masks", "difference", "steps to the random run's last loss"]
    lines = [[*head, "linear probe, %", "difference, points"]]
    random = _of(rows, "random")
    for masking in STRENGTHS:
        own = _of(rows, masking)
        loss, probe = (np.array([row[name] for row in own]) for name in ("last", "probe"))
        reached = "-" if masking == "random" else _reached(own, random)
        cells = [_mean(loss, "{:.4f}"), _apart(loss, random, "last", "{:+.4f}"), reached]
        cells += [_mean(100 * probe, "{:.1f}"), _apart(100 * probe, random, "probe", "{:+.1f}", 100)]
        lines.append([masking, *cells])
    untrained = _mean(100 * np.array([row["probe_before"] for row in random]), "{:.1f}")
    lines.append(["untrained", "-", "-", "-", untrained, "-"])
    yield _table(lines)
    yield "The last loss under each kind of masks, of the same held-out scenes:"
    lines = [["masks in training", *(f"{masking}" for masking in STRENGTHS)]]
    for masking in STRENGTHS:
        values = [[row["masked"][str(each)] for row in _of(rows, masking)] for each in STRENGTHS.values()]
        lines.append([masking, *(_mean(np.array(each), "{:.4f}") for each in values)])
    yield _table(lines)
    told = ", ".join(f"{name} {number}" for name, number in rows[0]["versions"].items())
    scenes_of = ", ".join(f"{name} {seed}" for name, seed in SEEDS.items())
    yield f"float32 on a CPU; {told}. Seeds of the scenes: {scenes_of}; of weights, order and masks {seeds}."


def _of(rows: list[Row], masking: str) -> list[Row]:
    own = sorted((row for row in rows if row["masking"] == masking), key=lambda row: row["seed"])
    return [{**row, "last": row["losses"][-1]} for row in own]


def _mean(values: np.ndarray, shape: str) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    low, high = values.mean() - half, values.mean() + half
    return f"{shape.format(values.mean())} ({shape.format(low)} to {shape.format(high)})"


def _apart(values: np.ndarray, random: list[Row], name: str, shape: str, times: float = 1) -> str:
    others = times * np.array([row[name] for row in random])
    return "-" if np.array_equal(values, others) else _mean(values - others, shape)


def _reached(own: list[Row], random: list[Row]) -> str:
    """Of each seed the step at which the run is where its random twin ends."""
    steps = [
        steps_to(
            Pretraining(row["strength"], tuple(row["steps"]), tuple(row["losses"]), {}), twin["losses"][-1]
        )
        for row, twin in zip(own, random, strict=True)
    ]
    never = sum(math.isinf(step) for step in steps)
    if never:
        there = ", ".join(f"{step:.0f}" for step in steps if not math.isinf(step))
        return f"never in {never} of {len(steps)} seeds" + (f"; else {there}" if there else "")
    return _mean(np.array(steps), "{:.0f}") if len(set(steps)) > 1 else f"{steps[0]:.0f}"


def _curves(rows: list[Row]) -> Figure:
    """The loss on random masks over the steps, and its last third: every seed thin, the mean thick."""
    figure, axes = empty(7.2, 2.9, 1, 2)
    for place, masking in enumerate(STRENGTHS):
        own = _of(rows, masking)
        losses = np.array([row["losses"] for row in own])
        for panel, begin in zip(axes.flat, (0, 2 * len(own[0]["steps"]) // 3), strict=True):
            steps = own[0]["steps"][begin:]
            panel.plot(steps, losses[:, begin:].T, color=COLOURS[place], linewidth=0.5, alpha=0.5)
            mean_ = losses[:, begin:].mean(0)
            panel.plot(steps, mean_, color=COLOURS[place], linewidth=1.8, label=masking)
            panel.set_xlabel("step", fontsize=8)
    axes[0, 0].set_ylabel("held-out loss, random masks", fontsize=8)
    axes[0, 0].legend(fontsize=7, frameon=False)
    axes[0, 1].set_title("the last third", fontsize=8)
    return figure


def _table(lines: list[list[str]]) -> str:
    return "\n".join(line(each) for each in (lines[0], ["---"] * len(lines[0]), *lines[1:]))


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
    """One row a training, also where two processes have made the same one."""
    file = out / "rows.jsonl"
    rows = [json.loads(text) for text in file.read_text().splitlines()] if file.is_file() else []
    return list({(row["masking"], row["seed"]): row for row in rows}.values())


if __name__ == "__main__":
    app()
