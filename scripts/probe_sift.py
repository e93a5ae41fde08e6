"""Carries out `heedful probe sift`: counts keypoints, asks heads and relevance about them, writes it all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..explain.probing import draw_sift as draw
from ..explain.probing.interrelation import NULLS
from ..explain.probing.removal import Removal, without
from ..explain.probing.sift import Concentration, concentration
from ..explain.probing.sift_attention import STATISTICS, SiftAttention, sift_attention
from ..explain.probing.spurious import ABOVE, RULES, Spurious, find_spurious
from ..explain.probing.tower import tower_of
from .explain import open_image
from .loading import embedded, load_model, load_processor, resolved
from .machine import choose
from .probe_images import SUFFIXES, pixels_of, probe_images, seen_images
from .settings import DTYPES, LARGEST_SEED, UsageError

Watch = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much is done."""
SCENES = ("plain", "agree", "conflict")
"""Emoji scenes as they are, or with a mark in a corner that says what is there, or something else."""


@dataclass(frozen=True)
class SiftSettings:
    """All that decides what is measured.

    Attributes:
        images: files, or folders of them; none for fresh emoji scenes.
        masks: of the subject, a file for each image, or a folder; white is the subject.
        scenes: of `SCENES`.
        count: how many scenes, or the most images.
        model: a folder, a hub id or the name of an embedded model; None for the embedded classifier.
        rule: of `explain.probing.spurious.RULES`; None is "off" with masks, else "apart".
        above: how many times the mean a suspicious patch's relevance is.
        contrast: that a keypoint needs.
        null: of `explain.probing.interrelation.NULLS`, `draws` of it.
        seed: of the scenes and all draws.

    Raises:
        UsageError: values outside their range, or that do not go together.
    """

    images: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    scenes: str = "plain"
    count: int = 64
    model: str | None = None
    rule: str | None = None
    above: float = ABOVE
    contrast: float = 0.02
    null: str = "shift"
    draws: int = 500
    seed: int = 0
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        _check_choice("--scenes", self.scenes, SCENES)
        _check_choice("--null", self.null, NULLS)
        if self.rule is not None:
            _check_choice("--rule", self.rule, tuple(RULES))
        if self.rule == "off" and not self.masks and self.images:
            raise UsageError("--rule off needs --masks of the subject, an image each, white where it is")
        if self.images and self.scenes != "plain":
            raise UsageError("--scenes chooses emoji scenes; leave it out, or the images")
        if self.masks and not self.images:
            raise UsageError("--masks belong to images; emoji scenes know where their subject is")
        if self.count < 1 or self.draws < 20:
            raise UsageError(
                f"--count must be at least 1 and --draws at least 20, got {self.count} and {self.draws}"
            )
        if not (self.above > 0 and self.contrast >= 0):
            raise UsageError(
                f"--above must be positive and --contrast at least 0, got {self.above} and {self.contrast}"
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed must lie in 0..{LARGEST_SEED}, got {self.seed}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f'--dtype must be one of {", ".join(DTYPES)}; got "{self.dtype}"')


@dataclass(frozen=True, eq=False)
class Found:
    """What was measured; `spurious` and `removal` are None where the model has no classes."""

    images: list[Image.Image]
    keypoints: Concentration
    heads: SiftAttention
    spurious: Spurious | None
    removal: Removal | None
    left_out: int
    """Images without a keypoint."""


def measure(settings: SiftSettings, watch: Watch) -> Found:
    """Load the model and the images, count keypoints, and ask.

    Raises:
        UsageError: a model, images or masks that are not there or do not fit.
        ExplainError: a model without patches, or images without keypoints.
    """
    device, dtype = choose(settings.device, settings.dtype)
    name = resolved(settings.model) if settings.model else embedded("classifier")
    model = load_model(name, device, getattr(torch, dtype), named=settings.model is not None)
    tower = tower_of(model)
    processor = load_processor(name, texts=False)
    drawn, masks = _drawn(settings)
    pixels = pixels_of(processor, drawn)
    inputs = _inputs(tower, pixels)
    images = seen_images(processor, pixels)
    every = concentration(images, tower.grid(pixels), contrast=settings.contrast)
    kept = (every.count.sum((1, 2)) > 0).nonzero()[:, 0]
    if not len(kept):
        every.weights()  # says which images, and what to do
    inputs["pixel_values"] = pixels[kept]
    shown = [images[row] for row in kept.tolist()]
    keypoints = concentration(shown, tower.grid(pixels), contrast=settings.contrast)
    heads = sift_attention(
        model, inputs, keypoints, null=settings.null, draws=settings.draws, seed=settings.seed,
        progress=lambda *done: watch("attention", *done),
    )  # fmt: skip
    spurious, removal = None, None
    if hasattr(model, "classifier"):
        own = None if masks is None else _masks(masks, tuple(pixels.shape[2:]))[kept]
        rule = settings.rule or ("off" if settings.masks else "apart")
        spurious = find_spurious(
            model, inputs, keypoints, masks=own if rule == "off" else None, rule=rule, above=settings.above
        )
        removal = without(
            model, inputs, spurious.flagged, seed=settings.seed,
            progress=lambda *done: watch("without them", *done),
        )  # fmt: skip
    return Found(shown, keypoints, heads, spurious, removal, len(images) - len(shown))


