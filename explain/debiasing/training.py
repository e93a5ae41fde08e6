"""Fine-tunes a classifier on what its relevance should be, and stops when that gets no better."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from ..errors import TrainingError
from .examples import MaskedImages, varied
from .objective import Options, objective, validation_loss
from .settings import DebiasSettings


@dataclass(frozen=True)
class Epoch:
    """One round through all images.

    Attributes:
        number: from 1; 0 is the model as it came.
        rate: the learning rate.
        training: the mean loss of the steps, images varied; NaN for number 0.
        validation: the loss of the validation images after it.
        parts: what the training loss is made of, unweighted means.
    """

    number: int
    rate: float
    training: float
    validation: float
    parts: Mapping[str, float] = field(default_factory=dict)


Progress = Callable[[Epoch], None]


def fine_tune(
    model: nn.Module,
    images: MaskedImages,
    validation: MaskedImages,
    settings: DebiasSettings,
    *,
    options: Options = MappingProxyType({}),
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, tuple[Epoch, ...]]:
    """A copy of `model` with the weights of the epoch whose validation loss was least, and all epochs.

    The copy is float32 and in eval mode, also while it learns: no dropout, as attention is looked at. Where
    there is CUDA it computes in float16 under autocast with a scaled loss. Under `accelerate launch` every
    process takes its share of each batch.

    Raises:
        TrainingError: a loss that is no number.
    """
    accelerator = Accelerator(**_precision(device))
    learner = copy.deepcopy(getattr(model, "_orig_mod", model)).float().eval()
    learner.requires_grad_(True)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=settings.rate, weight_decay=settings.decay)
    prepared, optimizer = accelerator.prepare(learner, optimizer)
    learner = accelerator.unwrap_model(prepared)
    history = [Epoch(0, 0.0, math.nan, _checked(validation_loss(learner, validation, settings, options)))]
    best, kept = history[0], _weights(learner)
    for number in range(1, settings.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate_at(number - 1)
        found = [
            _step(accelerator, prepared, optimizer, batch, settings, options)
            for batch in _batches(images, settings, number, accelerator)
        ]
        history.append(
            _told(number, found, validation_loss(learner, validation, settings, options), settings)
        )
        if progress is not None and accelerator.is_main_process:
            progress(history[-1])
        if history[-1].validation < best.validation:
            best, kept = history[-1], _weights(learner)
        elif number - best.number >= settings.patience:
            break
    learner = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    learner.load_state_dict(kept)
    return learner.requires_grad_(True), tuple(history)


def _precision(device: str | torch.device | None) -> dict[str, Any]:
    """What accelerate is asked for: float16 on CUDA, which it takes where it is there, else float32."""
    cuda = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    # DINOv2 has a mask token that no forward uses, for which several processes would wait.
    spread = DistributedDataParallelKwargs(find_unused_parameters=True)
    return {"mixed_precision": "fp16" if cuda else "no", "cpu": not cuda, "kwargs_handlers": [spread]}


def _batches(
    images: MaskedImages, settings: DebiasSettings, number: int, accelerator: Accelerator
) -> Iterator[MaskedImages]:
    """An epoch's batches, of each the share of this process; the order depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(settings.seed * 100_003 + number)
    for rows in torch.randperm(len(images), generator=generator).split(settings.batch):
        batch = images.take(rows)
        batch = varied(batch, generator) if settings.augment else batch
        own = torch.arange(accelerator.process_index, len(rows), accelerator.num_processes)
        # A process without an image still has to take part in the step.
        yield batch.take(own if len(own) else torch.zeros(1, dtype=torch.long)).to(accelerator.device)


def _step(
    accelerator: Accelerator, prepared: nn.Module, optimizer: Any, batch: MaskedImages,
    settings: DebiasSettings, options: Options,
) -> tuple[float, dict[str, float]]:  # fmt: skip
    learner = accelerator.unwrap_model(prepared)
    loss, parts = objective(learner, batch, settings, options=options, run=prepared)
    found = _checked(loss.item())
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    return found, parts


def _told(
    number: int, found: list[tuple[float, dict[str, float]]], validation: float, settings: DebiasSettings
) -> Epoch:
    count = len(found)
    parts = {name: sum(each[name] for _, each in found) / count for name in found[0][1]}
    training = sum(loss for loss, _ in found) / count
    return Epoch(number, settings.rate_at(number - 1), training, _checked(validation), parts)


def _checked(loss: float) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss}: lower the learning rate, or look for NaN in the model's weights"
        )
    return loss


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
