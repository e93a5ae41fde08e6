"""Measures feature visualisation on the embedded models: `python scripts/measure_features.py run`.

`run` leaves what it finds in runs/features, a file a part, and goes on from there; `write` makes the tables
and pictures of docs/feature-visualisation.md of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from heedful.emoji import load_classifier, load_clip, load_judge, load_resnet
from heedful.emoji.judge import to_tensor
from heedful.emoji.vocabulary import SUBJECTS
from heedful.emoji.world import Scene, scenes
from heedful.explain.evaluation.controls import randomised
from heedful.explain.probing.ablation import ablate
from heedful.explain.probing.features import Recipe, Visualisation, visualise
from heedful.explain.probing.isolated_patches import isolated_patches
from heedful.explain.probing.tower import tower_of
from heedful.explain.probing.units import KINDS, Feature, patch_activations, strengths, width_of
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

FOLDER: Final = Path("runs/features")
COUNT, SEED = 500, 7_300
"""Scenes of one subject, and their seed."""
TUNED: Final = Recipe(steps=60, copies=2, colour=0.3, noise=0.3)
PUBLISHED: Final = Recipe(steps=60, copies=2)
"""All as published but the steps (400) and copies (8), for which a CPU has no time."""
TRIED: Final = frozenset({7, 100})
"""Channels on which the recipe was tuned; they are not measured."""
ALONE: Final = 30
"""Scenes whose patches are shown alone, 64 forwards each."""
PLACED: Final = 100
"""Scenes in which features are to tell the subject's patches."""
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()


@dataclass(frozen=True)
class Part:
    """Features of one kind of one layer, made by one recipe."""

    model: str
    recipe: str
    layer: int
    kind: str
    count: int

    @property
    def file(self) -> str:
        """What its visualisation is called."""
        return f"{self.model}-{self.recipe}-{self.layer}-{self.kind}.safetensors"


PARTS: Final = tuple(
    [Part("classifier", "tuned", layer, kind, 4 if kind == "feed_forward" else 2)
     for layer in range(6) for kind in KINDS]
    + [Part(model, recipe, layer, "feed_forward", 4 if model == "clip" else 2)
       for model, recipe in (("classifier", "published"), ("clip", "tuned"), ("random", "tuned"))
       for layer in range(6)]
)  # fmt: skip
LOADERS: Final[dict[str, Callable[[], Any]]] = {
    "classifier": lambda: load_classifier("cpu", torch.float32),
    "clip": lambda: load_clip("cpu", torch.float32)[0],
    "random": lambda: randomised(load_classifier("cpu", torch.float32), 0),
    "judge": lambda: load_judge("cpu", torch.float32).model,
    "resnet": lambda: load_resnet("cpu", torch.float32),
}


@app.callback()
def about() -> None:
    """Feature visualisation and ablations on the embedded models."""


