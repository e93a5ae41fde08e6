"""Measures what explaining costs, as ratios in one run: `python scripts/measure_explain.py run --write`.

Two questions, each against the way it is commonly done: the generic rule of one image by the whole matrix R
with all gradients stored; many texts against one image one by one, with a backward for every layer. Random
weights at real sizes: neither time nor memory depends on them.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from heedful.explain import rules
from heedful.explain.capture import capture
from heedful.explain.methods import relevance_of
from heedful.explain.models import family_of
from heedful.scripts.marks import write_between_marks
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification

DOCS: Final = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
MARKS: Final = ("<!-- explain figures: begin -->", "<!-- explain figures: end -->")
SHAPES: Final[dict[str, dict[str, int]]] = {
    "ViT-B/16": {},
    "ViT-L/14-336": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "image_size": 336, "patch_size": 14,
    },
}  # fmt: skip
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


class Way(StrEnum):
    """How the generic rule is computed on one image."""

    ROW = "row"
    MATRIX = "matrix"


@app.command()
def run(
    texts: Annotated[int, typer.Option(help="texts against one image", min=2)] = 64,
    layers: Annotated[int, typer.Option(help="layers of both CLIP towers; 12 is CLIP ViT-B/16", min=1)] = 12,
    rounds: Annotated[int, typer.Option(help="times that each way runs, in turns; medians are shown")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
    write: Annotated[bool, typer.Option(help="write the table into docs/benchmarks.md")] = False,
) -> None:
    """Measure the generic rule by one row, and many texts against one image."""
    torch.set_num_threads(threads)
    lines = [_about(threads), "", "| what | beside | ratio |", "|---|---|---|"]
    for shape in SHAPES:
        lines += _rule_lines(shape, rounds, threads)
    lines += _text_lines(texts, layers)
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    if write:
        write_between_marks(DOCS, "\n".join(lines), MARKS)


def _about(threads: int) -> str:
    count = f"{threads} CPU thread{'s' * (threads > 1)}"
    return (
        f"{platform.machine()}, {count}, torch {torch.__version__}, float32, random weights, one image; "
        "ratios are of the second column's way over ours."
    )


def _rule_lines(shape: str, rounds: int, threads: int) -> list[str]:
    """Each way runs in a process of its own, so that its memory is its own; the ways take turns."""
    found: dict[Way, list[dict[str, float]]] = {way: [] for way in Way}
    for _ in range(rounds):
        for way in Way:
            command = [sys.executable, __file__, "one-rule", shape, way.value, "--threads", str(threads)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            found[way].append(json.loads(answer.stdout.splitlines()[-1]))
            console.print(shape, way.value, found[way][-1], markup=False)
    row, matrix = ({key: _median([one[key] for one in found[way]]) for key in found[way][0]} for way in Way)
    name = f"generic rule, one image, {shape}"
    return [
        f"| {name}: time after the forward | whole matrix R, gradients stored "
        f"| {matrix['seconds'] / row['seconds']:.2f} |",
        f"| {name}: time of the rule without the backward | the same "
        f"| {matrix['rule_seconds'] / row['rule_seconds']:.0f} |",
        f"| {name}: memory beyond the forward ({row['bytes'] / 2**20:.0f} MiB) | the same "
        f"({matrix['bytes'] / 2**20:.0f} MiB) | {matrix['bytes'] / row['bytes']:.1f} |",
    ]


@app.command()
def one_rule(shape: str, way: Way, threads: int = 2) -> None:
    """One way of the generic rule on one image; prints its seconds and bytes as JSON."""
    torch.set_num_threads(threads)
    model = ViTForImageClassification(ViTConfig(**SHAPES[shape])).eval()
    side = model.config.image_size
    with capture(model) as seen:
        score = model(pixel_values=torch.randn(1, 3, side, side)).logits[:, 0]
    maps = list(seen.attention.values())
    weights = torch.zeros(1, maps[0].shape[-1])
    weights[:, 0] = 1.0
    before = _reset_peak()
    started = time.process_time()
    _by_row(score, maps, weights) if way is Way.ROW else _by_matrix(score, maps, weights)
    seconds = time.process_time() - started
    used = _peak() - before
    cams = [each.detach().mean(1) for each in maps]
    started = time.process_time()
    if way is Way.ROW:
        rules.row_relevance(reversed(cams), weights)
    else:
        rules.self_relevance(cams)
    found = {"seconds": seconds, "rule_seconds": time.process_time() - started, "bytes": used}
    print(json.dumps(found))


def _by_row(score: Tensor, maps: list[Tensor], weights: Tensor) -> Tensor:
    with rules.RowAccumulator(maps, weights) as carried:
        torch.autograd.grad(score.sum(), maps[0], retain_graph=True)
        return carried.relevance


def _by_matrix(score: Tensor, maps: list[Tensor], weights: Tensor) -> Tensor:
    gradients = torch.autograd.grad(score.sum(), maps, retain_graph=True)
    cams = [rules.fuse(each.detach(), gradient) for each, gradient in zip(maps, gradients, strict=True)]
    return rules.row_times(weights, rules.self_relevance(cams))


def _text_lines(texts: int, layers: int) -> list[str]:
    """All texts in one call, one call a text, and one text as published: a backward for every layer."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": layers}
    model = CLIPModel(CLIPConfig(text_config=sizes, vision_config=sizes | {"patch_size": 16})).eval()
    end = model.text_model.eos_token_id
    ids = torch.randint(5, 400, (texts, 77))
    ids[:, 0], ids[:, 15:] = 49406, (end if end != 2 else 49407)
    pixels = torch.randn(1, 3, 224, 224)

    def inputs(rows: slice) -> dict[str, Tensor]:
        return {"pixel_values": pixels, "input_ids": ids[rows]}

    def together() -> None:
        relevance_of(model, family_of(model), inputs(slice(None)), None, "generic")

    def alone() -> None:
        relevance_of(model, family_of(model), inputs(slice(1)), None, "generic")

    def published() -> None:
        _published(model, inputs(slice(1)))

    ours, single, theirs = (_cost(way) for way in (together, alone, published))
    name = f"generic rule, {texts} texts against one image, CLIP ViT-B/16"
    console.print(name, ours, single, theirs, markup=False)
    lines = []
    for beside, cost in (
        ("one of our calls a text", single),
        ("one text at a time, a backward a layer, whole R", theirs),
    ):
        for unit in ("operations, counted", "seconds"):
            ratio = texts * cost[unit] / ours[unit]
            lines.append(f"| {name}: {unit} | {beside} | {ratio:.1f} |")
    return lines


def _published(model: CLIPModel, inputs: dict[str, Tensor]) -> None:
    """The notebook of Chefer et al. 2021: for each tower and layer one backward, and R <- R + cam R."""
    with capture(model) as seen:
        score = model(**inputs).logits_per_image[0, 0]
    for tower in ("vision_model", "text_model"):
        maps = [each for site, each in seen.attention.items() if site.module.startswith(tower)]
        whole = torch.eye(maps[0].shape[-1])
        for each in maps:
            (gradient,) = torch.autograd.grad(score, each, retain_graph=True)
            whole = whole + rules.fuse(each.detach(), gradient)[0] @ whole


def _cost(way: Callable[[], None]) -> dict[str, float]:
    with FlopCounterMode(display=False) as counter:
        way()
    started = time.process_time()
    way()
    return {"operations, counted": counter.get_total_flops(), "seconds": time.process_time() - started}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}: memory is measured on Linux alone")


if __name__ == "__main__":
    app()
