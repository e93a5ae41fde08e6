"""The stages that train what looks at images, judge, CLIP and classifier: their data, sizes and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn
from transformers import CLIPTokenizer, ViTForImageClassification

from ..tokenizer import write_tokenizer
from ..world import Pairs
from .clip import train_clip
from .export import save_folder
from .labelled import Labelled, draw_labelled
from .loop import Plan
from .vit import Shape, train_vit

Stage = Literal["judge", "clip", "classifier"]


@dataclass(frozen=True)
class Settings:
    """What a stage draws and how long it learns from it."""

    steps: int
    batch: int
    seed: int
    """Of the weights and of the order; the scenes have seeds of their own: no two models share any."""
    scenes: dict[int | None, int]
    """How many scenes with one, two and three subjects."""
    scenes_seed: int
    pairs: Pairs
    shape: Shape = field(default_factory=Shape)
    fresh: dict[int | None, int] = field(default_factory=lambda: {None: 500})
    """Scenes of another seed, to watch progress on."""
    rate: float = 2e-3
    begin: Literal["judge"] | None = None
    """A finished model whose transformer this one begins as; only its head is new."""


SETTINGS: Final[dict[Stage, Settings]] = {
    "judge": Settings(2500, 64, 11, {1: 3000, 2: 8000, 3: 5000}, 71, "any"),
    "clip": Settings(650, 96, 12, {1: 2000, 2: 9000, 3: 2000}, 80, "train", fresh={2: 400}),
    "classifier": Settings(200, 64, 13, {1: 5000}, 60, "any", fresh={1: 500}, rate=1e-3, begin="judge"),
}
FRESH_SEED: Final = 90_001


def run_stage(
    stage: Stage,
    plan: Plan,
    tokenizer: CLIPTokenizer,
    models: Path,
    *,
    batch: int | None = None,
    own: Settings | None = None,
) -> None:
    """Train a stage, or go on with it, and leave its standard folder in `models`.

    Args:
        plan: its folder keeps the drawn scenes, too; `plan.seed` is added to the stage's own.
        batch: scenes a step; None is the stage's own number.
        own: other settings than the stage's, as tests have them.
    """
    settings = own or SETTINGS[stage]
    plan = replace(plan, seed=plan.seed + settings.seed)
    data = _drawn(plan.folder / "scenes.pt", settings.scenes_seed, settings.scenes, settings.pairs)
    fresh = _drawn(plan.folder / "fresh.pt", FRESH_SEED, settings.fresh, settings.pairs)
    batch = batch or settings.batch
    model: nn.Module
    if stage == "clip":
        model = train_clip(data, fresh, tokenizer, plan, shape=settings.shape, batch=batch)
        write_tokenizer(tokenizer, models / "clip")
    else:
        begin = _finished(models / settings.begin) if settings.begin else None
        model = train_vit(
            stage, data, fresh, plan, shape=settings.shape, batch=batch, rate=settings.rate, begin=begin
        )
    save_folder(model, models / stage, looks="CLIP" if stage == "clip" else "ViT")


def _finished(folder: Path) -> ViTForImageClassification:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no finished {folder.name} in {folder}; run the stage {folder.name} first")
    return ViTForImageClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _drawn(path: Path, seed: int, counts: dict[int | None, int], pairs: Pairs) -> Labelled:
    """Draw once: a resumed stage finds its scenes in the folder."""
    if not path.is_file():
        draw_labelled(seed, counts, pairs=pairs).save(path)
    return Labelled.load(path)
