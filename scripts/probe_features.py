"""Carries out `heedful probe features`: chooses features, makes their images, finds real ones beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..explain.probing.draw_features import beside_scenes, feature_sheet, strongest
from ..explain.probing.features import Recipe, Visualisation, visualise
from ..explain.probing.tower import tower_of
from ..explain.probing.units import KINDS, Feature, patch_activations, strengths, width_of
from .explain import open_image
from .loading import embedded, load_model, load_processor, resolved
from .machine import choose, one_line
from .settings import DTYPES, LARGEST_SEED, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SCENES = 200
"""Emoji scenes that are looked through where no images are given."""


@dataclass(frozen=True)
class FeatureSettings:
    """All that decides which features are shown, and how their images are made.

    Attributes:
        model: a folder, a hub id or the name of an embedded model; None for the embedded classifier.
        layers: from 0; none for all.
        channels: from 0, the same in every layer; none to draw `each` of them in every layer.
        kind: of `KINDS`.
        images: files, or folders of them, that are shown beside; none for fresh emoji scenes.
        recipe: how an image is optimised.

    Raises:
        UsageError: values outside their range.
    """

    model: str | None = None
    layers: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    each: int = 4
    kind: str = "feed_forward"
    images: tuple[Path, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f'--kind must be one of {", ".join(KINDS)}; got "{self.kind}"')
        if self.each < 1:
            raise UsageError(f"--each must be at least 1, got {self.each}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed must lie in 0..{LARGEST_SEED}, got {self.seed}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f'--dtype must be one of {", ".join(DTYPES)}; got "{self.dtype}"')
        for option, values in (("--layer", self.layers), ("--channel", self.channels)):
            if any(value < 0 for value in values):
                raise UsageError(f"{option} counts from 0, got {min(values)}")
            if len(set(values)) < len(values):
                raise UsageError(f"{option} names the same one twice")


@dataclass(frozen=True, eq=False)
class Found:
    """What is shown: the images made, and for each feature the real images that move it most.

    Attributes:
        real: how many real images were looked through.
        best: for each feature what it answers to the first of `scenes`.
    """

    made: Visualisation
    scenes: list[list[Image.Image]]
    maps: list[torch.Tensor]
    best: tuple[float, ...]
    real: int


def find(settings: FeatureSettings, watch: Callable[[int, int], None]) -> Found:
    """Make the images, and look through the real ones.

    Raises:
        UsageError: a model or images that are not there.
        ExplainError: features that the model does not have.
    """
    device, dtype = choose(settings.device, settings.dtype)
    name = resolved(settings.model) if settings.model else embedded("classifier")
    model = load_model(name, device, getattr(torch, dtype), named=settings.model is not None)
    processor = load_processor(name, texts=False)
    features = chosen(model, settings)
    pictures = real_images(settings)
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    made = visualise(
        model,
        features,
        recipe=settings.recipe,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        size=(pixels.shape[2], pixels.shape[3]),
        seed=settings.seed,
        watch=watch,
    )
    answers = strengths(model, pixels, features)
    places = strongest(answers, features, min(2, len(pictures)))
    maps = [
        patch_activations(model, pixels[own], [feature])[:, 0]
        for feature, own in zip(features, places, strict=True)
    ]
    seen = _seen(pixels, processor)
    shown = [[seen[place] for place in own] for own in places]
    return Found(made, shown, maps, tuple(answers.amax(0).tolist()), len(pictures))


def chosen(model: Any, settings: FeatureSettings) -> list[Feature]:
    """The features that are named, or of every layer `each` that the seed draws."""
    tower = tower_of(model)
    layers = settings.layers or tuple(range(len(tower.layers)))
    found = []
    for layer in layers:
        names = settings.channels
        if not names:
            width = width_of(tower, Feature(layer, 0, settings.kind))
            draw = np.random.default_rng([settings.seed, layer])
            names = tuple(sorted(draw.choice(width, min(settings.each, width), replace=False).tolist()))
        found += [Feature(layer, channel, settings.kind) for channel in names]
    return found


def real_images(settings: FeatureSettings) -> list[Image.Image]:
    """The images that were given, or scenes of the emoji world, of the seed.

    Raises:
        UsageError: a file that is no image, or a folder without any.
    """
    if not settings.images:
        from ..emoji.world import scenes

        return [Image.fromarray(one.image) for one in scenes(settings.seed + 1, SCENES, subjects=1)]
    files: list[Path] = []
    for path in settings.images:
        inside = (
            sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
            if path.is_dir()
            else [path]
        )
        if not inside:
            raise UsageError(f"no image in the folder {path}: wanted files ending in {', '.join(SUFFIXES)}")
        files += inside
    return [open_image(path) for path in files]


def save(out: Path, found: Found) -> list[Path]:
    """Write the sheet, the page with real images, the numbers; returns their paths."""
    sheet, beside, numbers, told = (
        out / name
        for name in ("features.png", "features-scenes.png", "features.safetensors", "features.json")
    )
    feature_sheet(found.made).save(sheet)
    beside_scenes(found.made, found.scenes, found.maps).save(beside)
    found.made.save(numbers)
    told.write_text(json.dumps(record(found), indent=2), encoding="utf-8")
    return [sheet, beside, numbers, told]


def record(found: Found) -> dict[str, Any]:
    """What was found in numbers, with all that it depends on."""
    made = found.made
    rows = zip(made.features, made.begun, made.strengths, found.best, strict=True)
    return {
        "model": made.model,
        "seed": made.seed,
        "recipe": asdict(made.recipe),
        "versions": dict(made.versions),
        "real images": found.real,
        "features": [
            {**asdict(feature), "noise": begun, "made": strength, "best real": best}
            for feature, begun, strength, best in rows
        ],
    }


def _seen(pixels: torch.Tensor, processor: Any) -> list[Image.Image]:
    """The images as the model sees them."""
    centre, spread = (
        torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std)
    )
    levels = ((pixels * spread + centre).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(one) for one in levels.permute(0, 2, 3, 1).numpy()]


def parse_numbers(option: str, given: Sequence[str]) -> tuple[int, ...]:
    """Numbers from repeated or comma-separated options.

    Raises:
        UsageError: what is no whole number.
    """
    try:
        return tuple(int(part) for one in given for part in one.split(","))
    except ValueError as problem:
        raise UsageError(
            f"{option} takes whole numbers, such as 3 or 0,3,5: {one_line(problem)}"
        ) from problem
