"""The stages that train the models of the other families: their data, sizes, seeds, and how they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import PreTrainedModel, ResNetForImageClassification, ViTForImageClassification

from ..wordpieces import build_wordpieces
from . import vision
from .answering import AnswerShape, Looked, draw_looked, train_answerer
from .detection import DetrShape, train_detr
from .export import save_folder
from .labelled import Labelled, draw_labelled
from .loop import Plan
from .reading import TextShape, train_bert
from .resnet import ResNetShape, train_resnet

Stage = Literal["resnet", "detr", "visual-bert", "lxmert", "bert"]


@dataclass(frozen=True)
class Settings:
    """What a stage draws and how long it learns from it."""

    steps: int
    batch: int
    seed: int
    """Of the weights and of the order."""
    shape: Any
    rate: float
    scenes: Mapping[int | None, int] = field(default_factory=dict)
    """How many scenes with one, two and three subjects, of any pairs; empty where captions alone are read."""
    scenes_seed: int = 0
    fresh: int = 500
    """Scenes, or captions, of another seed, to watch progress on."""


_LOOKED: Final[dict[int | None, int]] = {1: 1000, 2: 4000, 3: 3000}
_JUDGE: Final = vision.SETTINGS["judge"]
SETTINGS: Final[dict[Stage, Settings]] = {
    "resnet": Settings(2500, 64, 31, ResNetShape(), 2e-3, _JUDGE.scenes, _JUDGE.scenes_seed),
    "detr": Settings(4000, 32, 32, DetrShape(), 1e-3, {1: 2000, 2: 4000, 3: 3000}, 101),
    "visual-bert": Settings(6000, 128, 33, AnswerShape(), 1e-3, _LOOKED, 102),
    "lxmert": Settings(4500, 128, 34, AnswerShape(layers=2, regions=1, cross=3), 1e-3, _LOOKED, 102),
    "bert": Settings(800, 128, 35, TextShape(), 1e-3),
}
FRESH_SEED: Final = 90_002


def run_stage(
    stage: Stage, plan: Plan, models: Path, *, batch: int | None = None, own: Settings | None = None
) -> None:
    """Train a stage, or go on with it, and leave its standard folder in `models`.

    Args:
        plan: its folder keeps the drawn scenes, too; `plan.seed` is added to the stage's own. The scenes that
            VisualBERT and LXMERT look at are the same, and lie beside it.
        batch: scenes, questions or captions a step; None is the stage's own number.
        own: other settings than the stage's, as tests have them.

    Raises:
        FileNotFoundError: the model that this one needs is not in `models`; names its stage.
    """
    settings = own or SETTINGS[stage]
    plan = replace(plan, seed=plan.seed + settings.seed)
    learn: dict[str, Any] = {
        "shape": settings.shape,
        "batch": batch or settings.batch,
        "rate": settings.rate,
    }
    words = build_wordpieces()
    if stage == "bert":
        save_folder(train_bert(words, plan, fresh=settings.fresh, **learn), models / stage, reads=words)
    elif stage == "resnet":
        save_folder(train_resnet(*_drawn(plan, settings), plan, **learn), models / stage, looks="ViT")
    elif stage == "detr":
        backbone = _finished(ResNetForImageClassification, models / "resnet")
        model = train_detr(*_drawn(plan, settings), backbone, plan, **learn)
        save_folder(model, models / stage, looks="Detr")
    else:
        classifier = _finished(ViTForImageClassification, models / "classifier")
        data, fresh = _looked(plan.folder.parent / "looked", settings, classifier)
        save_folder(train_answerer(stage, data, fresh, words, plan, **learn), models / stage, reads=words)


def _finished(kind: type[PreTrainedModel], folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no finished {folder.name} in {folder}; run the stage {folder.name} first")
    return kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def _drawn(plan: Plan, settings: Settings) -> tuple[Labelled, Labelled]:
    """Draw once: a resumed stage finds its scenes in the folder."""
    for path, seed, counts in _parts(plan.folder, settings):
        if not path.is_file():
            draw_labelled(seed, counts).save(path)
    return Labelled.load(plan.folder / "scenes.pt"), Labelled.load(plan.folder / "fresh.pt")


def _looked(folder: Path, settings: Settings, classifier: ViTForImageClassification) -> tuple[Looked, Looked]:
    """Draw and look once, for whichever of the two stages comes first."""
    for path, seed, counts in _parts(folder, settings):
        if not path.is_file():
            draw_looked(seed, counts, classifier).save(path)
    return Looked.load(folder / "scenes.pt"), Looked.load(folder / "fresh.pt")


def _parts(folder: Path, settings: Settings) -> list[tuple[Path, int, dict[int | None, int]]]:
    """Where the scenes to learn from and those to watch go, their seeds, and how many of which."""
    return [
        (folder / "scenes.pt", settings.scenes_seed, dict(settings.scenes)),
        (folder / "fresh.pt", FRESH_SEED, {None: settings.fresh}),
    ]
