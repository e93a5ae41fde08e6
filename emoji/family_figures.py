"""Measures the embedded models of the other families on scenes, questions and captions that none has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw

from .average_precision import average_precision, detect
from .claims import draw_caption
from .figures import Figure, Sampled, precision_recall
from .models import load_bert, load_classifier, load_detr, load_lxmert, load_resnet, load_visual_bert
from .vocabulary import SUBJECTS
from .world import scenes

SEED = 7_010
"""Scenes of this seed and the next few are drawn for measuring alone."""


@torch.no_grad()
def measure_resnet(count: int = 2000, seed: int = SEED) -> list[Figure]:
    """As the judge is measured: exact match on fresh scenes of any pairs, precision and recall."""
    from .training.labelled import label_matrix, pack

    model, drawn = load_resnet(), pack(list(scenes(seed, count, pairs="any")))
    truth = (label_matrix(drawn, torch.arange(count)) > 0.5).numpy()
    pixels = drawn.images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    logits = [model(part.to(model.device, model.dtype)).logits.cpu() for part in pixels.split(200)]
    seen = (torch.cat(logits) > 0).numpy()
    subjects = slice(0, len(SUBJECTS))
    exact = (truth == seen)[:, subjects].all(1)
    figures = [
        Figure("every subject right, none invented", float(exact.mean()), count),
        Figure("every subject and every colour right", float((truth == seen).all(1).mean()), count),
    ]
    for words, part in (("subjects", subjects), ("coloured objects", slice(len(SUBJECTS), None))):
        precision, recall = precision_recall(truth[:, part], seen[:, part])
        figures.append(Figure(f"precision, mean of the {words}", float(precision.mean()), count, "mean"))
        figures.append(Figure(f"recall, mean of the {words}", float(recall.mean()), count, "mean"))
    return figures


def measure_detr(count: int = 1500, seed: int = SEED + 1) -> list[Figure]:
    """Average precision, the mean of the 24 subjects, of boxes that overlap by half and by three quarters."""
    from .training.detection import true_boxes
    from .training.labelled import pack

    drawn = pack(list(scenes(seed, count, pairs="any")))
    claimed, true = detect(load_detr(), drawn.images), true_boxes(drawn)
    figures = []
    for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        precisions = list(average_precision(claimed, true, threshold).values())
        figures.append(Figure(f"{name}, mean of the subjects", float(np.mean(precisions)), count, "mean"))
        figures.append(Figure(f"{name}, lowest of the subjects", min(precisions), count, "mean"))
    return figures


def show_boxes(count: int = 24, seed: int = SEED + 4) -> Sampled:
    """Scenes with every box drawn in that the DETR is surer of than not, and its name."""
    drawn = [scene.image for scene in scenes(seed, count, pairs="any")]
    pictures = []
    for image, found in zip(drawn, detect(load_detr(), torch.from_numpy(np.stack(drawn))), strict=True):
        picture = Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        assert found.scores is not None
        for name, corners, score in zip(found.names, 4 * found.corners, found.scores, strict=True):
            if score > 0.5:
                pen.rectangle(corners.tolist(), outline="black", width=2)
                pen.text((corners[0] + 4, corners[1] + 2), f"{name} {score:.2f}", fill="black")
        pictures.append(picture)
    return Sampled("found boxes", (), tuple(pictures))


def measure_visual_bert(count: int = 1500, seed: int = SEED + 2) -> list[Figure]:
    """The share of questions answered right, two on each of `count` fresh scenes."""
    return _answers("visual-bert", count, seed)


def measure_lxmert(count: int = 1500, seed: int = SEED + 2) -> list[Figure]:
    """The same questions on the same scenes as VisualBERT's."""
    return _answers("lxmert", count, seed)


def _answers(kind: str, count: int, seed: int) -> list[Figure]:
    from .training.answering import accuracy_by_kind, look

    model, tokenizer = load_visual_bert() if kind == "visual-bert" else load_lxmert()
    looked = look(list(scenes(seed, count, pairs="any")), load_classifier(), seed)
    figures = [
        Figure("questions answered right" if name == "all" else f"of the kind {name}", share, asked)
        for name, (share, asked) in accuracy_by_kind(model, tokenizer, looked, seed).items()
    ]
    blind = replace(looked, features=torch.zeros_like(looked.features))
    share, asked = accuracy_by_kind(model, tokenizer, blind, seed)["all"]
    return [*figures, Figure("answered right with all features of regions hidden", share, asked)]


def measure_bert(count: int = 3000, seed: int = SEED + 3) -> list[Figure]:
    """The share of fresh captions of which every claim is told right, and of which each is."""
    from .training.reading import claim_matrix, claims_right

    model, tokenizer = load_bert()
    rng = np.random.default_rng(seed)
    texts = [draw_caption(rng) for _ in range(count)]
    right = claims_right(model, tokenizer, texts).numpy()
    held = claim_matrix(texts).numpy().mean(0)
    return [
        Figure("every claim right", float(right.all(1).mean()), count),
        Figure("the claim told worst", float(right.mean(0).min()), count),
        Figure(
            "a claim right, always told as it mostly is",
            float(np.maximum(held, 1 - held).mean()),
            count,
            "mean",
        ),
    ]
