"""Makes the tables and pictures of docs/feature-visualisation.md of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..explain.evaluation.intervals import Estimate, mean, median, share
from ..explain.probing.draw_features import beside_scenes, feature_sheet, kinds_sheet, strongest
from ..explain.probing.features import Visualisation
from ..explain.probing.units import KINDS, Feature, patch_activations
from .marks import write_between_marks

if TYPE_CHECKING:
    from ..emoji.world import Scene

MARKS: Final = ("<!-- features figures: begin -->", "<!-- features figures: end -->")
TOP: Final = 20
"""Scenes that count as a feature's own."""
TITLES: Final = {"classifier": "classifier", "clip": "CLIP"}
FAR: Final = 3.0
"""Standard deviations over scenes by which an image is far above the best of them."""


@dataclass(frozen=True, eq=False)
class Raised:
    """What features answered to their images, in standard deviations of the scenes above their mean.

    Attributes:
        layers: of each feature.
        made: of the image made for it.
        best: of the scene that moves it most.
    """

    layers: Int[np.ndarray, "feature"]
    made: Float[np.ndarray, "feature"]
    best: Float[np.ndarray, "feature"]

    def row(self, name: str) -> str:
        """A line of the table."""
        above, far = share(self.made > self.best), share(self.made > self.best + FAR)
        return (
            f"| {name} | {len(self.made)} | {_percent(above)} | {_percent(far)} | "
            f"{_number(median(self.made), 1)} | {_number(median(self.best), 1)} |"
        )

    def of_layer(self, layer: int) -> Raised:
        """The features of one layer."""
        own = self.layers == layer
        return Raised(self.layers[own], self.made[own], self.best[own])


def write(out: Path, docs: Path) -> None:
    """Write the tables between the marks of the page, and its pictures beside it.

    Raises:
        ValueError: a page without marks.
        FileNotFoundError: parts that were not measured yet.
    """
    from . import measure_features as measured

    rows = Found(out)
    text = "\n\n".join(
        [_raised(rows), _told(rows, measured), _purity(rows, measured), _isolated(out), _ablations(out)]
    )
    write_between_marks(docs / "feature-visualisation.md", text, MARKS)
    _pictures(rows, measured, docs / "pictures")


