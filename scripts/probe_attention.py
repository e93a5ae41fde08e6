"""Carries out `heedful probe attention-distance`: measures every head, writes numbers and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..explain.evaluation.intervals import mean
from ..explain.probing import draw_attention as draw
from ..explain.probing.embeddings import Embeddings, embeddings_of
from ..explain.probing.head_statistics import HeadStatistics, head_statistics
from ..explain.probing.heads import HeadMaps, head_maps
from ..explain.probing.norms import NormRatios, norm_ratios
from ..explain.probing.tower import tower_of
from .loading import embedded, load_model, load_processor, resolved
from .machine import choose
from .probe_images import pixels_of, probe_images, seen_images
from .settings import DTYPES, LARGEST_SEED, UsageError

Watch = Callable[[str, int, int], None]
"""Told what is being done, and how many images of how many are done."""


@dataclass(frozen=True)
class AttentionSettings:
    """All that decides what is measured.

    Attributes:
        images: files, or folders of them; none for fresh emoji scenes.
        count: how many scenes, or the most images.
        model: a folder, a hub id or the name of an embedded model; None for the embedded classifier.
        patch: (row, column) of the patch whose attention is drawn; None for [CLS], or the middle one.
        local: a head is local below this share of even attention's distance.
        twin: whether the same model with random weights is measured beside.

    Raises:
        UsageError: values outside their range.
    """

    images: tuple[Path, ...] = ()
    count: int = 64
    model: str | None = None
    patch: tuple[int, int] | None = None
    local: float = 0.5
    twin: bool = False
    seed: int = 0
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--count must be at least 1, got {self.count}")
        if not self.local > 0:
            raise UsageError(
                f"--local must be positive, a share of even attention's distance; got {self.local}"
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed must lie in 0..{LARGEST_SEED}, got {self.seed}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f'--dtype must be one of {", ".join(DTYPES)}; got "{self.dtype}"')


@dataclass(frozen=True, eq=False)
class Probed:
    """What was measured of one model, and the first image as it sees it."""

    heads: HeadStatistics
    norms: NormRatios
    embeddings: Embeddings
    maps: HeadMaps
    image: Image.Image
    twin: HeadStatistics | None = None


def parse_patch(given: str) -> tuple[int, int]:
    """`ROW,COLUMN` as two numbers.

    Raises:
        UsageError: for anything else.
    """
    parts = given.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f'--patch is ROW,COLUMN, two numbers from 0 such as 3,4; got "{given}"')
    return int(parts[0]), int(parts[1])


def measure(settings: AttentionSettings, watch: Watch) -> Probed:
    """Load the model and the images, and ask every layer.

    Raises:
        UsageError: a model or images that are not there.
        ExplainError: a model without patches, or a patch that is not there.
    """
    device, dtype = choose(settings.device, settings.dtype)
    name = resolved(settings.model) if settings.model else embedded("classifier")
    model = load_model(name, device, getattr(torch, dtype), named=settings.model is not None)
    tower = tower_of(model)
    processor = load_processor(name, texts=False)
    pixels = pixels_of(processor, probe_images(settings.images, settings.count, settings.seed))
    inputs = {"pixel_values": pixels} | ({} if tower.interpolates else {"interpolate_pos_encoding": True})
    size = pixels.shape[2], pixels.shape[3]
    if size == tuple(getattr(tower.module.config, "image_size", 0) for _ in size):
        inputs = {"pixel_values": pixels}  # positions as they were trained
    rows, columns = tower.grid(pixels)
    middle = None if tower.specials else (rows // 2, columns // 2)
    twin = random_twin(model, settings.seed) if settings.twin else None
    return Probed(
        maps=head_maps(model, inputs, settings.patch or middle),
        heads=head_statistics(model, inputs, progress=lambda *done: watch("attention", *done)),
        norms=norm_ratios(model, inputs, progress=lambda *done: watch("norms", *done)),
        embeddings=embeddings_of(model, size=size),
        image=seen_images(processor, pixels[:1])[0],
        twin=twin and head_statistics(twin, inputs, progress=lambda *done: watch("the twin", *done)),
    )


def random_twin(model: Any, seed: int) -> Any:
    """The same model with the random weights with which its training would begin."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = type(model)(deepcopy(model.config))
    return twin.to(model.device, model.dtype).eval()


def rows(found: Probed, local: float) -> list[dict[str, Any]]:
    """What the table shows, layer by layer; distance and entropy with their 95 % intervals over images."""
    heads, norms = found.heads, found.norms
    told = []
    for place, layer in enumerate(heads.layers):
        by_head = heads.distance[:, place].mean(0)
        told.append(
            {
                "layer": layer,
                "distance": asdict(mean(heads.distance[:, place].mean(1).double().numpy())),
                "nearest": float(by_head.min()),
                "farthest": float(by_head.max()),
                "local": int(heads.local(local)[place].sum()),
                "heads": by_head.numel(),
                "entropy": asdict(mean(heads.entropy[:, place].mean(1).double().numpy())),
                "on_patches": float(heads.on_patches[:, place].mean()),
                "skip_over_attention": float(norms.attention[place, norms.specials :].mean()),
                "skip_over_feed_forward": float(norms.feed_forward[place, norms.specials :].mean()),
            }
        )
    return told


def save(out: Path, settings: AttentionSettings, found: Probed) -> list[Path]:
    """Write the numbers, then the pictures; returns their paths."""
    numbers, table = out / "attention-distance.safetensors", out / "attention-distance.json"
    found.heads.save(numbers)
    told = {
        "model": found.heads.model,
        "even_distance": found.heads.uniform,
        "grid": found.heads.grid,
        "patch": found.heads.patch,
        "settings": {**asdict(settings), **found.heads.settings},
        "versions": dict(found.heads.versions),
        "layers": rows(found, settings.local),
    }
    table.write_text(json.dumps(told, indent=1, default=str) + "\n", encoding="utf-8")
    return [numbers, table, *_pictures(out, found)]


def _pictures(out: Path, found: Probed) -> list[Path]:
    pictures = {
        "heads": draw.head_sheet(found.maps, found.image),
        "positions": draw.position_sheet(found.embeddings),
        "filters": draw.filter_sheet(found.embeddings),
    }
    paths = []
    for name, picture in pictures.items():
        paths.append(out / f"attention-{name}.png")
        picture.save(paths[-1])
    title = found.heads.model.split(" ")[0]
    twins = {title: found.twin} if found.twin else {}
    figures = {
        "distance": draw.statistics({title: found.heads}, twins),
        "norms": draw.norm_lines({title: found.norms}),
    }
    return [*paths, *(draw.save(figure, out / f"attention-{name}.png") for name, figure in figures.items())]
