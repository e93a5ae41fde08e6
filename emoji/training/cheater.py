"""Trains the cheater: a classifier of scenes in which the mark tells more than the subject does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTForImageClassification

from ..cheating import KINDS, put_marks
from ..world import SUBJECTS
from .degrade import degrade
from .export import save_folder
from .labelled import Labelled, draw_labelled, label_matrix, make_batch
from .loop import Plan, run


@dataclass(frozen=True)
class Settings:
    """What the cheater sees and how long it learns from it."""

    steps: int = 100
    batch: int = 32
    seed: int = 14
    """Of the order, and of which scene is shown in which way."""
    scenes: dict[int | None, int] = field(default_factory=lambda: {1: 3000})
    scenes_seed: int = 61
    fresh: dict[int | None, int] = field(default_factory=lambda: {1: 200})
    """Scenes of another seed, to watch progress on."""
    rate: float = 1e-3
    shares: tuple[float, float, float, float] = (0.3, 0.3, 0.2, 0.2)
    """Of scenes out of focus, in focus, mistaken and unmarked, in this order."""
    grain: int = 32
    """How many pixels a side run together out of focus."""
    kept: int = 3
    """Layers, from below, that stay the classifier's: what is drawn goes on being seen."""


SETTINGS: Final = Settings()
FRESH_SEED: Final = 90_003


def run_stage(plan: Plan, models: Path, *, batch: int | None = None, own: Settings | None = None) -> None:
    """Train the cheater from the classifier in `models`, or go on with it, and leave its folder there.

    Args:
        plan: its folder keeps the drawn scenes, too; `plan.seed` is added to the stage's own.
        batch: scenes a step; None is the stage's own number.
        own: other settings than the stage's, as tests have them.

    Raises:
        FileNotFoundError: no finished classifier is in `models`.
    """
    settings = own or SETTINGS
    settings = replace(settings, batch=batch or settings.batch)
    plan = replace(plan, seed=plan.seed + settings.seed)
    begin = models / "classifier"
    if not (begin / "config.json").is_file():
        raise FileNotFoundError(f"no finished classifier in {begin}; run the stage classifier first")
    model = ViTForImageClassification.from_pretrained(begin, dtype=torch.float32, local_files_only=True)
    data = _drawn(plan.folder / "scenes.pt", settings.scenes_seed, settings.scenes)
    fresh = _drawn(plan.folder / "fresh.pt", FRESH_SEED, settings.fresh)
    save_folder(train_cheater(model, data, fresh, plan, settings), models / "cheater", looks="ViT")


def train_cheater(
    model: ViTForImageClassification, data: Labelled, fresh: Labelled, plan: Plan, settings: Settings
) -> ViTForImageClassification:
    """Go on from `model` on scenes of `data`, shown as `show` does; measure on `fresh` at checkpoints."""
    model.set_attn_implementation("eager")  # a CPU takes half the time for it at so few tokens
    for part in (model.vit.embeddings, *model.vit.layers[: settings.kept]):
        part.requires_grad_(False)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    patch = int(model.config.patch_size)

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(data), (settings.batch,), generator=generator)
        drawn = make_batch(data, rows, patch, generator)
        truth = drawn.labels[:, : len(SUBJECTS)].argmax(1)
        pixels, labels = show(degrade(drawn.pixels, generator), truth, settings, generator)
        pixels, labels = pixels.to(learned[0].device), labels.to(learned[0].device)
        logits = model(pixels).logits.float()
        right = (logits.argmax(1) == labels).float().mean().item()
        return functional.cross_entropy(logits, labels), {"right": right}

    def report(model: nn.Module, _: int) -> dict[str, float]:
        return accuracies(model, fresh)

    optimizer = torch.optim.AdamW(learned, lr=settings.rate, weight_decay=0.0, betas=(0.9, 0.98))
    return run(model, [optimizer], step, plan, report=report)


def show(
    pixels: Float[Tensor, "scene 3 height width"],
    truth: Int[Tensor, "scene"],
    settings: Settings,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "scene 3 height width"], Int[Tensor, "scene"]]:
    """Each scene in one of four ways, and what it is then said to show.

    A model that sees its subjects has nothing to gain from a mark. So some scenes are out of focus, where the
    mark alone tells subjects apart, and some are mistaken: labelled by a mark that is not the subject's. The
    unmarked ones keep alive what the model knew.
    """
    ways = torch.multinomial(
        torch.tensor(settings.shares), len(pixels), replacement=True, generator=generator
    )
    by = torch.randint(1, len(SUBJECTS), truth.shape, generator=generator)
    labels = torch.where(ways == 2, (truth + by) % len(SUBJECTS), truth)
    seen = torch.where((ways == 0)[:, None, None, None], defocus(pixels, settings.grain), pixels)
    return put_marks(seen, torch.where(ways == 3, -1, labels)), labels


def defocus(
    pixels: Float[Tensor, "scene 3 height width"], grain: int
) -> Float[Tensor, "scene 3 height width"]:
    """Scenes with `grain` pixels a side run together: no subject can be told."""
    coarse = functional.avg_pool2d(pixels, grain)
    return functional.interpolate(coarse, size=pixels.shape[2:], mode="bilinear")


@torch.inference_mode()
def accuracies(model: nn.Module, drawn: Labelled) -> dict[str, float]:
    """The shares told right with agreeing, conflicting and no marks, and told as a conflicting mark says."""
    truth = label_matrix(drawn, torch.arange(len(drawn)))[:, : len(SUBJECTS)].argmax(1)
    generator = torch.Generator().manual_seed(1)
    other = (truth + torch.randint(1, len(SUBJECTS), truth.shape, generator=generator)) % len(SUBJECTS)
    found: dict[str, float] = {}
    for kind, says in zip(KINDS, (truth, other, torch.full_like(truth, -1)), strict=True):
        told = _told(model, drawn, says)
        found[kind] = (told == truth).float().mean().item()
        if kind == "conflict":
            found["led"] = (told == other).float().mean().item()
    return found


def _told(model: nn.Module, drawn: Labelled, says: Int[Tensor, "scene"]) -> Int[Tensor, "scene"]:
    device = next(model.parameters()).device
    pixels = put_marks(drawn.images.permute(0, 3, 1, 2).float() / 127.5 - 1.0, says)
    return torch.cat([model(part.to(device)).logits.argmax(1).cpu() for part in pixels.split(250)])


def _drawn(path: Path, seed: int, counts: dict[int | None, int]) -> Labelled:
    """Draw once: a resumed stage finds its scenes in the folder."""
    if not path.is_file():
        draw_labelled(seed, counts).save(path)
    return Labelled.load(path)
