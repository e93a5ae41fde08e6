"""Trains the CLIP on clean captions: contrastively, on batches whose captions are easily confused."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from ..captions import Named, write_caption
from ..tokenizer import MAX_LENGTH
from ..vocabulary import COLOURS, LABELS, SUBJECTS
from .degrade import degrade
from .labelled import MOST_SUBJECTS, NOBODY, Batch, Labelled, label_matrix, make_batch
from .loop import Plan, run
from .optimizers import optimizers_for
from .vit import Shape, Taught

COLOUR_NAMED_SHARE: Final = 0.65
POOL: Final = 9
"""Subjects that half a batch is drawn from: 9 of 24 make at most 36 pairs, so that most share one."""


def new_clip(
    tokenizer: CLIPTokenizer, shape: Shape, text_hidden: int = 128, text_layers: int = 4
) -> CLIPModel:
    """A random CLIP (Radford et al. 2021) with a text tower as large as the diffusion model's."""
    sizes = {"hidden_act": "gelu", "projection_dim": 128}
    text = sizes | {
        "vocab_size": len(tokenizer),
        "hidden_size": text_hidden,
        "intermediate_size": 4 * text_hidden,
        "num_hidden_layers": text_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = sizes | {
        "hidden_size": shape.hidden,
        "intermediate_size": 4 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "image_size": shape.side,
        "patch_size": shape.patch,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    model.set_attn_implementation("eager")  # a CPU takes half the time for it at so few tokens
    return model


class TaughtClip(nn.Module):
    """A CLIP with heads that only training uses: for what patches and images show and captions name.

    The heads teach either tower its own side long before the contrast between them could.
    """

    def __init__(self, clip: CLIPModel, hidden: int, text_hidden: int) -> None:
        super().__init__()
        self.clip = clip
        self.patches = Taught(nn.Identity(), hidden)
        self.shown = nn.Linear(hidden, len(LABELS))
        self.told = nn.Linear(text_hidden, len(LABELS))

    def forward(
        self, batch: Batch, tokens: dict[str, Tensor], told: Float[Tensor, "scene label"]
    ) -> tuple[Tensor, dict[str, float]]:
        """The contrastive loss and those of the heads together, and the figures to show."""
        device = self.clip.device
        batch, told = batch.to(device), told.to(device)
        vision = self.clip.vision_model(batch.pixels, output_hidden_states=True)
        text = self.clip.text_model(**{name: ids.to(device) for name, ids in tokens.items()})
        images = functional.normalize(self.clip.visual_projection(vision.pooler_output).float(), dim=-1)
        texts = functional.normalize(self.clip.text_projection(text.pooler_output).float(), dim=-1)
        logits = self.clip.logit_scale.float().clamp(max=4.6).exp() * images @ texts.T
        true = fits(batch.labels, told)
        contrast = contrastive_loss(logits, true)
        dense = self.patches.dense_loss(vision.hidden_states[-2][:, 1:], batch)
        heads = ((self.shown(vision.pooler_output), batch.labels), (self.told(text.pooler_output), told))
        by_head = [functional.binary_cross_entropy_with_logits(a.float(), b) for a, b in heads]
        labels = torch.stack(by_head).sum() * len(LABELS)
        first = logits.argmax(1)
        right = true[torch.arange(len(first)), first].float().mean()
        figures = {"contrast": contrast, "dense": dense, "labels": labels, "right": right}
        loss = 2.0 * contrast + 5.0 * dense + 0.2 * labels
        return loss, {name: figure.item() for name, figure in figures.items()}


def fits(
    shown: Float[Tensor, "image label"], told: Float[Tensor, "caption label"]
) -> Bool[Tensor, "image caption"]:
    """Whether each caption is true of each image: the same subjects, no colour that the image lacks."""
    count = len(SUBJECTS)
    apart = torch.cdist(shown[:, :count], told[:, :count], p=1) < 0.5
    wrong = (1.0 - shown[:, count:]) @ told[:, count:].T
    return apart & (wrong < 0.5)


def contrastive_loss(logits: Float[Tensor, "image caption"], true: Bool[Tensor, "image caption"]) -> Tensor:
    """The symmetric cross-entropy of Radford et al. 2021, figure 3; all true captions share the target."""
    target = true.float()
    by_image = functional.cross_entropy(logits, target / target.sum(1, keepdim=True))
    by_caption = functional.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
    return 0.5 * (by_image + by_caption)


def tell(
    data: Labelled, rows: Int64[Tensor, "scene"], seed: int
) -> tuple[list[str], Float[Tensor, "scene label"]]:
    """A new caption for each scene, its subjects in any order, and the labels that it names."""
    rng = np.random.default_rng(seed)
    captions, told = [], torch.zeros(len(rows), len(LABELS))
    for index, row in enumerate(rows.tolist()):
        named = _named(data, row, rng)
        captions.append(write_caption(named, rng))
        for name, colour in named:
            told[index, LABELS.index(name)] = 1.0
            if colour:
                told[index, LABELS.index(f"{colour} {name}")] = 1.0
    return captions, told


def _named(data: Labelled, row: int, rng: np.random.Generator) -> list[Named]:
    slots = [slot for slot in range(1, MOST_SUBJECTS + 1) if data.names[row, slot] != NOBODY]
    named: list[Named] = []
    for slot in rng.permutation(slots):
        colour = int(data.colours[row, slot])
        kept = colour < len(COLOURS) and rng.random() < COLOUR_NAMED_SHARE
        named.append((SUBJECTS[int(data.names[row, slot])], COLOURS[colour] if kept else None))
    return named


class Alike:
    """Draws rows whose scenes are easily mistaken for each other: all their subjects come from a few."""

    def __init__(self, data: Labelled) -> None:
        names = functional.one_hot(data.names[:, 1:].long(), NOBODY + 1)[..., :NOBODY]
        self._drawn = names.sum(1).float()

    def rows(self, count: int, generator: torch.Generator) -> Int64[Tensor, "scene"]:
        """`count` rows, half of them from a pool of `POOL` subjects, half from anywhere."""
        anywhere = torch.randint(len(self._drawn), (count,), generator=generator)
        outside = torch.ones(NOBODY)
        outside[torch.randperm(NOBODY, generator=generator)[:POOL]] = 0.0
        alike = torch.nonzero(self._drawn @ outside == 0)[:, 0]
        if not len(alike):
            return anywhere
        chosen = alike[torch.randint(len(alike), (count,), generator=generator)]
        return torch.where(torch.arange(count) < count // 2, chosen, anywhere)


def train_clip(
    data: Labelled,
    fresh: Labelled,
    tokenizer: CLIPTokenizer,
    plan: Plan,
    *,
    shape: Shape,
    batch: int,
    rate: float = 2e-3,
) -> CLIPModel:
    """Train on scenes of `data` with captions written anew at each step; measure retrieval on `fresh`."""
    torch.manual_seed(plan.seed)
    clip = new_clip(tokenizer, shape)
    taught, alike = TaughtClip(clip, shape.hidden, clip.config.text_config.hidden_size), Alike(data)

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        rows = alike.rows(batch, generator)
        drawn = make_batch(data, rows, shape.patch, generator)
        captions, told = tell(data, rows, int(torch.randint(2**31, (), generator=generator)))
        soft = degrade(drawn.pixels, generator, share=0.3)
        tokens = tokenizer(captions, padding=True, return_tensors="pt")
        return model(
            Batch(soft, drawn.labels, drawn.patch_names, drawn.patch_colours, rows), dict(tokens), told
        )

    def report(model: nn.Module, _: int) -> dict[str, float]:
        return {"retrieval": retrieval(model.clip, tokenizer, fresh)[0]}

    return run(taught, optimizers_for(taught, rate), step, plan, report=report).clip


@torch.inference_mode()
def retrieval(
    clip: CLIPModel, tokenizer: CLIPTokenizer, fresh: Labelled, size: int = 100, seed: int = 0
) -> tuple[float, int]:
    """Image-to-caption retrieval, top-1, 0 to 1, over the images of all groups of `size` captions; how many.

    Raises `ValueError` when `fresh` has too few scenes for one group.
    """
    captions, told = tell(fresh, torch.arange(len(fresh)), seed)
    right = []
    for rows in distinct_groups(fresh, told, size):
        pixels = (fresh.images[rows].permute(0, 3, 1, 2).float() / 127.5 - 1.0).to(clip.device)
        images = functional.normalize(clip.visual_projection(clip.vision_model(pixels).pooler_output), dim=-1)
        tokens = tokenizer([captions[row] for row in rows], padding=True, return_tensors="pt").to(clip.device)
        texts = functional.normalize(clip.text_projection(clip.text_model(**tokens).pooler_output), dim=-1)
        right.append((images @ texts.T).argmax(1).cpu() == torch.arange(size))
    if not right:
        raise ValueError(
            f"{len(fresh)} scenes do not make one group of {size} distinct captions; draw more scenes"
        )
    return torch.cat(right).float().mean().item(), len(right) * size


def distinct_groups(
    fresh: Labelled, told: Float[Tensor, "scene label"], size: int
) -> list[Int64[Tensor, "member"]]:
    """Groups of `size` scenes in which each caption is true of its own image alone: one answer is right.

    In the order drawn, a scene joins the first group that it cannot be confused with. Two-subject scenes
    share their subjects with a dozen others of the group; the same two in other colours may be among them.
    """
    true = fits(label_matrix(fresh, torch.arange(len(fresh))), told)
    confused = true | true.T
    groups: list[list[int]] = []
    for row in range(len(fresh)):
        for group in groups:
            if len(group) < size and not confused[row, group].any():
                group.append(row)
                break
        else:
            groups.append([row])
    return [torch.tensor(group) for group in groups if len(group) == size]