@app.command()
def run(out: Annotated[Path, typer.Option(help="folder of what is found")] = FOLDER) -> None:
    """Measure what is not there yet; some 4 minutes of one core."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    drawn = list(scenes(SEED, COUNT, subjects=1))
    pixels = to_tensor([Image.fromarray(one.image) for one in drawn])
    for model in ("classifier", "clip", "random"):
        path = out / f"strengths-{model}.safetensors"
        if not path.is_file():
            own = LOADERS[model]()
            save_file({"strengths": strengths(own, pixels, all_features(own), together=32)}, path)
            console.print("found", path.name)
    for part in PARTS:
        if not (out / part.file).is_file():
            _made(part).save(out / part.file)
            console.print("made", part.file)
    for model in ("classifier", "clip"):
        _once(out / f"isolated-{model}.json", partial(_isolated, model, pixels[:ALONE]))
        _once(out / f"placed-{model}.json", partial(_placed, model, pixels[:PLACED], drawn[:PLACED]))
    for model in ("classifier", "judge", "resnet"):
        _once(out / f"ablation-{model}.json", partial(_ablated, model, pixels, drawn))


@app.command()
def write(
    out: Annotated[Path, typer.Option(help="folder of what was found")] = FOLDER,
    docs: Annotated[Path, typer.Option(help="folder of the page")] = Path("docs"),
) -> None:
    """Write the tables and pictures of docs/feature-visualisation.md."""
    from heedful.scripts import features_page

    features_page.write(out, docs)


def channels(part: Part, width: int) -> list[int]:
    """Which channels are measured, drawn without those that the recipe was tuned on."""
    draw = np.random.default_rng([SEED, part.layer, KINDS.index(part.kind)])
    left = [channel for channel in range(width) if channel not in TRIED]
    return sorted(draw.choice(left, part.count, replace=False).tolist())


def widths(model: Any) -> Iterator[tuple[int, str, int]]:
    """Every layer and kind of a model, with how many channels it has."""
    tower = tower_of(model)
    for layer in range(len(tower.layers)):
        for kind in KINDS:
            yield layer, kind, width_of(tower, Feature(layer, 0, kind))


def all_features(model: Any) -> list[Feature]:
    """Every feature of a model."""
    return [Feature(layer, channel, kind) for layer, kind, width in widths(model) for channel in range(width)]


def labels_of(drawn: list[Scene]) -> torch.Tensor:
    """The subject of each scene, as a class of classifier, judge and ResNet."""
    return torch.tensor([SUBJECTS.index(one.subjects[0].name) for one in drawn])


def _once(path: Path, find: Callable[[], Any]) -> None:
    if not path.is_file():
        path.write_text(json.dumps(find()), encoding="utf-8")
        console.print("found", path.name)


def _made(part: Part) -> Visualisation:
    model = LOADERS[part.model]()
    width = {(layer, kind): width for layer, kind, width in widths(model)}[part.layer, part.kind]
    features = [Feature(part.layer, channel, part.kind) for channel in channels(part, width)]
    recipe = TUNED if part.recipe == "tuned" else PUBLISHED
    return visualise(model, features, recipe=recipe, seed=SEED, together=16)


def _isolated(name: str, pixels: torch.Tensor) -> dict[str, list[list[float]]]:
    """For each layer the agreement of the two maps, (image, feature), over 32 feed-forward features."""
    model, found = LOADERS[name](), {}
    for layer, kind, width in widths(model):
        if kind == "feed_forward":
            features = [Feature(layer, channel) for channel in range(0, width, width // 32)]
            found[str(layer)] = isolated_patches(model, pixels, features).agreement().tolist()
    return found


def _placed(name: str, pixels: torch.Tensor, drawn: list[Scene]) -> dict[str, dict[str, list[list[float]]]]:
    """For each layer how well features tell the subject's patches, and those of the next scene's subject."""
    model, found = LOADERS[name](), {}
    patch = tower_of(model).patch
    masks = torch.from_numpy(np.stack([one.subjects[0].mask for one in drawn])).float()
    cells = (torch.nn.functional.avg_pool2d(masks[:, None], patch)[:, 0] > 0.5).flatten(1)
    for layer, kind, width in widths(model):
        if kind == "feed_forward":
            features = [Feature(layer, channel) for channel in range(0, width, width // 32)]
            maps = patch_activations(model, pixels, features).flatten(2)
            found[str(layer)] = {
                "own": separation(maps, cells).tolist(),
                "other": separation(maps, cells.roll(1, 0)).tolist(),
            }
    return found


def separation(maps: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """How far the values inside and outside of a mask are apart, .5 to 1, whichever are larger.

    Args:
        maps: (image, feature, patch).
        cells: (image, patch), with both kinds in every image.
    """
    places = maps.argsort(-1).argsort(-1).double() + 1
    inside = cells[:, None].double()
    count, total = inside.sum(-1), float(cells.shape[1])
    above = (places * inside).sum(-1) - count * (count + 1) / 2
    found = above / (count * (total - count))
    return torch.maximum(found, 1 - found)


def _ablated(name: str, pixels: torch.Tensor, drawn: list[Scene]) -> dict[str, Any]:
    """Which scenes are classified rightly; with masks that follow the subject, and with its box."""
    model = LOADERS[name]()
    masks = torch.from_numpy(np.stack([one.subjects[0].mask for one in drawn]))
    boxes = torch.zeros_like(masks)
    for row, one in enumerate(drawn):
        left, top, beyond, below = one.subjects[0].box
        boxes[row, top:below, left:beyond] = True
    tests = ("ground", "low_pass") if name == "resnet" else ("ground", "low_pass", "cls", "patches")
    classes = None if name == "classifier" else range(len(SUBJECTS))
    whole = ablate(model, pixels, labels_of(drawn), masks, tests=tests, classes=classes)
    box = ablate(model, pixels, labels_of(drawn), boxes, tests=("ground",), classes=classes)
    right = {key: found.tolist() for key, found in whole.right.items()}
    right |= {f"{key}, boxes": found.tolist() for key, found in box.right.items() if "only" in key}
    return {"right": right, "settings": whole.settings, "versions": whole.versions, "model": whole.model}


if __name__ == "__main__":
    app()
