"""Trains VisualBERT and LXMERT to answer questions on scenes that were looked at region by region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float, Int8, Int64
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertTokenizer,
    LxmertConfig,
    LxmertForQuestionAnswering,
    VisualBertConfig,
    VisualBertForQuestionAnswering,
    ViTForImageClassification,
)

from ..answering import Answerer, answer, answer_scores, question_inputs
from ..questions import ANSWERS, KINDS, Question, Shown, ask
from ..regions import choose_regions, positions, region_features, shown
from ..vocabulary import COLOURS, SUBJECTS
from ..world import Pairs, Scene, scenes
from .loop import Plan, run
from .optimizers import optimizers_for
from .reading import hide, text_settings

Kind = Literal["visual-bert", "lxmert"]
HIDDEN_SHARE: Final = 0.15
"""Questions of which some words, or some regions, are hidden: maps of relevance are tested by hiding."""
NOISE: Final = 0.15
"""Standard deviation of what is added to the features while training; theirs is about .9."""
NONE: Final = (len(SUBJECTS), len(COLOURS))
"""The name and the colour of a region that is no subject's."""


@dataclass(frozen=True)
class AnswerShape:
    """The size of a model that answers; `regions` and `cross` count LXMERT's layers of these kinds."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    regions: int = 0
    cross: int = 0
    channels: int = 128
    """Of a region's features."""


@dataclass(frozen=True)
class Looked:
    """Scenes as these models see them, and what questions need to know."""

    features: Float[Tensor, "scene region channel"]
    places: Float[Tensor, "scene region 4"]
    subjects: Int8[Tensor, "scene region"]
    """Which of the scene's subjects a region is the box of, or -1."""
    names: Int8[Tensor, "scene subject"]
    """Index into `SUBJECTS`, or -1 where a scene has fewer subjects."""
    colours: Int8[Tensor, "scene subject"]
    """Index into `COLOURS`, or -1."""
    boxes: Int64[Tensor, "scene subject 4"]

    def __len__(self) -> int:
        return len(self.features)

    def save(self, path: Path) -> None:
        """Write to one file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Looked:
        """Read what `save` wrote."""
        return cls(**torch.load(path, weights_only=True))

    def shown(self) -> list[tuple[Shown, ...]]:
        """The subjects of each scene."""
        rows = zip(self.names.tolist(), self.colours.tolist(), self.boxes.tolist(), strict=True)
        return [
            tuple(
                Shown(SUBJECTS[name], COLOURS[colour] if colour >= 0 else None, tuple(box))
                for name, colour, box in zip(*row, strict=True)
                if name >= 0
            )
            for row in rows
        ]

    def region_truth(
        self, rows: Int64[Tensor, "row"]
    ) -> tuple[Int64[Tensor, "row region"], Int64[Tensor, "row region"]]:
        """The name and the colour of what each region is the box of, or `NONE`."""
        of = self.subjects[rows].long()
        truths = []
        for known, none in ((self.names, NONE[0]), (self.colours, NONE[1])):
            there = known[rows].long().gather(1, of.clamp(min=0))
            truths.append(torch.where((of < 0) | (there < 0), none, there))
        return truths[0], truths[1]


def look(drawn: Sequence[Scene], classifier: ViTForImageClassification, seed: int) -> Looked:
    """Choose each scene's regions and have the classifier look at them."""
    rng = np.random.default_rng([seed, 0x10])
    seen = [shown(scene) for scene in drawn]
    chosen = [choose_regions([one.box for one in own], rng) for own in seen]
    boxes = [regions.boxes for regions in chosen]
    most = max(len(own) for own in seen)

    def padded(values: list[list[int]]) -> Int8[Tensor, "scene subject"]:
        return torch.tensor([row + [-1] * (most - len(row)) for row in values], dtype=torch.int8)

    return Looked(
        region_features(classifier, [Image.fromarray(scene.image) for scene in drawn], boxes),
        positions(boxes),
        torch.tensor([regions.subjects for regions in chosen], dtype=torch.int8),
        padded([[SUBJECTS.index(one.name) for one in own] for own in seen]),
        padded([[COLOURS.index(one.colour) if one.colour else -1 for one in own] for own in seen]),
        torch.tensor([[one.box for one in own] + [(0, 0, 0, 0)] * (most - len(own)) for own in seen]),
    )


