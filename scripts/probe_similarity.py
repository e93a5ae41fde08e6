"""Carries out `heedful probe similarity`: two models see the same images, and what was asked is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from ..explain.probing import draw_similarity
from ..explain.probing.localisation import Localisation, localisation
from ..explain.probing.probes import Probes, linear_probes
from ..explain.probing.receptive_field import ReceptiveField, receptive_field
from ..explain.probing.similarity import Similarity, minibatches, similarity, twin
from .explain import open_image
from .loading import load_model, load_processor, resolved
from .machine import choose
from .settings import DTYPES, LARGEST_SEED, UsageError

PARTS: Final = ("receptive-field", "localisation", "probes")
"""What can be measured of each model beside."""
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FEW: Final = 32
"""Images of a receptive field: its gradients cost many times what a look costs."""
TWINS: Final = "comparing random twins"
Watch = Callable[[str, int, int], None]
"""What is being done, how many images are done, of how many."""


@dataclass(frozen=True)
class SimilaritySettings:
    """All that decides what is compared.

    Attributes:
        images: files, or folders of them (sub-folders are labels); none for fresh emoji scenes.
        first, second: folders, hub ids, or names of embedded models; None for the embedded judge, and for
            the second the embedded ResNet beside that one, else the first itself.
        first_layers, second_layers: names or patterns; none for all.
        also: of `PARTS`.
        control: whether twins with random weights are compared as well.
        count: how many emoji scenes; of images that were given all are seen.

    Raises:
        UsageError: values outside their range.
    """

    images: tuple[Path, ...] = ()
    first: str | None = None
    second: str | None = None
    first_layers: tuple[str, ...] = ()
    second_layers: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    control: bool = False
    count: int = 128
    batch_size: int = 16
    seed: int = 0
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        for part in self.also:
            if part not in PARTS:
                raise UsageError(f'--also must be of {", ".join(PARTS)}; got "{part}"')
        if self.batch_size < 4:
            raise UsageError(f"--batch-size must be at least 4, got {self.batch_size}")
        if not 4 <= self.count <= 900_000:
            raise UsageError(f"--count must lie in 4..900000, got {self.count}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed must lie in 0..{LARGEST_SEED}, got {self.seed}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f'--dtype must be one of {", ".join(DTYPES)}; got "{self.dtype}"')

    @property
    def names(self) -> tuple[str, str]:
        """Both models."""
        first = self.first or "judge"
        return first, self.second or ("resnet" if self.first is None else first)


@dataclass(frozen=True, eq=False)
class Found:
    """What was measured: of both models together, of their twins, and of each alone, by its name."""

    trained: Similarity
    random: Similarity | None = None
    fields: dict[str, ReceptiveField] = field(default_factory=dict)
    held: dict[str, Localisation] = field(default_factory=dict)
    probes: dict[str, Probes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Side:
    """One of the two models, and the images as it takes them."""

    name: str
    device: str
    dtype: str

    @cached_property
    def folder(self) -> str:
        return resolved(self.name)

    @cached_property
    def model(self) -> Any:
        return load_model(self.folder, self.device, getattr(torch, self.dtype))

    @cached_property
    def processor(self) -> Any:
        return load_processor(self.folder, texts=False)

    def pixels(self, pictures: list[Image.Image]) -> Tensor:
        return self.processor(images=pictures, return_tensors="pt")["pixel_values"]


def find(settings: SimilaritySettings, watch: Watch) -> Found:
    """Compare the models, and measure what was asked beside.

    Raises:
        UsageError: models or images that are not there, or images without labels for probes.
        ExplainError: layers that a model does not have.
    """
    device, dtype = choose(settings.device, settings.dtype)
    pictures = _Pictures(settings)
    first, second = settings.names
    one = _Side(first, device, dtype)
    other = one if first == second else _Side(second, device, dtype)
    trained = _compare(settings, (one, other), pictures, watch, "comparing")
    random = _compare(settings, (one, other), pictures, watch, TWINS) if settings.control else None
    found = Found(trained, random)
    for side in dict.fromkeys((one, other)):
        _alone(settings, side, pictures, watch, found)
    return found


class _Pictures:
    """The images that were given, or emoji scenes, opened as they are asked for."""

    def __init__(self, settings: SimilaritySettings) -> None:
        self.seed = settings.seed
        self.files = _files(settings.images) if settings.images else None
        self.count = settings.count if self.files is None else len(self.files)
        if self.count < 4:
            raise UsageError(f"wanted at least 4 images, got {self.count}: similarity is about many")
        folders = {path.parent for path in self.files or ()}
        self.labels = sorted(each.name for each in folders) if len(folders) > 1 else []

    def open(self, part: slice, *, labelled: bool = False) -> list[Image.Image]:
        """Some of them; labelled emoji scenes have one subject each."""
        if self.files is not None:
            return [open_image(path).convert("RGB") for path in self.files[part]]
        from ..emoji.world import scene

        numbers = range(self.count)[part]
        subjects = 1 if labelled else None
        drawn = [scene((self.seed + 1) * 1_000_000 + number, subjects=subjects) for number in numbers]
        return [Image.fromarray(each.image) for each in drawn]

    def label(self, part: slice) -> Tensor:
        """The numbers of their labels.

        Raises:
            UsageError: images of one folder.
        """
        if self.files is not None:
            if not self.labels:
                raise UsageError(
                    "probes need labels: pass a folder with a sub-folder of images for each label"
                )
            return torch.tensor([self.labels.index(path.parent.name) for path in self.files[part]])
        from ..emoji.vocabulary import SUBJECTS
        from ..emoji.world import scene

        numbers = range(self.count)[part]
        named = [scene((self.seed + 1) * 1_000_000 + number, subjects=1) for number in numbers]
        return torch.tensor([SUBJECTS.index(each.subjects[0].name) for each in named])


def _compare(
    settings: SimilaritySettings, sides: tuple[_Side, _Side], pictures: _Pictures, watch: Watch, doing: str
) -> Similarity:
    one, other = (side.model for side in sides)
    if doing == TWINS:
        one, other = twin(one, settings.seed), twin(other, settings.seed)

    def batches() -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        for part in minibatches(range(pictures.count), settings.batch_size):
            opened = pictures.open(part)
            pixels = sides[0].pixels(opened)
            yield pixels if sides[0] is sides[1] else (pixels, sides[1].pixels(opened))

    return similarity(
        one,
        other,
        batches(),
        first_layers=settings.first_layers or None,
        second_layers=settings.second_layers or None,
        settings={"seed": settings.seed, "images": [str(path) for path in settings.images] or "emoji scenes"},
        progress=lambda done: watch(doing, done, pictures.count),
    )


def _alone(
    settings: SimilaritySettings, side: _Side, pictures: _Pictures, watch: Watch, found: Found
) -> None:
    """Put what was asked of one model into `found`."""
    patterns = settings.first_layers if side.name == settings.names[0] else settings.second_layers
    layers = patterns or None
    parts = minibatches(range(pictures.count), settings.batch_size)

    def told(doing: str, total: int) -> Callable[[int], None]:
        return lambda done: watch(f"{doing}, {Path(side.name).name}", done, total)

    if "receptive-field" in settings.also:
        few = min(_FEW, pictures.count)
        batches = [side.pixels(pictures.open(part)) for part in minibatches(range(few), 16)]
        found.fields[side.name] = receptive_field(
            side.model, batches, layers=layers, seed=settings.seed, progress=told("receptive field", few)
        )
    if "localisation" in settings.also:
        found.held[side.name] = localisation(
            side.model,
            (side.pixels(pictures.open(part)) for part in parts),
            layers=layers,
            progress=told("localisation", pictures.count),
        )
    if "probes" in settings.also:
        mixed = _labelled(side, pictures, settings.seed)
        half = len(mixed) // 2
        found.probes[side.name] = linear_probes(
            side.model,
            mixed[:half],
            mixed[half:],
            layers=layers,
            patches=2,
            seed=settings.seed,
            progress=told("probes", pictures.count),
        )


def _labelled(side: _Side, pictures: _Pictures, seed: int) -> list[tuple[Tensor, Tensor]]:
    """All images with their labels in a drawn order: the first half to fit probes to, the rest to test."""
    order = torch.randperm(pictures.count, generator=torch.Generator().manual_seed(seed)).tolist()
    found = []
    for part in minibatches(order, min(16, max(4, pictures.count // 2))):
        rows = [slice(place, place + 1) for place in order[part]]
        opened = [pictures.open(row, labelled=True)[0] for row in rows]
        found.append((side.pixels(opened), torch.cat([pictures.label(row) for row in rows])))
    return found


def save(out: Path, found: Found) -> list[Path]:
    """Write plots and numbers; returns their paths."""
    panels = {"as trained": found.trained} | ({"random twins": found.random} if found.random else {})
    paths = [draw_similarity.save(draw_similarity.heatmaps(panels), out / "similarity.png")]
    kept: dict[str, Any] = {"similarity": found.trained}
    if found.random:
        kept["similarity-twins"] = found.random
    for kind, own in (("receptive-field", found.fields), ("localisation", found.held)):
        for name, each in own.items():
            kept[f"{kind}-{Path(name).name}"] = each
            paths.append(each.plot(out / f"{kind}-{Path(name).name}.png"))
    if found.probes:
        drawn = draw_similarity.probe_lines({Path(name).name: each for name, each in found.probes.items()})
        paths.append(draw_similarity.save(drawn, out / "probes.png"))
        kept |= {f"probes-{Path(name).name}": each for name, each in found.probes.items()}
    for name, each in kept.items():
        each.save(out / f"{name}.safetensors")
        paths.append(out / f"{name}.safetensors")
    told = out / "similarity.json"
    told.write_text(json.dumps(record(found), indent=1), encoding="utf-8")
    return [*paths, told]


def record(found: Found) -> dict[str, Any]:
    """What was found in numbers, with all that it depends on; None where there is no value."""
    one = found.trained
    values = [[None if value != value else value for value in row] for row in one.cka.tolist()]
    return {
        "models": one.models,
        "layers": one.layers,
        "cka": values,
        "images": one.images,
        "settings": dict(one.settings),
        "versions": dict(one.versions),
        "reach": {name: each.reach for name, each in found.fields.items()},
        "held": {
            name: {layer: asdict(own) for layer, own in each.held.items()}
            for name, each in found.held.items()
        },
        "probes": {name: asdict(each)["accuracy"] for name, each in found.probes.items()},
    }


def _files(paths: tuple[Path, ...]) -> list[Path]:
    """The images in folders and their sub-folders, in order, and the files that were named."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path}; wanted an image, or a folder of them")
        inside = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in SUFFIXES]
        if path.is_dir() and not inside:
            raise UsageError(f"no image in the folder {path}: wanted files ending in {', '.join(SUFFIXES)}")
        found += inside if path.is_dir() else [path]
    return found