class Found:
    """The files of a run: visualisations by model, recipe and kind; strengths of scenes by feature."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.made: dict[tuple[str, str, str], list[Visualisation]] = {}
        for path in sorted(out.glob("*-*-*-*.safetensors")):
            model, recipe, _, kind = path.stem.split("-")
            self.made.setdefault((model, recipe, kind), []).append(Visualisation.load(path))
        self.scenes = {
            path.stem.split("-")[1]: load_file(path)["strengths"]
            for path in out.glob("strengths-*.safetensors")
        }

    def joined(self, model: str, recipe: str, kind: str) -> Visualisation:
        """All layers as one result."""
        return joined(self.made[model, recipe, kind])

    def columns(self, model: str, features: Sequence[Feature]) -> Float[Tensor, "image feature"]:
        """What the scenes do to these features."""
        width, other = self._widths(model)
        each = width + other * (len(KINDS) - 1)
        places = [
            one.layer * each
            + (0 if one.kind == KINDS[0] else width + other * (KINDS.index(one.kind) - 1))
            + one.channel
            for one in features
        ]
        return self.scenes[model][:, places]

    def raised(self, model: str, recipe: str, kind: str) -> Raised:
        """The features of one kind, measured by the scenes."""
        made = self.joined(model, recipe, kind)
        scenes = self.columns(model, made.features).double().numpy()
        centre, spread = scenes.mean(0), scenes.std(0)
        return Raised(
            np.array([one.layer for one in made.features]),
            (np.array(made.strengths) - centre) / spread,
            (scenes.max(0) - centre) / spread,
        )

    def of(self, model: str, layer: int, kind: str) -> Float[Tensor, "image feature"]:
        """What the scenes do to all features of a layer."""
        width, other = self._widths(model)
        count = width if kind == KINDS[0] else other
        return self.columns(model, [Feature(layer, channel, kind) for channel in range(count)])

    def _widths(self, model: str) -> tuple[int, int]:
        """Channels of a feed-forward layer and of queries, of the embedded models: 4 to 1, of 6 layers."""
        unit = self.scenes[model].shape[1] // (6 * 7)
        return 4 * unit, unit


def joined(parts: Sequence[Visualisation]) -> Visualisation:
    """Results of one model and recipe as one, in the order of layers and kinds."""
    ordered = sorted(parts, key=lambda one: (one.features[0].layer, KINDS.index(one.features[0].kind)))
    images = torch.cat([one.images for one in ordered])
    tuples: dict[str, Any] = {
        name: tuple(value for one in ordered for value in getattr(one, name))
        for name in ("features", "strengths", "begun")
    }
    return replace(ordered[0], images=images, **tuples)


def information(
    strengths: Float[Tensor, "image feature"], labels: Int[Tensor, "image"], top: int = TOP
) -> Float[np.ndarray, "feature"]:
    """For each feature, which share of the images that move it most has the commonest label among them."""
    first = labels[strengths.topk(top, dim=0).indices]
    counts = torch.nn.functional.one_hot(first, int(labels.max()) + 1).sum(0)
    return (counts.amax(1) / top).double().numpy()


def by_chance(labels: Int[Tensor, "image"], top: int = TOP, draws: int = 2000) -> Float[np.ndarray, "draw"]:
    """The same share of images that were drawn blindly."""
    generator = torch.Generator().manual_seed(0)
    blind = torch.rand(len(labels), draws, generator=generator)
    return information(blind, labels, top)


def _raised(rows: Found) -> str:
    lines = [
        "| what | features | above the best scene | by 3 deviations more | made for it | best scene |",
        "|---|---|---|---|---|---|",
    ]
    feed = rows.raised("classifier", "tuned", KINDS[0])
    lines += [rows.raised("classifier", "tuned", kind).row(kind.replace("_", "-")) for kind in KINDS]
    lines += [feed.of_layer(layer).row(f"feed-forward, layer {layer}") for layer in range(6)]
    others = {
        ("classifier", "published"): "feed-forward, colours shifted and noise as published",
        ("clip", "tuned"): "feed-forward, CLIP's image tower",
        ("random", "tuned"): "feed-forward, the classifier with random weights",
    }
    lines += [rows.raised(*key, KINDS[0]).row(name) for key, name in others.items()]
    return "\n".join(lines)


def _told(rows: Found, measured: Any) -> str:
    made = rows.joined("classifier", "tuned", KINDS[0])
    recipe = made.recipe
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    return (
        f"Above: {measured.COUNT} scenes of one subject (seed {measured.SEED}); {recipe.steps} steps, "
        f"{recipe.copies} copies, rate {recipe.rate:g}, colour {recipe.colour:g}, noise {recipe.noise:g}, "
        f"jitter {recipe.jitter:.3f}, variation {recipe.variation:g}; seed {made.seed}; channels drawn at "
        "random. Shares are in percent; the last two columns are medians over features, in standard "
        "deviations over the scenes above their mean; all intervals are 95 %. "
        f"{versions}, float32, CPU."
    )


def _purity(rows: Found, measured: Any) -> str:
    labels = measured.labels_of(list(_drawn()))
    chance = by_chance(labels).mean()
    lines = [
        f"| layer | {' | '.join(kind.replace('_', '-') for kind in KINDS)} | feed-forward, random weights |",
        "|---|" + "---|" * (len(KINDS) + 1),
    ]
    for layer in range(6):
        cells = [_number(mean(information(rows.of("classifier", layer, kind), labels)), 2) for kind in KINDS]
        cells.append(_number(mean(information(rows.of("random", layer, KINDS[0]), labels)), 2))
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(
        [
            f"Of the {TOP} scenes that move a feature most, the share with the commonest subject; mean over "
            f"all channels of a layer of the classifier. {TOP} scenes drawn blindly have {chance:.2f}:",
            "",
            *lines,
        ]
    )


def _isolated(out: Path) -> str:
    alone, placed = (
        {model: json.loads((out / f"{name}-{model}.json").read_text(encoding="utf-8")) for model in TITLES}
        for name in ("isolated", "placed")
    )
    heads = [f"{what}, {title}" for what in ("alone", "subject", "another's") for title in TITLES.values()]
    lines = [f"| layer | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for layer in alone["classifier"]:
        values = [alone[model][layer] for model in TITLES]
        values += [placed[model][layer][whose] for whose in ("own", "other") for model in TITLES]
        lines.append(f"| {layer} | {' | '.join(_number(agreement(one), 2) for one in values)} |")
    images = len(alone["classifier"]["0"]), len(placed["classifier"]["0"]["own"])
    return "\n".join(
        [
            "Where features are, over 32 feed-forward features a layer. *Alone*: rank correlation of a "
            "feature's map over the whole image with its map over patches that are each shown alone "
            f"({images[0]} scenes). *Subject*: how well the map tells the subject's patches from the others "
            f"(area under the curve, whichever are higher; {images[1]} scenes), and, for comparison, the "
            "patches of the next scene's subject. Means over features, intervals over scenes:",
            "",
            *lines,
        ]
    )


def agreement(values: Sequence[Sequence[float]]) -> Estimate:
    """The mean over images of the mean over an image's features; NaN does not count."""
    table = np.array(values, dtype=float)
    return mean(np.nanmean(table, axis=1))