def draw_looked(
    seed: int, counts: dict[int | None, int], classifier: ViTForImageClassification, pairs: Pairs = "any"
) -> Looked:
    """Draw scenes, `counts` of each number of subjects, and look at them."""
    drawn: list[Scene] = []
    for number, count in counts.items():
        drawn += scenes(seed * 10 + (number or 0), count, subjects=number, pairs=pairs)
    return look(drawn, classifier, seed)


def new_answerer(kind: Kind, tokenizer: BertTokenizer, shape: AnswerShape) -> Answerer:
    """A random VisualBERT (Li et al. 2019) or LXMERT (Tan & Bansal 2019) with `ANSWERS` to choose from."""
    settings = text_settings(tokenizer, shape.hidden, shape.heads) | {
        "id2label": dict(enumerate(ANSWERS)),
        "label2id": {word: index for index, word in enumerate(ANSWERS)},
    }
    if kind == "lxmert":
        return LxmertForQuestionAnswering(
            LxmertConfig(
                **settings,
                num_qa_labels=len(ANSWERS),
                l_layers=shape.layers,
                r_layers=shape.regions,
                x_layers=shape.cross,
                visual_feat_dim=shape.channels,
            )
        )
    config = VisualBertConfig(
        **settings, num_hidden_layers=shape.layers, visual_embedding_dim=shape.channels + 4
    )
    model = VisualBertForQuestionAnswering(config)
    # Four numbers are little beside the many features, and questions of sides rest on them alone.
    with torch.no_grad():
        model.visual_bert.embeddings.visual_projection.weight[:, -4:] *= 8.0
    return model


class TaughtAnswerer(nn.Module):
    """A model that answers, taught besides to place a region near the words for what it shows.

    Which region a word means can be found by comparing them only once both are written alike. So, while
    training only, each region's first state has to be most like the embedding of its subject's word, and of
    its colour's, among all such words; two vectors more stand for "no subject" and "no colour".
    """

    def __init__(self, model: Answerer, tokenizer: BertTokenizer) -> None:
        super().__init__()
        self.model = model
        hidden = model.config.hidden_size
        self.none = nn.Parameter(torch.randn(2, hidden) * 0.02)
        self.reads = nn.ModuleList([nn.Linear(hidden, hidden, bias=False) for _ in range(2)])
        for name, words in (("names", SUBJECTS), ("colours", COLOURS)):
            first = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
            self.register_buffer(name, torch.tensor(first), persistent=False)

    def forward(
        self,
        inputs: dict[str, Tensor],
        answers: Int64[Tensor, "question"],
        truth: tuple[Int64[Tensor, "question region"], Int64[Tensor, "question region"]],
    ) -> tuple[Tensor, dict[str, float]]:
        """The cross-entropy of the answers, that of the regions' words, and the figures to show."""
        answers = answers.to(self.model.device)
        outputs = self.model(**inputs, output_hidden_states=True)
        logits = answer_scores(outputs).float()
        loss = functional.cross_entropy(logits, answers)
        words = self.word_loss(self._regions(outputs, truth[0].shape[1]).float(), truth)
        right = (logits.argmax(1) == answers).float().mean()
        figures = {"answer": loss.item(), "words": words.item(), "right": right.item()}
        return loss + 0.5 * words, figures

    def word_loss(
        self,
        regions: Float[Tensor, "question region hidden"],
        truth: tuple[Int64[Tensor, "question region"], Int64[Tensor, "question region"]],
    ) -> Tensor:
        """Cross-entropy of the names' words and of the colours' against the regions' states."""
        table = self.model.get_input_embeddings().weight.float()
        loss = regions.new_zeros(())
        for at, (ids, true) in enumerate(zip((self.names, self.colours), truth, strict=True)):
            words = torch.cat([table[ids], self.none[at : at + 1]])
            read, words = (
                functional.layer_norm(one, one.shape[-1:]) for one in (self.reads[at](regions).float(), words)
            )
            logits = read @ words.T / words.shape[1] ** 0.5
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), true.to(logits.device).flatten())
        return loss

    def _regions(self, outputs: object, count: int) -> Float[Tensor, "question region hidden"]:
        if isinstance(self.model, LxmertForQuestionAnswering):
            return outputs.vision_hidden_states[0]  # type: ignore[attr-defined]
        return outputs.hidden_states[0][:, -count:]  # type: ignore[attr-defined]


