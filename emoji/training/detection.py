"""Trains DETR on scenes: its backbone begins as the ResNet, and its cells are taught what they lie on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig, ResNetForImageClassification
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from ..average_precision import Boxes, average_precision, detect
from ..vocabulary import SUBJECTS
from .degrade import degrade
from .labelled import MOST_SUBJECTS, NOBODY, Labelled, move, patch_shares
from .loop import Plan, run
from .optimizers import optimizers_for
from .resnet import PATCH

BACKBONE_SHARE: Final = 0.2
"""Of the learning rate, for the backbone: what it knows already is nearly enough."""


@dataclass(frozen=True)
class DetrShape:
    """The size of a DETR around its backbone."""

    hidden: int = 128
    encoder: int = 2
    decoder: int = 3
    heads: int = 4
    queries: int = 8


def new_detr(backbone: ResNetForImageClassification, shape: DetrShape) -> DetrForObjectDetection:
    """A DETR (Carion et al. 2020) whose backbone is a copy of the ResNet's body, batch norms frozen."""
    trained = backbone.config
    names = ("embedding_size", "hidden_sizes", "depths", "layer_type")
    stages = {name: getattr(trained, name) for name in names}
    config = DetrConfig(
        backbone_config=ResNetConfig(**stages, out_features=[f"stage{len(trained.depths)}"]),
        d_model=shape.hidden,
        encoder_layers=shape.encoder,
        decoder_layers=shape.decoder,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=4 * shape.hidden,
        decoder_ffn_dim=4 * shape.hidden,
        num_queries=shape.queries,
        dropout=0.0,
        eos_coefficient=0.2,
        id2label=dict(enumerate(SUBJECTS)),
        label2id={name: index for index, name in enumerate(SUBJECTS)},
    )
    model = DetrForObjectDetection(config)
    model.set_attn_implementation("eager")  # a CPU takes half the time for it at so few tokens
    model.model.backbone.model.load_state_dict(
        {
            name: tensor
            for name, tensor in backbone.resnet.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
    )
    model.model.unfreeze_backbone()
    _begin_as_published(model)
    return model


def _begin_as_published(model: DetrForObjectDetection) -> None:
    """Xavier weights and queries far apart, where transformers draws all of them with deviation .02.

    The boxes begin as large as subjects are, about two fifths of the image's sides.
    """
    for name, parameter in model.named_parameters():
        if ".layers." in name and parameter.ndim == 2 and "backbone" not in name:
            nn.init.xavier_uniform_(parameter)
    nn.init.normal_(model.model.query_position_embeddings.weight)
    nn.init.xavier_uniform_(model.model.input_projection.weight)
    nn.init.constant_(model.bbox_predictor.layers[-1].bias[2:], -0.4)


@dataclass(frozen=True)
class Seen:
    """What a training step sees; boxes are centre and size as parts of the image's sides, 0 to 1."""

    pixels: Float[Tensor, "scene 3 height width"]
    names: Int64[Tensor, "scene slot"]
    """Index into `SUBJECTS`, or `NOBODY` where a scene has fewer subjects."""
    boxes: Float[Tensor, "scene slot 4"]
    shares: Float[Tensor, "scene cell slot_or_none"]
    """Which share of each cell is the background's, in the first column, and each subject's."""

    def targets(self, device: torch.device) -> list[dict[str, Tensor]]:
        """As the Hungarian loss takes them."""
        there = self.names != NOBODY
        return [
            {"class_labels": names[own].to(device), "boxes": boxes[own].to(device)}
            for names, boxes, own in zip(self.names, self.boxes, there, strict=True)
        ]


def see(data: Labelled, rows: Int64[Tensor, "scene"], generator: torch.Generator) -> Seen:
    """These scenes, mirrored, shifted and softened at random, with the boxes of what is left to be seen."""
    images, slots = move(data.images[rows], data.slots[rows], generator)
    boxes, there = boxes_of(slots)
    names = torch.where(there, data.names[rows, 1:].long(), NOBODY)
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return Seen(degrade(pixels, generator, share=0.3), names, boxes, patch_shares(slots, PATCH))


def boxes_of(
    slots: UInt8[Tensor, "scene height width"],
) -> tuple[Float[Tensor, "scene slot 4"], Bool[Tensor, "scene slot"]]:
    """The bounds of each slot as centre and size, parts of the image's sides; and which slots are seen."""
    masks = torch.stack([slots == slot for slot in range(1, MOST_SUBJECTS + 1)], 1)
    ends = []
    for axis in (-2, -1):
        any_seen = masks.any(axis).float()  # along the other axis: across first
        count = any_seen.shape[-1]
        first, last = any_seen.argmax(-1), count - any_seen.flip(-1).argmax(-1)
        ends.append((first / count, last / count))
    (left, right), (top, bottom) = ends
    boxes = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], -1)
    return boxes, masks.flatten(2).any(-1)


