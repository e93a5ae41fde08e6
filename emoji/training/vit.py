"""Trains the ViTs, the judge and the classifier, with the truth of every patch as a teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from ..world import COLOURS, LABELS, SUBJECTS
from .degrade import degrade
from .labelled import NOBODY, Batch, Labelled, label_matrix, make_batch
from .loop import Plan, run
from .optimizers import optimizers_for

Task = Literal["judge", "classifier"]


@dataclass(frozen=True)
class Shape:
    """The size of a ViT."""

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    patch: int = 8
    side: int = 64


def new_vit(task: Task, shape: Shape) -> ViTForImageClassification:
    """A random ViT: a sigmoid for each label of `LABELS`, or a softmax over `SUBJECTS`."""
    names = LABELS if task == "judge" else SUBJECTS
    config = ViTConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        image_size=shape.side,
        patch_size=shape.patch,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="multi_label_classification" if task == "judge" else "single_label_classification",
    )
    model = ViTForImageClassification(config)
    model.set_attn_implementation("eager")  # a CPU takes half the time for it at so few tokens
    return model


class Taught(nn.Module):
    """A vision transformer with two linear heads on its patches, which only training uses.

    A ViT learns slowly from whole-image labels; told which subject and which colour each patch shows, the way
    Touvron et al. 2021 tell a token what a teacher sees, it learns several times faster. The patches are read
    before the last layer, which is left to gather what they hold.
    """

    def __init__(self, vit: nn.Module, hidden: int) -> None:
        super().__init__()
        self.vit = vit
        self.names = nn.Linear(hidden, NOBODY + 1)
        self.colours = nn.Linear(hidden, len(COLOURS) + 1)

    def dense_loss(self, patches: Float[Tensor, "scene patch hidden"], batch: Batch) -> Tensor:
        """Cross-entropy against the shares of each patch; patches that show something weigh four times."""
        patches = functional.layer_norm(patches, patches.shape[-1:])
        weight = 1.0 + 3.0 * (1.0 - batch.patch_names[..., -1])
        losses = [
            functional.cross_entropy(
                head(patches).float().flatten(0, 1), truth.flatten(0, 1), reduction="none"
            )
            for head, truth in ((self.names, batch.patch_names), (self.colours, batch.patch_colours))
        ]
        return (sum(losses) * weight.flatten()).sum() / weight.sum()

    def forward(self, batch: Batch, task: Task) -> tuple[Tensor, dict[str, float]]:
        """The loss of both kinds of heads together, and the figures to show."""
        batch = batch.to(self.names.weight.device)
        seen = self.vit(batch.pixels, output_hidden_states=True)
        logits = seen.logits.float()
        if task == "judge":
            whole = functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum") / len(
                logits
            )
            right = ((logits > 0) == (batch.labels > 0.5))[:, : len(SUBJECTS)].all(1).float().mean()
        else:
            truth = batch.labels[:, : len(SUBJECTS)].argmax(1)
            whole = functional.cross_entropy(logits, truth)
            right = (logits.argmax(1) == truth).float().mean()
        dense = self.dense_loss(seen.hidden_states[-2][:, 1:], batch)
        share = 0.3 if task == "judge" else 2.0  # a cross-entropy is small beside a sum over 156 labels
        figures = {"whole": whole.item(), "dense": dense.item(), "right": right.item()}
        return share * whole + 5.0 * dense, figures


def train_vit(
    task: Task,
    data: Labelled,
    fresh: Labelled,
    plan: Plan,
    *,
    shape: Shape,
    batch: int,
    rate: float = 2e-3,
    begin: ViTForImageClassification | None = None,
) -> ViTForImageClassification:
    """Train on scenes drawn at random from `data`, measure on `fresh` after each checkpoint.

    `begin`: a model of the same shape whose transformer, without its head, this one begins as.
    """
    torch.manual_seed(plan.seed)
    vit = new_vit(task, shape)
    if begin is not None:
        vit.vit.load_state_dict(begin.vit.state_dict())
    taught = Taught(vit, shape.hidden)

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(data), (batch,), generator=generator)
        drawn = make_batch(data, rows, shape.patch, generator)
        soft = degrade(drawn.pixels, generator)
        return model(replace(drawn, pixels=soft), task)

    def report(model: nn.Module, _: int) -> dict[str, float]:
        return exact_match(model.vit, fresh, task)

    optimizers = optimizers_for(taught, rate)
    return run(taught, optimizers, step, plan, report=report).vit


@torch.inference_mode()
def exact_match(
    model: ViTForImageClassification, fresh: Labelled, task: Task, threshold: float = 0.5
) -> dict[str, float]:
    """Shares of scenes judged right: all 24 subjects, all labels; as drawn, and blurred and noisy."""
    generator = torch.Generator().manual_seed(1)
    figures: dict[str, float] = {}
    for name, share in (("clean", 0.0), ("soft", 1.0)):
        truths, subjects, everything = label_matrix(fresh, torch.arange(len(fresh))), [], []
        for at in range(0, len(fresh), 250):
            pixels = fresh.images[at : at + 250].permute(0, 3, 1, 2).float() / 127.5 - 1.0
            logits = model(degrade(pixels, generator, share).to(model.device)).logits.cpu()
            truth = truths[at : at + 250]
            if task == "classifier":
                subjects.append(logits.argmax(1) == truth[:, : len(SUBJECTS)].argmax(1))
                continue
            right = (logits.sigmoid() > threshold) == (truth > 0.5)
            subjects.append(right[:, : len(SUBJECTS)].all(1))
            everything.append(right.all(1))
        figures[f"{name}_subjects"] = torch.cat(subjects).float().mean().item()
        if everything:
            figures[f"{name}_all"] = torch.cat(everything).float().mean().item()
    return figures
