"""Measures how far the embedded models look: `python scripts/measure_attention.py --write`.

Three questions of the classifier, the judge and the image tower of the CLIP: how far, how sharply and at
what each layer's heads look; whether a head stays near by position, or by what is there (the same images with
their patches shuffled); and what of all that random weights have too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from heedful.emoji import load_classifier, load_clip, load_judge
from heedful.emoji.judge import to_tensor
from heedful.emoji.world import scenes
from heedful.explain.evaluation.intervals import mean
from heedful.explain.probing import draw_attention as draw
from heedful.explain.probing.embeddings import Embeddings, embeddings_of
from heedful.explain.probing.head_statistics import HeadStatistics, head_statistics
from heedful.explain.probing.heads import head_maps
from heedful.explain.probing.norms import NormRatios, norm_ratios
from heedful.pictures import Tile, sheet
from heedful.scripts.marks import check_marks, write_between_marks
from heedful.scripts.probe_attention import random_twin
from PIL import Image
from rich.console import Console
from torch import Tensor

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = DOCS / "attention-distance.md"
MARKS: Final = ("<!-- attention figures: begin -->", "<!-- attention figures: end -->")
PATCH: Final = 8
"""Pixels of a patch's side in all three."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found of one model: on scenes, on shuffled scenes, of twins with random weights."""

    heads: HeadStatistics
    shuffled: HeadStatistics
    twins: list[HeadStatistics]
    norms: NormRatios
    embeddings: Embeddings


@app.command()
def main(
    count: Annotated[int, typer.Option(help="scenes", min=2)] = 200,
    seed: Annotated[int, typer.Option(help="of the scenes")] = 700,
    twins: Annotated[int, typer.Option(help="twins with random weights, each of its own seed", min=1)] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    out: Annotated[Path, typer.Option(help="where figures of heads are kept, and not measured again")] = Path(
        "runs/attention-distance"
    ),
    write: Annotated[bool, typer.Option(help="write docs/attention-distance.md and its pictures")] = False,
) -> None:
    """Measure the heads of the embedded models on scenes of the emoji world."""
    torch.set_num_threads(threads)
    if write:
        check_marks(PAGE, MARKS)
    drawn = [Image.fromarray(one.image) for one in scenes(seed, count)]
    pixels = to_tensor(drawn)
    kept = out / f"{seed}-{count}"
    kept.mkdir(parents=True, exist_ok=True)
    found = {name: measure(model, pixels, twins, name, kept) for name, model in models().items()}
    text = report(found, count, seed, twins)
    print(text)
    if write:
        write_between_marks(PAGE, text, MARKS)
        _pictures(found, pixels, drawn[0])


def models() -> dict[str, Any]:
    """The embedded models with patches, on the CPU."""
    return {
        "classifier": load_classifier("cpu"),
        "judge": load_judge("cpu").model,
        "CLIP, image tower": load_clip("cpu")[0],
    }


def measure(model: Any, pixels: Tensor, twins: int, name: str, kept: Path) -> Measured:
    """Everything of one model; figures of heads that are in the folder are read from there."""
    with console.status(name) as status:

        def heads(of: Any, images: Tensor, what: str) -> HeadStatistics:
            file = kept / f"{name}, {what}.safetensors"
            if file.exists():
                return HeadStatistics.load(file)
            found = head_statistics(
                of,
                {"pixel_values": images},
                progress=lambda done, total: status.update(f"{name}: {what}, {done} of {total}"),
            )
            found.save(file)
            return found

        return Measured(
            heads=heads(model, pixels, "scenes"),
            shuffled=heads(model, shuffled(pixels), "shuffled scenes"),
            twins=[heads(random_twin(model, twin), pixels, f"twin {twin}") for twin in range(twins)],
            norms=norm_ratios(model, {"pixel_values": pixels}),
            embeddings=embeddings_of(model),
        )


def shuffled(pixels: Tensor, seed: int = 0) -> Tensor:
    """Every image with its patches in an order of its own: what is there stays, where it is does not."""
    rows = pixels.shape[2] // PATCH
    tiles = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(2, 3)
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.stack([one[:, torch.randperm(one.shape[1], generator=generator)] for one in tiles])
    return mixed.unflatten(2, (rows, -1)).permute(0, 1, 2, 4, 3, 5).reshape(pixels.shape)