class TaughtDetr(nn.Module):
    """A DETR with two heads on its encoded image that only training uses.

    Queries learn where to look long after there is something to be seen: told of every cell which subject it
    lies on and that subject's box, the encoder soon holds in each cell what a query has but to copy.
    """

    def __init__(self, detr: DetrForObjectDetection) -> None:
        super().__init__()
        self.detr = detr
        self.names = nn.Linear(detr.config.d_model, NOBODY + 1)
        self.boxes = nn.Linear(detr.config.d_model, 4)

    def forward(self, seen: Seen) -> tuple[Tensor, dict[str, float]]:
        """The Hungarian loss of all decoder layers, the cells' losses, and the figures to show."""
        detr, device = self.detr, self.detr.device
        outputs = detr.model(seen.pixels.to(device), output_hidden_states=True)
        with torch.autocast(device.type, enabled=False):  # half precision is half a pixel in a box
            layers = [self.box_loss(states, seen) for states in self._decoded(outputs)]
            cells = outputs.encoder_last_hidden_state.float()
            names, places = self.cell_losses(cells, seen)
        found = torch.stack([loss for loss, _ in layers]).sum()
        figures = {"found": found, "names": names, "places": places}
        figures |= {name: layers[-1][1][name] for name in ("loss_ce", "loss_bbox", "loss_giou")}
        return found + 2.0 * names + 5.0 * places, {
            name: float(one.detach()) for name, one in figures.items()
        }

    def box_loss(
        self, states: Float[Tensor, "scene query channel"], seen: Seen
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """transformers' Hungarian loss of the boxes that the heads read from these queries, and its parts."""
        detr, device = self.detr, self.detr.device
        logits, boxes = detr.class_labels_classifier(states), detr.bbox_predictor(states).sigmoid()
        loss, parts, _ = ForObjectDetectionLoss(logits, seen.targets(device), device, boxes, detr.config)
        return loss, parts

    def _decoded(self, outputs: Any) -> list[Float[Tensor, "scene query channel"]]:
        """What the heads read after each layer of the decoder: its queries, normalised as the last one's are.

        transformers' own auxiliary loss would hand the normalised queries to the next layer, which the
        published DETR does not, and the finished model would have to be called in the same way.
        """
        _, *between, last = outputs.decoder_hidden_states
        return [self.detr.model.decoder.layernorm(one.float()) for one in between] + [last.float()]

    def cell_losses(self, cells: Float[Tensor, "scene cell channel"], seen: Seen) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the cells' names, and the distance of their boxes from their subject's.

        Cells on a subject weigh four times in the first, and alone in the second.
        """
        shares, device = seen.shares.to(cells.device), cells.device
        named = functional.one_hot(seen.names.to(device), NOBODY + 1).float()
        nobody = functional.one_hot(torch.full((len(cells), 1), NOBODY, device=device), NOBODY + 1)
        truth = shares @ torch.cat([nobody.float(), named], 1)
        entropy = functional.cross_entropy(
            self.names(cells).flatten(0, 1), truth.flatten(0, 1), reduction="none"
        )
        weight = 1.0 + 3.0 * (1.0 - shares[..., 0].flatten())
        on, slot = shares[..., 1:].max(-1)
        own = seen.boxes.to(device).gather(1, slot[..., None].expand(-1, -1, 4))
        away = (self.boxes(cells).sigmoid() - own).abs().sum(-1)
        return (entropy * weight).sum() / weight.sum(), (away * on).sum() / on.sum().clamp(min=1.0)


def train_detr(
    data: Labelled,
    fresh: Labelled,
    backbone: ResNetForImageClassification,
    plan: Plan,
    *,
    shape: DetrShape,
    batch: int,
    rate: float,
) -> DetrForObjectDetection:
    """Train on scenes drawn at random from `data`; measure the average precision on `fresh`."""
    torch.manual_seed(plan.seed)
    taught = TaughtDetr(new_detr(backbone, shape))

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(data), (batch,), generator=generator)
        return model(see(data, rows, generator))

    def report(model: nn.Module, _: int) -> dict[str, float]:
        return {"ap50": mean_precision(model.detr, fresh)}

    optimizers = optimizers_for(taught, rate, slower={"backbone": BACKBONE_SHARE})
    return run(taught, optimizers, step, plan, report=report).detr


def mean_precision(model: DetrForObjectDetection, fresh: Labelled, threshold: float = 0.5) -> float:
    """The mean over the classes of `average_precision` on these scenes."""
    precisions = average_precision(detect(model, fresh.images), true_boxes(fresh), threshold)
    return float(np.mean(list(precisions.values())))


def true_boxes(data: Labelled) -> list[Boxes]:
    """What is in each scene, in pixels."""
    boxes, there = boxes_of(data.slots)
    centre, size = boxes.split(2, -1)
    height, width = data.slots.shape[1:]
    corners = torch.cat([centre - size / 2, centre + size / 2], -1) * torch.tensor(
        [width, height, width, height]
    )
    return [
        Boxes(tuple(SUBJECTS[name] for name in names[own].tolist()), rows[own].numpy())
        for names, rows, own in zip(data.names[:, 1:].long(), corners, there, strict=True)
    ]
