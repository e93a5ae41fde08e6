"""Measures what the embedded ViT and ResNet, trained on one task, have in common, beside random twins.

`python scripts/measure_similarity.py --write docs/similarity.md` puts tables into the page and draws its
pictures. Each measurement is kept in --out as it comes, so that a stopped run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from heedful.emoji import load_judge, load_resnet
from heedful.emoji.samples_vision import labels, one_subject, pixels
from heedful.emoji.world import scenes
from heedful.explain.probing import draw_similarity
from heedful.explain.probing.cka import Terms
from heedful.explain.probing.localisation import Localisation, localisation
from heedful.explain.probing.probes import READS, Probes, linear_probes
from heedful.explain.probing.receptive_field import ReceptiveField, receptive_field
from heedful.explain.probing.similarity import Similarity, minibatches, similarity, twin
from heedful.scripts.emoji_figures import line
from heedful.scripts.marks import write_between_marks
from heedful.scripts.terminal import quieten
from rich.console import Console
from rich.progress import Progress
from scipy import stats
from torch import Tensor, nn

MARKS: Final = "<!-- similarity: begin -->", "<!-- similarity: end -->"
SEED: Final = 8_100  # scenes that no model was trained, chosen or measured on
TWINS: Final = "random twins of both"
PAIRS: Final = {
    "ViT and ResNet": ("vit", "resnet"),
    TWINS: ("random vit", "random resnet"),
    "ViT and itself": ("vit", "vit"),
    "ResNet and itself": ("resnet", "resnet"),
    "ViT and pixels": ("vit", "pixels"),
    "ResNet and pixels": ("resnet", "pixels"),
    "random ViT and pixels": ("random vit", "pixels"),
    "random ResNet and pixels": ("random resnet", "pixels"),
}
BESIDE: Final = ("vit", "resnet", "random vit", "random resnet")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


class Pixels(nn.Module):
    """Gives the pixels as they are: what a layer has in common with them needs no training."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """The same."""
        return self.pixels(pixels)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(help="seeds of scenes and of random twins", min=2)] = 5,
    images: Annotated[int, typer.Option(help="scenes a seed", min=8)] = 256,
    out: Annotated[Path, typer.Option(help="the folder for what was measured")] = Path("runs/similarity"),
    write: Annotated[Path | None, typer.Option(help="a document with the marks")] = None,
) -> None:
    """Compare layers, and see how far they look, what tokens hold, and what probes read off them."""
    quieten()
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    with Progress(console=console) as bars:
        kept = _Kept(out, images, bars)
        sections = [
            *_compared(kept, seeds, write),
            *_reach(kept, write),
            *_held(kept, write),
            *_read(kept, write),
        ]
    text = "\n\n".join([_about(seeds, images), *sections])
    Console().print(text, markup=False, soft_wrap=True)
    if write is not None:
        write_between_marks(write, text, MARKS)


class _Kept:
    """Measurements by name: read where they were made before, else made and written."""

    def __init__(self, out: Path, images: int, bars: Progress) -> None:
        self.out, self.images, self.bars = out, images, bars

    def similarity(self, pair: str, seed: int, size: int = 32) -> Similarity:
        def make(watch: Callable[[int], None]) -> Similarity:
            one, other = (model(name, seed) for name in PAIRS[pair])
            batches = self.batches(seed, self.images, size)
            layers = "pixels" if isinstance(other, Pixels) else None
            told = {"seed": seed}
            return similarity(one, other, batches, second_layers=layers, settings=told, progress=watch)

        name = f"{pair.replace(' ', '-')}-{seed}-{self.images}-{size}"
        return self._made(Similarity, name, self.images, make)

    def receptive_field(self, name: str, seed: int, count: int = 32) -> ReceptiveField:
        def make(watch: Callable[[int], None]) -> ReceptiveField:
            return receptive_field(
                model(name, seed), self.batches(seed, count, 16), seed=seed, progress=watch
            )

        return self._made(ReceptiveField, f"reach-{name.replace(' ', '-')}-{seed}-{count}", count, make)

    def localisation(self, name: str, seed: int) -> Localisation:
        def make(watch: Callable[[int], None]) -> Localisation:
            return localisation(model(name, seed), self.batches(seed, self.images, 32), progress=watch)

        return self._made(
            Localisation, f"held-{name.replace(' ', '-')}-{seed}-{self.images}", self.images, make
        )

    def probes(self, name: str, count: int = 480) -> Probes:
        def make(watch: Callable[[int], None]) -> Probes:
            train, test = (list(_labelled(SEED + 20 + part, count)) for part in range(2))
            return linear_probes(model(name, 0), train, test, patches=2, progress=watch)

        return self._made(Probes, f"probes-{name.replace(' ', '-')}-{count}", 2 * count, make)

    def batches(self, seed: int, count: int, size: int) -> Iterator[Tensor]:
        drawn = list(scenes(SEED + seed, count))
        for part in minibatches(drawn, size):
            yield pixels(drawn[part])

    def _made(self, kind: Any, name: str, count: int, make: Callable[[Callable[[int], None]], Any]) -> Any:
        path = self.out / f"{name}.safetensors"
        if path.exists():
            return kind.load(path)
        bar = self.bars.add_task(name, total=count)
        found = make(lambda done: self.bars.update(bar, completed=done))
        found.save(path)
        return found


def model(name: str, seed: int) -> nn.Module:
    """The judge (a ViT), the ResNet of the same labels, their twins with random weights, or the pixels."""
    if name == "pixels":
        return Pixels().eval()
    trained = load_judge().model if name.endswith("vit") else load_resnet()
    return twin(trained, seed) if name.startswith("random") else trained


def _labelled(seed: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, count, 32):
        drawn = one_subject(range(start, min(start + 32, count)), seed)
        yield pixels(drawn), labels([each.subjects[0] for each in drawn])


def _about(seeds: int, images: int) -> str:
    return (
        f"Scenes with one to three subjects, {seeds} seeds of {images} scenes each (from {SEED}); random "
        f"twins are drawn anew with each seed. In brackets: 95 % intervals over seeds (Student's t). torch "
        f"{torch.__version__}, float32 on a CPU; made by `python scripts/measure_similarity.py`."
    )


# ---- which layers are alike


def _compared(kept: _Kept, seeds: int, write: Path | None) -> Iterator[str]:
    found = {pair: [kept.similarity(pair, seed) for seed in range(seeds)] for pair in PAIRS}
    shown = {pair: _pooled(found[pair]) for pair in list(PAIRS)[:4]}
    shown[TWINS] = found[TWINS][0]  # every seed has its own twins, which are not to be pooled
    if write is not None:
        _draw(draw_similarity.heatmaps(dict(list(shown.items())[:2])), write, "similarity.png")
        _draw(draw_similarity.heatmaps(dict(list(shown.items())[2:])), write, "similarity-itself.png")
    both = shown["ViT and ResNet"]
    yield "### Which layers are alike"
    rows = [
        line(
            [
                "layer of the ViT",
                "nearest of the ResNet",
                "CKA",
                "the same pair of random twins",
                "ViT and bare pixels",
            ]
        )
    ]
    rows.append(line(["---"] * 5))
    for place, (name, nearest, _) in enumerate(both.nearest()):
        column = both.layers[1].index(nearest)
        cells = [_over([each.cka[place, column] for each in found[pair]]) for pair in list(PAIRS)[:2]]
        cells.append(_over([each.cka[place, 0] for each in found["ViT and pixels"]]))
        rows.append(line([f"`{name}`", f"`{nearest}`", *cells]))
    yield "\n".join(rows)
    yield "CKA of each layer with the bare pixels:"
    rows = [line(["layer", "trained", "random twin"]), line(["---"] * 3)]
    for kind in ("ViT", "ResNet"):
        one, other = found[f"{kind} and pixels"], found[f"random {kind} and pixels"]
        for place, name in enumerate(one[0].layers[0]):
            cells = [_over([each.cka[place, 0] for each in every]) for every in (one, other)]
            rows.append(line([f"`{name}`", *cells]))
    yield "\n".join(rows)
    yield from _sizes(kept)


def _sizes(kept: _Kept) -> Iterator[str]:
    """What the size of the minibatches changes, on the scenes of the first seed."""
    whole = kept.similarity("ViT and ResNet", 0, kept.images).cka
    heads = [
        "images in a minibatch",
        "largest difference from all at once",
        "mean",
        "half of an interval, mean",
    ]
    rows = [line(heads), line(["---"] * len(heads))]
    for size in (8, 16, 32):
        one = kept.similarity("ViT and ResNet", 0, size)
        apart, (low, high) = one.cka - whole, one.interval
        cells = [f"{apart.abs().max():.3f}", f"{apart.mean():.3f}", f"{(high - low).mean() / 2:.3f}"]
        rows.append(line([str(size), *cells]))
    yield f"The size of the minibatches, over the same {kept.images} scenes, all 42 pairs of layers:"
    yield "\n".join(rows)


def _pooled(found: Sequence[Similarity]) -> Similarity:
    """All seeds as one: their terms are averaged before the ratio, as those of all minibatches are."""
    parts = [each.terms for each in found]
    terms = Terms(
        *(torch.cat([getattr(each, name) for each in parts]) for name in ("cross", "first", "second"))
    )
    return Similarity(terms, found[0].layers, found[0].models, sum(each.images for each in found))


# ---- how far layers look, what tokens hold, what probes read


def _reach(kept: _Kept, write: Path | None, seeds: int = 3) -> Iterator[str]:
    found = {name: [kept.receptive_field(name, seed) for seed in range(seeds)] for name in BESIDE}
    if write is not None:
        for name in BESIDE[:2]:
            found[name][0].picture(120).save(_pictures(write) / f"similarity-reach-{name}.png", optimize=True)
    yield "### How far a layer looks"
    yield (
        f"Mean distance, in pixels of 64 x 64, of what moves the central feature, and the share of the image "
        f"that holds half of it; {seeds} seeds of {found['vit'][0].images} scenes."
    )
    rows = [line(["layer", "distance", "random twin", "share for half", "random twin"]), line(["---"] * 5)]
    for name in BESIDE[:2]:
        trained, random = found[name], found[f"random {name}"]
        for layer in trained[0].maps:
            cells = [_over([each.reach[layer] for each in every], 1, math.inf) for every in (trained, random)]
            cells += [_over([each.half[layer] for each in every], 3) for every in (trained, random)]
            rows.append(line([f"`{layer}`", *cells]))
    yield "\n".join(rows)


def _held(kept: _Kept, write: Path | None, seeds: int = 3) -> Iterator[str]:
    names = BESIDE[:3]
    found = {name: [kept.localisation(name, seed) for seed in range(seeds)] for name in names}
    if write is not None:
        for name in names[:2]:
            found[name][0].picture(side=120).save(
                _pictures(write) / f"similarity-held-{name}.png", optimize=True
            )
    yield "### Whether a token still holds its patch"
    yield (
        f"CKA of a token with the input patch at its place, with the other patches, and how often its own is "
        f"the most alike; {seeds} seeds of {kept.images} scenes."
    )
    rows = [line(["model", "layer", "own patch", "others", "own is nearest", "by chance"]), line(["---"] * 6)]
    for name in names:
        for layer in found[name][0].cka:
            every = [each.held[layer] for each in found[name]]
            cells = [_over([getattr(one, part) for one in every]) for part in ("own", "others", "hits")]
            rows.append(line([name, f"`{layer}`", *cells, f"{every[0].chance:.3f}"]))
    yield "\n".join(rows)


def _read(kept: _Kept, write: Path | None) -> Iterator[str]:
    found = {name: kept.probes(name) for name in BESIDE[:3]}
    if write is not None:
        _draw(draw_similarity.probe_lines(found), write, "similarity-probes.png")
    first = found["vit"]
    yield "### What a linear probe reads"
    yield (
        f"Which of 24 subjects a scene with one subject shows: fitted to {first.images[0]} scenes, tested on "
        f"{first.images[1]} others (seeds {SEED + 20} and {SEED + 21}); intervals over the tested scenes. "
        f"Always the commonest subject: {first.chance:.3f}."
    )
    rows = [line(["model", "layer", "[CLS]", "mean of the patches", "one patch"]), line(["---"] * 5)]
    for name, one in found.items():
        for layer in one.accuracy["mean"]:
            cells = [one.accuracy.get(reads, {}).get(layer) for reads in READS]
            told = [f"{each.value:.2f} ({each.low:.2f}-{each.high:.2f})" if each else "" for each in cells]
            rows.append(line([name, f"`{layer}`", *told]))
    yield "\n".join(rows)


def _over(values: Sequence[Any], digits: int = 2, most: float = 1.0) -> str:
    """A mean over seeds with the ends of Student's interval, of values that are at most so large."""
    found = np.array([float(each) for each in values])
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    middle = found.mean()
    return f"{middle:.{digits}f} ({middle - half:.{digits}f} to {min(middle + half, most):.{digits}f})"


def _pictures(write: Path) -> Path:
    folder = write.parent / "pictures"
    folder.mkdir(exist_ok=True)
    return folder


def _draw(figure: Any, write: Path, name: str) -> None:
    draw_similarity.save(figure, _pictures(write) / name)


if __name__ == "__main__":
    app()
