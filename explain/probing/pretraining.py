"""Pre-trains a masked auto-encoder with masks of any making, and asks a linear probe what it has learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import InputError
from ..relevance import model_name, versions
from .masking import masking_order, tilted

Shown = Callable[[int, int], None]


@dataclass(frozen=True)
class Budget:
    """What a pre-training may cost, and what is the same for all maskings that are compared.

    Attributes:
        steps: of the optimiser, AdamW with weight decay `decay`, betas (.9, .95).
        batch: images a step.
        rate: the largest learning rate, after `warmup` steps; half a cosine leads it to 0.
        every: steps between two looks at the held-out images.
        seed: of the order of the images and of the masks; the weights come with the model.
    """

    steps: int = 600
    batch: int = 64
    rate: float = 1.5e-3
    warmup: int = 60
    decay: float = 0.05
    every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "warmup": 0, "every": 1, "seed": 0}
        for name, value in asdict(self).items():
            if name in least and not (type(value) is int and value >= least[name]):
                raise InputError(f"{name} must be a whole number of at least {least[name]}, got {value!r}")
        if not (self.rate > 0 and self.decay >= 0):
            raise InputError(f"rate must be above 0 and decay at least 0, got {self.rate} and {self.decay}")


@dataclass(frozen=True)
class Pretraining:
    """The course of one pre-training.

    Attributes:
        strength: of the masks, see `masking.tilted`; 0 for random ones.
        steps: when the held-out images were looked at.
        losses: the loss then, on the same uniformly random masks whatever the training's own were.
        masked: the last loss by the strength of the masks that the held-out images then had.
        settings: budget, size and mask ratio; `model` and `versions`.
    """

    strength: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    masked: Mapping[float, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def pretrain(
    model: Any,
    pixels: Float[Tensor, "image 3 height width"],
    weights: Float[Tensor, "image _"],
    held_out: tuple[Float[Tensor, "other 3 height width"], Float[Tensor, "other _"]],
    *,
    strength: float = 2.0,
    budget: Budget | None = None,
    strengths: tuple[float, ...] = (0.0,),
    shown: Shown | None = None,
) -> Pretraining:
    """Train a `ViTMAEForPreTraining` (He et al. 2022) with masks drawn by `masking.tilted`, in place.

    The loss is the model's own, the mean squared error of the hidden patches. Whatever the masks, a seed
    shows the same images in the same order. Held-out images have masks of one fixed seed, so that losses can
    be compared between trainings. CUDA in float16 where there is one, else the CPU.

    Args:
        pixels: as the model takes them, with `weights`, the concentration of each patch.
        held_out: the same of images that are not trained on.
        strength: of the masks in training; 0 is random masking.
        strengths: the masks under which the held-out images are judged in the end; 0 always is.
        shown: called with the steps that are done and all of them.

    Raises:
        InputError: a model that is no such one, or weights that do not fit the images.
    """
    budget = budget or Budget()
    _check(model, pixels, weights)
    _check(model, *held_out)
    accelerator = Accelerator(
        mixed_precision="fp16" if torch.cuda.is_available() else "no", cpu=not torch.cuda.is_available()
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=budget.rate, betas=(0.9, 0.95), weight_decay=budget.decay
    )
    prepared, optimizer = accelerator.prepare(model, optimizer)
    readiness = tilted(weights, strength)
    looked: dict[int, float] = {}
    for step in range(budget.steps):
        _step(accelerator, prepared, optimizer, pixels, readiness, step, budget)
        if (step + 1) % budget.every == 0 or step + 1 == budget.steps:
            looked[step + 1] = held_out_loss(model, *held_out, batch=budget.batch)
        if shown is not None:
            shown(step + 1, budget.steps)
    masked = {each: held_out_loss(model, *held_out, strength=each, batch=budget.batch) for each in strengths}
    return Pretraining(
        strength=strength,
        steps=tuple(looked),
        losses=tuple(looked.values()),
        masked={0.0: looked[budget.steps], **masked},
        settings={**asdict(budget), "images": len(pixels), "ratio": model.config.mask_ratio},
        model=model_name(model),
        versions=versions(),
    )


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    pixels: Tensor,
    readiness: Tensor,
    step: int,
    budget: Budget,
) -> None:
    """One step; images and masks have generators of their own, so that masks do not change the order."""
    order, masks = (torch.Generator().manual_seed((budget.seed * 1_000_003 + step) * 2 + k) for k in (0, 1))
    rows = torch.randint(len(pixels), (budget.batch,), generator=order)
    noise = masking_order(readiness[rows], masks)
    for group in optimizer.param_groups:
        group["lr"] = budget.rate * _share(step, budget)
    model.train()
    loss = model(pixel_values=pixels[rows].to(accelerator.device), noise=noise.to(accelerator.device)).loss
    if not torch.isfinite(loss):
        raise InputError(
            f"the loss became {loss.item()} at step {step}; take a lower rate than {budget.rate}"
        )
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _share(step: int, budget: Budget) -> float:
    """Of the learning rate: linear warm-up, half a cosine."""
    if step < budget.warmup:
        return (step + 1) / budget.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - budget.warmup) / max(1, budget.steps - budget.warmup)))


@torch.no_grad()
def held_out_loss(
    model: Any,
    pixels: Float[Tensor, "image 3 height width"],
    weights: Float[Tensor, "image patch"],
    *,
    strength: float = 0.0,
    batch: int = 64,
    seed: int = 1,
) -> float:
    """The model's mean loss on images, under masks that only the seed and the strength decide."""
    noise = masking_order(tilted(weights, strength), torch.Generator().manual_seed(seed))
    model.eval()
    device = next(model.parameters()).device
    total = 0.0
    for start in range(0, len(pixels), batch):
        own = slice(start, start + batch)
        found = model(pixel_values=pixels[own].to(device), noise=noise[own].to(device)).loss
        total += float(found) * len(pixels[own])
    return total / len(pixels)