def rows(found: Found) -> list[dict[str, Any]]:
    """What the table shows, layer by layer."""
    told = []
    tested = {name: found.heads.tested(name) for name in found.heads.ratios}
    for place, layer in enumerate(found.heads.layers):
        row: dict[str, Any] = {"layer": layer}
        for name in found.heads.ratios:
            z, _, adjusted = (each[place] for each in tested[name])
            row[name] = {
                "ratio": float(found.heads.ratio(name)[place].mean()),
                "heads_above": int(((adjusted < draw.LEVEL) & (z > 0)).sum()),
                "heads_below": int(((adjusted < draw.LEVEL) & (z < 0)).sum()),
                "heads": z.numel(),
            }
        means = found.heads.entropy[:, place].nanmean((0, 1)).tolist()
        row["entropy"] = dict(zip(found.heads.bins, means, strict=True))
        told.append(row)
    return told


def summary(found: Found) -> dict[str, Any] | None:
    """What was suspicious in how many images, and what became of the answers."""
    if found.spurious is None or found.removal is None:
        return None
    sure, asked = found.spurious.images, found.removal

    def of_flagged(values: torch.Tensor) -> float | None:
        return float(values[sure].float().mean()) if sure.any() else None

    return {
        "rule": found.spurious.rule,
        "meaning": RULES[found.spurious.rule],
        "images": len(sure),
        "flagged": int(sure.sum()),
        "share_of_relevance": of_flagged(found.spurious.share),
        "drop": of_flagged(asked.drop),
        "random_drop": of_flagged(asked.control_drop),
        "changed": of_flagged(asked.changed),
        "random_changed": of_flagged(asked.control_changed),
        "left_out_without_keypoints": found.left_out,
    }


def save(out: Path, settings: SiftSettings, found: Found) -> list[Path]:
    """Write the numbers, then the pictures; returns their paths."""
    numbers, table = out / "sift-attention.safetensors", out / "sift.json"
    found.heads.save(numbers)
    told = {
        "model": found.heads.model,
        "settings": asdict(settings),
        "measured": dict(found.heads.settings),
        "versions": dict(found.heads.versions),
        "statistics": STATISTICS,
        "layers": rows(found),
        "spurious": summary(found),
    }
    table.write_text(json.dumps(told, indent=1, default=str) + "\n", encoding="utf-8")
    return [numbers, table, *_pictures(out, found)]


def _pictures(out: Path, found: Found) -> list[Path]:
    title = found.heads.model.split(" ")[0]
    few = slice(0, 5)
    shown = concentration(
        found.images[few], found.keypoints.grid, contrast=found.keypoints.settings["contrast"]
    )
    pictures = {"keypoints": draw.keypoint_sheet(found.images[few], shown)}
    if found.spurious is not None and found.removal is not None:
        pictures["spurious"] = draw.spurious_sheet(
            found.images, found.keypoints, found.spurious, found.removal
        )
    paths = []
    for name, picture in pictures.items():
        paths.append(out / f"sift-{name}.png")
        picture.save(paths[-1])
    statistic = list(found.heads.ratios)[-1]
    figures = {
        "heads": draw.head_maps({title: found.heads}, statistic),
        "entropy": draw.entropy_lines({title: found.heads}),
    }
    return [*paths, *(draw.save(figure, out / f"sift-{name}.png") for name, figure in figures.items())]


def _drawn(settings: SiftSettings) -> tuple[list[Image.Image], list[Image.Image] | None]:
    """The images, and their masks where there are any."""
    if settings.images:
        images = probe_images(settings.images, settings.count, settings.seed)
        masks = [open_image(file).convert("L") for file in _listed(settings.masks)]
        if masks and len(masks) != len(images):
            raise UsageError(
                f"{len(masks)} --masks for {len(images)} images: wanted one each, in their order"
            )
        for image, mask in zip(images, masks, strict=False):
            if image.size != mask.size:
                raise UsageError(f"a mask has {mask.size} pixels, its image {image.size}: make them alike")
        return images, masks or None
    from ..emoji.cheating import marked_scenes

    kind = "clean" if settings.scenes == "plain" else settings.scenes
    scenes = list(marked_scenes(settings.seed + 1, settings.count, kind))  # type: ignore[arg-type]
    subjects = [Image.fromarray(each.subject.mask.astype(np.uint8) * 255) for each in scenes]
    return [Image.fromarray(each.scene.image) for each in scenes], subjects


def _listed(paths: Sequence[Path]) -> list[Path]:
    return [
        file
        for path in paths
        for file in (
            sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
            if path.is_dir()
            else [path]
        )
    ]


def _masks(masks: Sequence[Image.Image], size: tuple[int, ...]) -> torch.Tensor:
    """Masks in the model's pixels; a processor that crops would leave other parts of mask and image.

    Where a mask has become empty by making it smaller, it is refused later, by name.
    """
    tall, wide = size
    small = [np.asarray(mask.resize((wide, tall), Image.Resampling.BOX)) > 0 for mask in masks]
    return torch.from_numpy(np.stack(small))


def _inputs(tower: Any, pixels: torch.Tensor) -> dict[str, Any]:
    size = pixels.shape[2], pixels.shape[3]
    trained = size == tuple(getattr(tower.module.config, "image_size", 0) for _ in size)
    if tower.interpolates or trained:
        return {"pixel_values": pixels}
    return {"pixel_values": pixels, "interpolate_pos_encoding": True}


def _check_choice(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UsageError(f'{option} must be one of {", ".join(known)}; got "{given}"')
