"""Trains the ResNet on what the judge learns from, the truth of every patch included."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from ..world import LABELS, SUBJECTS
from .degrade import degrade
from .labelled import Batch, Labelled, label_matrix, make_batch
from .loop import Plan, run
from .optimizers import optimizers_for
from .vit import Taught

PATCH = 8
"""Pixels a cell of the last feature map is apart from the next: as the ViTs' patches."""


@dataclass(frozen=True)
class ResNetShape:
    """The size of a ResNet of two stages: 16 x 16 cells of 64 x 64 pixels, then 8 x 8."""

    stem: int = 64
    channels: tuple[int, int] = (64, 160)
    depths: tuple[int, int] = (2, 3)


def resnet_config(shape: ResNetShape, **settings: object) -> ResNetConfig:
    """Basic layers (He et al. 2016, figure 5, left); `settings` go to `ResNetConfig` as they are."""
    return ResNetConfig(
        embedding_size=shape.stem,
        hidden_sizes=list(shape.channels),
        depths=list(shape.depths),
        layer_type="basic",
        **settings,
    )


def new_resnet(shape: ResNetShape) -> ResNetForImageClassification:
    """A random ResNet with a sigmoid for each of the judge's labels."""
    config = resnet_config(
        shape,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        problem_type="multi_label_classification",
    )
    return ResNetForImageClassification(config)


class TaughtResNet(nn.Module):
    """A ResNet with heads on its cells that only training uses; the last layer is left to gather."""

    def __init__(self, resnet: ResNetForImageClassification) -> None:
        super().__init__()
        self.resnet = resnet
        self.cells = Taught(nn.Identity(), resnet.config.hidden_sizes[-1])

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of both kinds of heads together, and the figures to show."""
        batch = batch.to(self.resnet.device)
        logits, cells = self.look(batch.pixels)
        logits = logits.float()
        whole = functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum")
        whole = whole / len(logits)
        dense = self.cells.dense_loss(cells, batch)
        right = ((logits > 0) == (batch.labels > 0.5))[:, : len(SUBJECTS)].all(1).float().mean()
        figures = {"whole": whole.item(), "dense": dense.item(), "right": right.item()}
        return 0.3 * whole + 5.0 * dense, figures

    def look(
        self, pixels: Float[Tensor, "scene 3 height width"]
    ) -> tuple[Float[Tensor, "scene label"], Float[Tensor, "scene cell channel"]]:
        """The logits, and the cells before the last layer."""
        body = self.resnet.resnet
        hidden = body.embedder(pixels)
        for stage in body.encoder.stages[:-1]:
            hidden = stage(hidden)
        *before, last = body.encoder.stages[-1].layers
        for layer in before:
            hidden = layer(hidden)
        return self.resnet.classifier(body.pooler(last(hidden))), hidden.flatten(2).transpose(1, 2)


def train_resnet(
    data: Labelled, fresh: Labelled, plan: Plan, *, shape: ResNetShape, batch: int, rate: float
) -> ResNetForImageClassification:
    """Train on scenes drawn at random from `data`, softened as the judge's are; measure on `fresh`."""
    torch.manual_seed(plan.seed)
    taught = TaughtResNet(new_resnet(shape))

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(data), (batch,), generator=generator)
        drawn = make_batch(data, rows, PATCH, generator)
        return model(replace(drawn, pixels=degrade(drawn.pixels, generator)))

    def report(model: nn.Module, _: int) -> dict[str, float]:
        model.eval()
        figures = exact_labels(model.resnet, fresh)
        model.train()
        return figures

    return run(taught, optimizers_for(taught, rate), step, plan, report=report).resnet


@torch.no_grad()
def exact_labels(model: ResNetForImageClassification, fresh: Labelled) -> dict[str, float]:
    """The shares of scenes whose subjects, and whose labels, are all told right at .5."""
    truth = label_matrix(fresh, torch.arange(len(fresh))) > 0.5
    logits = [
        model((part.permute(0, 3, 1, 2).float() / 127.5 - 1.0).to(model.device)).logits.cpu()
        for part in fresh.images.split(250)
    ]
    right = (torch.cat(logits) > 0) == truth
    return {
        "subjects": right[:, : len(SUBJECTS)].all(1).float().mean().item(),
        "all": right.all(1).float().mean().item(),
    }