@torch.no_grad()
def encoded(
    model: Any, pixels: Float[Tensor, "image 3 height width"], *, batch: int = 128
) -> Float[Tensor, "image channel"]:
    """The mean of the encoder's patch tokens when nothing is hidden, float32 on the CPU."""
    encoder = model.vit if hasattr(model, "vit") else model
    _check_model(model)
    before = encoder.config.mask_ratio
    encoder.eval()
    try:
        encoder.config.mask_ratio = 0.0
        parts = [
            encoder(pixel_values=part.to(encoder.device, encoder.dtype)).last_hidden_state[:, 1:].mean(1)
            for part in pixels.split(batch)
        ]
    finally:
        encoder.config.mask_ratio = before
    return torch.cat(parts).float().cpu()


def probe_accuracy(
    train: tuple[Float[Tensor, "image channel"], Int[Tensor, "image"]],
    test: tuple[Float[Tensor, "other channel"], Int[Tensor, "other"]],
    *,
    regularisation: float = 1.0,
) -> np.ndarray:
    """Which test images logistic regression on standardised features gets right, one bool each.

    Args:
        regularisation: scikit-learn's C, the inverse of the penalty on the squared weights.

    Raises:
        InputError: where scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as problem:
        raise InputError(
            "linear probes are scikit-learn's, which is not installed: pip install 'heedful[probe]'"
        ) from problem
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation, max_iter=2000))
    fitted.fit(train[0].numpy(), train[1].numpy())
    return fitted.predict(test[0].numpy()) == test[1].numpy()


def steps_to(course: Pretraining, loss: float) -> float:
    """The first step at which the held-out loss is at most this, between two looks by a straight line.

    Infinite where it never is.
    """
    for place, found in enumerate(course.losses):
        if found > loss:
            continue
        if place == 0:
            return float(course.steps[0])
        above, before = course.losses[place - 1], course.steps[place - 1]
        part = (above - loss) / (above - found) if above > found else 1.0
        return before + part * (course.steps[place] - before)
    return math.inf


def _check(model: Any, pixels: Tensor, weights: Tensor) -> None:
    _check_model(model)
    count = model.vit.embeddings.patch_embeddings.num_patches if hasattr(model, "vit") else None
    if not len(pixels) or tuple(weights.shape) != (len(pixels), count):
        raise InputError(
            f"wanted a weight for each of {count} patches of {len(pixels)} images (at least one), got shape "
            f"{tuple(weights.shape)}"
        )


def _check_model(model: nn.Module) -> None:
    if getattr(getattr(model, "config", None), "model_type", "") != "vit_mae":
        raise InputError(
            f"wanted a masked auto-encoder, transformers' ViTMAEForPreTraining; got {type(model).__name__}"
        )