def report(found: Mapping[str, Measured], count: int, seed: int, twins: int) -> str:
    """The text between the marks."""
    first = next(iter(found.values())).heads
    versions = ", ".join(f"{name} {number}" for name, number in first.versions.items())
    lines = [
        f"{count} scenes of 64 x 64 pixels (seed {seed}), {first.grid[0]} x {first.grid[1]} patches of "
        f"{first.patch[0]} pixels, float32, CPU; {versions}. Even attention has a distance of "
        f"{first.uniform:.1f} pixels and {np.log2(first.grid[0] * first.grid[1]):.2f} bits. 95 % intervals "
        f"by bootstrap over scenes; of random weights the least and the most of {twins} twins.",
        "",
        "| model | layer | distance | nearest head | farthest head | patches shuffled | random weights "
        "| entropy | on patches | skip / attention | skip / feed-forward |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        lines += [_line(name, each, place) for place in range(len(each.heads.layers))]
    return "\n".join([*lines, "", *_summary(found)])


def _line(name: str, found: Measured, place: int) -> str:
    heads, norms = found.heads, found.norms
    by_head = heads.distance[:, place].mean(0)
    twins = [float(twin.distance[:, place].mean()) for twin in found.twins]
    cells = [
        name if place == 0 else "",
        str(place),
        _interval(heads.distance[:, place].mean(1)),
        f"{float(by_head.min()):.1f}",
        f"{float(by_head.max()):.1f}",
        _interval(found.shuffled.distance[:, place].mean(1)),
        f"{min(twins):.1f} to {max(twins):.1f}",
        f"{float(heads.entropy[:, place].mean()):.2f}",
        f"{float(heads.on_patches[:, place].mean()):.3f}",
        f"{float(norms.attention[place, norms.specials :].mean()):.2f}",
        f"{float(norms.feed_forward[place, norms.specials :].mean()):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _summary(found: Mapping[str, Measured]) -> list[str]:
    """Local heads, and how much less far each model looks than even attention, with and without places."""
    lines = []
    for name, each in found.items():
        heads, mixed = each.heads, each.shuffled
        local, total = int(heads.local().sum()), heads.local().numel()
        short, kept = ((one.uniform - one.distance.mean((1, 2))).double().numpy() for one in (heads, mixed))
        least = float(heads.reach.min())
        lines.append(
            f"- **{name}**: {local} of {total} heads are local (reach below .5; the least is {least:.2f}). "
            f"Over all heads it looks {_short(short)} pixels less far than even attention would, on shuffled "
            f"patches {_short(kept)}, {100 * float(kept.mean() / short.mean()):.0f} % of it."
        )
    return lines


def _short(values: np.ndarray) -> str:
    found = mean(values)
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _interval(values: Tensor) -> str:
    found = mean(values.double().numpy())
    return f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f})"


def _pictures(found: Mapping[str, Measured], pixels: Tensor, image: Image.Image) -> None:
    folder = DOCS / "pictures"
    heads = {name: each.heads for name, each in found.items()}
    twins = {name: each.twins[0] for name, each in found.items()}
    draw.save(draw.statistics(heads, twins), folder / "attention-distance.png")
    draw.save(
        draw.norm_lines({name: each.norms for name, each in found.items()}), folder / "attention-norms.png"
    )
    maps = head_maps(load_classifier("cpu"), {"pixel_values": pixels[:1]})
    _save(draw.head_sheet(maps, image, side=96), folder / "attention-heads.png")
    tiles = [
        [Tile(draw.position_sheet(each.embeddings, 256), "positions") for each in found.values()],
        [Tile(draw.filter_sheet(each.embeddings, side=256), "filters") for each in found.values()],
    ]
    _save(sheet(tiles, column_labels=list(found), side=256), folder / "attention-embeddings.png")


def _save(picture: Image.Image, path: Path) -> None:
    """With few colours, so that pages load at once."""
    picture.quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    app()
