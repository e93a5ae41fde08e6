"""Measures which cross-attention carries places: `python scripts/measure_cross_attention.py --write`.

Rendered scenes have true masks. Each is encoded, noised to ten timesteps with noise of its own, and seen by
the embedded denoiser once a timestep, under its own caption; the maps of its words meet its masks. Nothing is
sampled, so that no word can have been neglected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from heedful.emoji import load_pipeline
from heedful.emoji.judge import to_tensor
from heedful.emoji.world import Scene, scenes
from heedful.explain.evaluation.intervals import Estimate, mean, paired
from heedful.guidance.denoiser import DenoiserCall
from heedful.guidance.layers import Layer, choose, cross_attention_layers
from heedful.guidance.maps import AttentionMaps
from heedful.guidance.places import Places, places
from heedful.guidance.results import library_versions
from heedful.guidance.tokens import Span, find_spans
from heedful.pictures import Tile, overlay, scaled, sheet
from heedful.scripts.marks import write_between_marks
from heedful.scripts.methods_plots import COLOURS
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
MARKS: Final = ("<!-- place figures: begin -->", "<!-- place figures: end -->")
ALL: Final = "mean of all"
READ: Final = "mean of those that `guide` reads"
KINDS: Final = ("noun, its own mask", "noun, the other's mask", "colour, its subject's mask")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Row:
    """A map of one word of one scene, and the mask that it is compared with."""

    scene: int
    span: Span
    mask: Tensor
    kind: int
    """Of `KINDS`."""


@app.command()
def main(
    count: Annotated[int, typer.Option(help="scenes of two subjects", min=4)] = 200,
    seed: Annotated[int, typer.Option(help="of the scenes and their noise")] = 900,
    steps: Annotated[int, typer.Option(help="timesteps, evenly spread", min=1)] = 10,
    batch: Annotated[int, typer.Option(help="scenes at once")] = 20,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    out: Annotated[
        Path, typer.Option(help="where scores are kept; what is there is not measured again")
    ] = Path("runs/cross-attention"),
    write: Annotated[bool, typer.Option(help="write docs/cross-attention.md and its pictures")] = False,
) -> None:
    """Compare the maps of the words of rendered scenes with the scenes' masks."""
    torch.set_num_threads(threads)
    pipe = load_pipeline("cpu")
    pipe.scheduler.set_timesteps(steps)
    drawn = list(scenes(seed, count, subjects=2))
    rows = [row for number, one in enumerate(drawn) for row in rows_of(pipe, one, number)]
    out.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in track(range(0, count, batch), description="looking at scenes"):
        file = out / f"{seed}-{steps}-{start}-{min(batch, count - start)}.safetensors"
        if not file.exists():
            own = [row for row in rows if start <= row.scene < start + batch]
            save_file(scored(pipe, drawn[start : start + batch], own, seed), file)
        parts.append(load_file(file))
    told = joined(parts, rows, [float(step) for step in pipe.scheduler.timesteps])
    text = report(told, rows, seed)
    print(text)
    if write:
        write_between_marks(DOCS / "cross-attention.md", text, MARKS)
        plot(told, rows).savefig(DOCS / "pictures" / "cross-attention.png", dpi=120)
        shown = example(told, rows, drawn[0], kept(parts[0], "maps"))
        shown.save(DOCS / "pictures" / "cross-attention-maps.png", optimize=True)


def scored(pipe: Any, drawn: Sequence[Scene], rows: Sequence[Row], seed: int) -> dict[str, Tensor]:
    """The scores of some scenes by measure and layer, and the maps of the first one."""
    maps = look(pipe, drawn, rows, rows[0].scene, seed)
    found = places(maps, [row.mask for row in rows])
    first = sum(row.scene == rows[0].scene for row in rows)
    numbers = {f"auc/{name}": each for name, each in found.auc.items()}
    numbers |= {f"focus/{name}": each for name, each in found.focus.items()}
    numbers |= {f"maps/{name}": each[:, :first].clone() for name, each in maps.items()}
    return {name: each.contiguous() for name, each in numbers.items()}