def train_answerer(
    kind: Kind,
    data: Looked,
    fresh: Looked,
    tokenizer: BertTokenizer,
    plan: Plan,
    *,
    shape: AnswerShape,
    batch: int,
    rate: float,
) -> Answerer:
    """Train on new questions on the scenes of `data` at each step; measure on `fresh`."""
    torch.manual_seed(plan.seed)
    taught = TaughtAnswerer(new_answerer(kind, tokenizer, shape), tokenizer)
    known = data.shown()

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(data), (batch,), generator=generator)
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        asked = [ask(known[row], rng) for row in rows.tolist()]
        features = data.features[rows].float()
        features = features + NOISE * torch.randn(features.shape, generator=generator)
        left = torch.rand(features.shape[:2], generator=generator) >= 0.25
        left |= torch.rand(len(rows), 1, generator=generator) >= HIDDEN_SHARE
        texts = [hide(question.text, rng, tokenizer.mask_token, HIDDEN_SHARE) for question in asked]
        inputs = question_inputs(
            taught.model, tokenizer, texts, features * left[..., None], data.places[rows]
        )
        return model(inputs, answer_ids(asked), data.region_truth(rows))

    def report(model: nn.Module, _: int) -> dict[str, float]:
        return accuracy(model.model, tokenizer, fresh)

    return run(taught, optimizers_for(taught, rate), step, plan, report=report).model


def answer_ids(asked: Sequence[Question]) -> Int64[Tensor, "question"]:
    """The right answers, as indices into `ANSWERS`."""
    return torch.tensor([ANSWERS.index(question.answer) for question in asked])


def accuracy(model: Answerer, tokenizer: BertTokenizer, fresh: Looked, seed: int = 0) -> dict[str, float]:
    """The shares of questions answered right, all and by kind, two questions on every scene."""
    return {name: share for name, (share, _) in accuracy_by_kind(model, tokenizer, fresh, seed).items()}


def accuracy_by_kind(
    model: Answerer, tokenizer: BertTokenizer, fresh: Looked, seed: int = 0, each: int = 2
) -> dict[str, tuple[float, int]]:
    """The share answered right, and how many were asked, `each` on every scene: all, and by kind."""
    rng = np.random.default_rng(seed)
    rows = torch.arange(len(fresh)).repeat(each)
    known = fresh.shown()
    asked = [ask(known[row], rng) for row in rows.tolist()]
    found = []
    for at in range(0, len(rows), 250):
        part, texts = rows[at : at + 250], [question.text for question in asked[at : at + 250]]
        inputs = question_inputs(model, tokenizer, texts, fresh.features[part].float(), fresh.places[part])
        found.append(answer(model, inputs))
    right = torch.cat(found) == answer_ids(asked)
    kinds = {name: torch.tensor([question.kind == name for question in asked]) for name in KINDS}
    parts = {"all": torch.ones(len(asked), dtype=torch.bool), **kinds}
    return {
        name: (right[own].float().mean().item(), int(own.sum())) for name, own in parts.items() if own.any()
    }