def _ablations(out: Path) -> str:
    found = ablations(out)
    names = list(dict.fromkeys(name for right in found.values() for name in right))
    lines = [f"| condition | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for name in names:
        cells = [_percent(share(right[name])) if name in right else "" for right in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "Scenes of one subject that are classified rightly, in percent:\n\n" + "\n".join(lines)


def ablations(out: Path) -> dict[str, dict[str, np.ndarray]]:
    """Which scenes each model has right, by condition."""
    titles = {"classifier": "classifier (ViT)", "judge": "judge (ViT)", "resnet": "ResNet"}
    found = {}
    for model, title in titles.items():
        told = json.loads((out / f"ablation-{model}.json").read_text(encoding="utf-8"))
        found[title] = {name: np.array(right) for name, right in told["right"].items()}
    return found


def _pictures(rows: Found, measured: Any, folder: Path) -> None:
    made = rows.joined("classifier", "tuned", KINDS[0])
    _save(
        feature_sheet(made, "feed-forward features of the embedded classifier", side=96),
        folder / "features.png",
    )
    clip = rows.joined("clip", "tuned", KINDS[0])
    _save(
        feature_sheet(clip, "feed-forward features of the embedded CLIP", side=96),
        folder / "features-clip.png",
    )
    every = joined([one for kind in KINDS for one in rows.made["classifier", "tuned", kind]])
    _save(kinds_sheet(every, 2, side=80), folder / "features-kinds.png")
    _save(_beside(rows, measured, every), folder / "features-scenes.png")
    from ..explain.probing.plots import save

    save(low_pass_plot(ablations(rows.out), _cutoffs(measured)), folder / "features-low-pass.png")


def _beside(rows: Found, measured: Any, every: Visualisation) -> Image.Image:
    """One feature a layer beside the two scenes that move it most."""
    from ..emoji.judge import to_tensor

    feed = [place for place, one in enumerate(every.features) if one.kind == KINDS[0]]
    own = [next(place for place in feed if every.features[place].layer == layer) for layer in range(6)]
    features = tuple(every.features[place] for place in own)
    few = replace(
        every,
        images=every.images[own],
        features=features,
        strengths=tuple(every.strengths[place] for place in own),
        begun=tuple(every.begun[place] for place in own),
    )
    pictures = [Image.fromarray(one.image) for one in _drawn()]
    places = strongest(rows.columns("classifier", features), features, 2)
    model = measured.LOADERS["classifier"]()
    maps = [
        patch_activations(model, to_tensor([pictures[place] for place in each]), [feature])[:, 0]
        for feature, each in zip(features, places, strict=True)
    ]
    shown = [[pictures[place] for place in each] for each in places]
    return beside_scenes(few, shown, maps, "what moves a feature most", side=96)


def low_pass_plot(found: Mapping[str, Mapping[str, np.ndarray]], cutoffs: Sequence[float]) -> Any:
    """Accuracy of each model over the highest frequency that is left, with intervals."""
    from ..explain.probing.plots import COLOURS, empty

    figure, axes = empty(5.2, 3.2)
    for colour, (title, right) in zip(COLOURS, found.items(), strict=False):
        cells = [share(right[f"low pass {cutoff:g}"]) for cutoff in cutoffs] + [share(right["as it is"])]
        reach = np.array([[one.value - one.low, one.high - one.value] for one in cells]).T
        values = [one.value for one in cells]
        axes[0, 0].errorbar(
            [*cutoffs, 1.0],
            values,
            yerr=reach,
            label=title,
            color=colour,
            capsize=2,
            marker="o",
            markersize=3,
        )
    axes[0, 0].set_xlabel("highest frequency left (1: the image as it is)", fontsize=8)
    axes[0, 0].set_ylabel("classified rightly", fontsize=8)
    axes[0, 0].legend(fontsize=7, frameon=False)
    return figure


def _cutoffs(measured: Any) -> tuple[float, ...]:
    from ..explain.probing.ablation import CUTOFFS

    return tuple(sorted(CUTOFFS))


@cache
def _drawn() -> tuple[Scene, ...]:
    from ..emoji.world import scenes
    from . import measure_features as measured

    return tuple(scenes(measured.SEED, measured.COUNT, subjects=1))


def _save(image: Image.Image, path: Path) -> None:
    image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def _percent(found: Estimate) -> str:
    return f"{100 * found.value:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})"


def _number(found: Estimate, digits: int) -> str:
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"