def kept(part: Mapping[str, Tensor], measure: str) -> dict[str, Tensor]:
    """By layer, in the order in which the layers run; a file has them by the alphabet."""
    names = [name.removeprefix("auc/") for name in part if name.startswith("auc/")]
    order = ("down", "mid", "up", READ, ALL)
    names.sort(key=lambda name: ([name.startswith(each) for each in order].index(True), name))
    return {name: part[f"{measure}/{name}"] for name in names}


def joined(parts: Sequence[Mapping[str, Tensor]], rows: Sequence[Row], steps: Sequence[float]) -> Places:
    """The scores of all scenes as one value."""
    auc, focus = (
        {
            name: torch.cat([kept(part, measure)[name] for part in parts], 1)
            for name in kept(parts[0], measure)
        }
        for measure in ("auc", "focus")
    )
    areas = torch.tensor([float(row.mask.mean()) for row in rows])
    return Places(tuple(row.span.label for row in rows), auc, focus, areas, tuple(steps))


def rows_of(pipe: Any, drawn: Scene, number: int) -> Iterator[Row]:
    """Each subject's noun with its own and with the other's mask, and its colour where the caption has it."""
    masks = {one.name: torch.from_numpy(one.mask).double() for one in drawn.subjects}
    for name, colour in drawn.named:
        other = next(each for each in masks if each != name)
        (noun,) = find_spans(pipe.tokenizer, drawn.caption, [name])
        yield Row(number, noun, masks[name], 0)
        yield Row(number, noun, masks[other], 1)
        if colour is not None:
            (both,) = find_spans(pipe.tokenizer, drawn.caption, [f"{colour} {name}"])
            kept = tuple(index for index in both.indices if index not in noun.indices)
            yield Row(number, Span(colour, kept), masks[name], 2)


@torch.no_grad()
def look(pipe: Any, drawn: Sequence[Scene], rows: Sequence[Row], first: int, seed: int) -> dict[str, Tensor]:
    """By layer the maps (step, row, head, height, width) of these scenes, and two means over layers."""
    pixels = to_tensor([Image.fromarray(one.image) for one in drawn])
    clean = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
    generator = torch.Generator().manual_seed(seed * 1_000_000 + first)
    noise = torch.randn(clean.shape, generator=generator)
    text, _ = pipe.encode_prompt([one.caption for one in drawn], "cpu", 1, False)
    layers = cross_attention_layers(pipe.unet)
    kept: dict[str, list[Tensor]] = {}
    for step in pipe.scheduler.timesteps:
        latents = pipe.scheduler.add_noise(clean, noise, step.repeat(len(clean)))
        arguments = {"sample": latents, "timestep": step, "encoder_hidden_states": text}
        maps = DenoiserCall(pipe.unet, arguments).attention(latents, layers)
        for name, each in summed(maps, layers, (latents.shape[-2], latents.shape[-1])).items():
            kept.setdefault(name, []).append(words_of(each, rows, first))
    return {name: torch.stack(each) for name, each in kept.items()}


def summed(maps: AttentionMaps, layers: Sequence[Layer], grid: tuple[int, int]) -> dict[str, Tensor]:
    """The layers by short names, and beside them two means: of all, and of those that guidance reads."""
    known = {
        f"{short(name)}, {layer.shape[2]}x{layer.shape[3]}": layer for name, layer in maps.layers.items()
    }
    read = [layer.name for layer in choose(layers, grid)]
    known[READ] = maps.select(read).mean()[:, None]
    known[ALL] = maps.mean(grid)[:, None]
    return known


def words_of(layer: Tensor, rows: Sequence[Row], first: int) -> Tensor:
    """(row, head, height, width): each word's tokens summed."""
    return torch.stack([layer[row.scene - first][..., list(row.span.indices)].sum(-1) for row in rows])


def short(name: str) -> str:
    """`up_blocks.1.attentions.0.transformer_blocks.0.attn2` as `up 1.0`."""
    parts = [part for part in name.split(".") if part.isdecimal()]
    block = name.split("_")[0]
    return block if block == "mid" else f"{block} {parts[0]}.{parts[1]}"


def report(told: Places, rows: Sequence[Row], seed: int) -> str:
    """The text between the marks."""
    count = rows[-1].scene + 1
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    per = [sum(row.kind == kind for row in rows) for kind in range(3)]
    lines = [
        f"{count} scenes of two subjects (seed {seed}), {per[0]} nouns, {per[2]} words for colours, "
        f"timesteps {', '.join(f'{step:.0f}' for step in told.steps)}, float32, CPU; {versions}. "
        f"A subject's mask is {100 * float(told.areas.mean()):.0f} % of the image in the mean. AUC, the mean "
        "over steps, heads and words, with 95 % intervals by bootstrap over scenes; a layer's is the mean of "
        "its heads' own, those of the last two rows are of one map, the mean of many heads'.",
        "",
        f"| layer, grid | {KINDS[0]} | noun, focus | {KINDS[1]} | {KINDS[2]} | best step (t) | best head "
        "| worst head |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_layer_line(told, rows, name) for name in told.layers]
    return "\n".join([*lines, "", *_by_step(told, rows), "", *_selection(told, rows)])


def _layer_line(told: Places, rows: Sequence[Row], name: str) -> str:
    own, other, colour = (_scenes(told, rows, name, kind) for kind in range(3))
    focus = _scenes(told, rows, name, 0, "focus")
    nouns = told.auc[name][:, _of_kind(rows, 0)]
    steps, heads = nouns.mean((1, 2)), nouns.mean((0, 1))
    best = int(steps.argmax())
    cells = [name, *(_cell(each) for each in (own, focus, other, colour))]
    cells += [f"{_number(float(steps[best]))} ({told.steps[best]:.0f})"]
    single = len(heads) == 1
    cells += ["", ""] if single else [_number(float(heads.max())), _number(float(heads.min()))]
    return f"| {' | '.join(cells)} |"


def _by_step(told: Places, rows: Sequence[Row]) -> list[str]:
    """The mean of all layers and heads, step by step."""
    lines = [
        f"| {ALL}, AUC at t = | {' | '.join(f'{step:.0f}' for step in told.steps)} |",
        "|---" * (1 + len(told.steps)) + "|",
    ]
    for kind, name in enumerate(KINDS):
        values = told.auc[ALL][:, _of_kind(rows, kind), 0].mean(1).tolist()
        lines.append(f"| {name} | {' | '.join(map(_number, values))} |")
    return lines


def _selection(told: Places, rows: Sequence[Row]) -> list[str]:
    """Heads chosen on one half of the scenes and seen on the other, so that choosing is not counted."""
    half = (rows[-1].scene + 1) // 2
    first = [index for index in _of_kind(rows, 0) if rows[index].scene < half]
    second = [index for index in _of_kind(rows, 0) if rows[index].scene >= half]
    heads = {
        (layer, head): found[:, first, head].mean()
        for layer, found in told.auc.items()
        if layer not in (ALL, READ)
        for head in range(found.shape[2])
    }
    layer, head = max(heads, key=lambda each: float(heads[each]))
    chosen = _grouped(told.auc[layer][:, second, head].mean(0), [rows[index].scene for index in second])
    lines = [
        f"The best of {len(heads)} heads on the first {half} scenes is head {head} of {layer}; on the other "
        f"{rows[-1].scene + 1 - half} its AUC is {_cell(mean(chosen))}. Beside it there:"
    ]
    for name in (ALL, READ):
        other = _grouped(told.auc[name][:, second, 0].mean(0), [rows[index].scene for index in second])
        apart = paired(chosen, other)
        lines.append(
            f"- {name}: {_cell(mean(other))}; the head's advantage is {apart.value:+.3f} "
            f"({apart.low:+.3f} to {apart.high:+.3f})."
        )
    return [lines[0], "", *lines[1:]]


def _scenes(told: Places, rows: Sequence[Row], name: str, kind: int, measure: str = "auc") -> Estimate:
    found = getattr(told, measure)[name]
    chosen = _of_kind(rows, kind)
    return mean(_grouped(found[:, chosen].mean((0, 2)), [rows[index].scene for index in chosen]))


def _grouped(values: Tensor, scenes_of: Sequence[int]) -> np.ndarray:
    """The mean of each scene: its words are no independent rows."""
    groups: dict[int, list[float]] = {}
    for value, number in zip(values.tolist(), scenes_of, strict=True):
        groups.setdefault(number, []).append(value)
    return np.array([np.mean(own) for own in groups.values()])


def _of_kind(rows: Sequence[Row], kind: int) -> list[int]:
    return [index for index, row in enumerate(rows) if row.kind == kind]


def _cell(found: Estimate) -> str:
    return f"{_number(found.value)} ({_number(found.low)} to {_number(found.high)})"


def _number(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def plot(told: Places, rows: Sequence[Row]) -> Any:
    """Layers by steps, and layers by heads, for nouns against their own masks."""
    from matplotlib.figure import Figure

    nouns = _of_kind(rows, 0)
    layers = [name for name in told.layers if name not in (ALL, READ)]
    steps = torch.stack([told.auc[name][:, nouns].mean((1, 2)) for name in layers])
    heads = torch.stack([told.auc[name][:, nouns].mean((0, 1)) for name in layers])
    drawn = Figure(figsize=(9.4, 3.4), layout="constrained")
    left, middle, right = drawn.subplots(1, 3, width_ratios=[1.35, 0.75, 1])
    for axes, values, across, title in (
        (left, steps, [f"{step:.0f}" for step in told.steps], "timestep (noise on the left)"),
        (middle, heads, [str(head) for head in range(heads.shape[1])], "head, mean of all steps"),
    ):
        image = axes.imshow(values.numpy(), vmin=0.5, vmax=1, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(across)), across, fontsize=6, rotation=45)
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        axes.set_xlabel(title, fontsize=7)
    bar = drawn.colorbar(image, ax=middle, shrink=0.8)
    bar.set_label("AUC, noun against its own mask", fontsize=6)
    bar.ax.tick_params(labelsize=6)
    _plot_kinds(right, told, rows)
    return drawn


def _plot_kinds(axes: Any, told: Places, rows: Sequence[Row]) -> None:
    for kind, name in enumerate(KINDS):
        values = told.auc[ALL][:, _of_kind(rows, kind), 0].mean(1)
        axes.plot(told.steps, values.tolist(), color=COLOURS[kind], label=name, marker="o", markersize=3)
    axes.axhline(0.5, color="#9a9aa2", linewidth=0.8, linestyle="--")
    axes.invert_xaxis()
    axes.set_xlabel("timestep", fontsize=7)
    axes.set_ylabel("AUC, mean of all layers and heads", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def example(told: Places, rows: Sequence[Row], drawn: Scene, maps: Mapping[str, Tensor]) -> Image.Image:
    """The first scene: its nouns in the mean of all layers, the best and the worst layer, at three steps."""
    nouns = [index for index in _of_kind(rows, 0) if rows[index].scene == 0]
    scores = {
        name: float(told.auc[name][:, _of_kind(rows, 0)].mean())
        for name in told.layers
        if name not in (ALL, READ)
    }
    shown = [ALL, max(scores, key=lambda each: scores[each]), min(scores, key=lambda each: scores[each])]
    steps = [0, len(told.steps) // 2, len(told.steps) - 2]
    image = Image.fromarray(drawn.image)
    lines = [
        [
            Tile(
                overlay(image, scaled(maps[name][step, index].mean(0))),
                f"AUC {_auc(told, name, step, index)}",
            )
            for index in nouns
            for step in steps
        ]
        for name in shown
    ]
    labels = [f"{rows[index].span.label}, t = {told.steps[step]:.0f}" for index in nouns for step in steps]
    return sheet(lines, row_labels=shown, column_labels=labels, title=drawn.caption, side=128)


def _auc(told: Places, name: str, step: int, index: int) -> str:
    return _number(float(told.auc[name][step, index].mean()))


if __name__ == "__main__":
    app()
