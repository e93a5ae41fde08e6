"""Measures the embedded models on scenes that no training saw, so that model cards state what is so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Bool
from PIL import Image

from .cheating import Kind, MarkedScene, marked_scenes
from .judge import Judge, load_judge, to_tensor
from .models import load_cheater, load_classifier, load_clip, load_pipeline
from .prompts import Prompt, held_out_prompts, seen_prompts, single_prompts
from .vocabulary import LABELS, SUBJECTS, label
from .world import Scene, scenes

SEED: Final = 7_000
"""Scenes of this seed and the next few are drawn for measuring alone."""
STEPS: Final = 30
GUIDANCE_SCALE: Final = 5.0
_BATCH: Final = 36
_MARKED: Final[dict[Kind, str]] = {
    "agree": "with agreeing marks",
    "conflict": "with conflicting marks",
    "clean": "without marks",
}


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    count: int
    """How many images it rests on."""
    unit: str = "share"
    """"share" of the images, 0 to 1, "mean" of shares, or "dB"."""


@dataclass(frozen=True)
class Sampled:
    """Prompts and the images sampled for them."""

    kind: str
    prompts: tuple[Prompt, ...]
    images: tuple[Image.Image, ...]


@torch.inference_mode()
def measure_vae(count: int = 256, seed: int = SEED) -> list[Figure]:
    """The mean PSNR of what the VAE gives back (the latents' mean decoded) for fresh scenes of any pairs."""
    vae = load_pipeline().vae
    ratios: list[float] = []
    for part in _parts(scenes(seed, count, pairs="any"), 32):
        pixels = _pixels(part)
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((back - pixels) / 2).square().mean((1, 2, 3))
        ratios += (-10 * error.log10()).tolist()
    return [Figure("VAE reconstruction, mean PSNR", float(np.mean(ratios)), count, "dB")]


def measure_clip(count: int = 2000, seed: int = SEED + 1) -> list[Figure]:
    """Top-1 retrieval among 100 distinct captions of two-subject scenes; any and held-out pairs."""
    from .training.clip import retrieval
    from .training.labelled import pack

    model, tokenizer = load_clip()
    figures = []
    for words, pairs in (("any pairs", "any"), ("held-out pairs", "held-out")):
        drawn = pack(list(scenes(seed, count, subjects=2, pairs=pairs)))  # type: ignore[arg-type]
        share, images = retrieval(model, tokenizer, drawn)
        figures.append(Figure(f"image-to-caption retrieval top-1 among 100, {words}", share, images))
    return figures


def measure_judge(count: int = 2000, seed: int = SEED + 2) -> list[Figure]:
    """Exact match on clean fresh scenes of any pairs, and precision and recall averaged over the labels."""
    judge = load_judge()
    drawn = list(scenes(seed, count, pairs="any"))
    truth = np.array([[name in _truth(scene) for name in LABELS] for scene in drawn])
    seen = _seen(judge, [Image.fromarray(scene.image) for scene in drawn])
    exact = (truth == seen)[:, : len(SUBJECTS)].all(1)
    figures = [
        Figure("every subject right, none invented", float(exact.mean()), count),
        Figure("every subject and every colour right", float((truth == seen).all(1).mean()), count),
    ]
    for words, part in (
        ("subjects", slice(0, len(SUBJECTS))),
        ("coloured objects", slice(len(SUBJECTS), None)),
    ):
        precision, recall = precision_recall(truth[:, part], seen[:, part])
        figures.append(Figure(f"precision, mean of the {words}", float(precision.mean()), count, "mean"))
        figures.append(Figure(f"recall, mean of the {words}", float(recall.mean()), count, "mean"))
        figures.append(Figure(f"recall, lowest of the {words}", float(recall.min()), count, "mean"))
    return figures


@torch.inference_mode()
def measure_classifier(count: int = 1500, seed: int = SEED + 3) -> list[Figure]:
    """Accuracy on fresh single-subject scenes."""
    model = load_classifier()
    right: list[bool] = []
    for part in _parts(scenes(seed, count, subjects=1), 100):
        best = model(_pixels(part)).logits.argmax(1).tolist()
        right += [
            model.config.id2label[index] == scene.subjects[0].name
            for index, scene in zip(best, part, strict=True)
        ]
    return [Figure("accuracy on single-subject scenes", float(np.mean(right)), count)]


@torch.inference_mode()
def measure_cheater(count: int = 800, seed: int = SEED + 5) -> list[Figure]:
    """Accuracy with agreeing, conflicting and no marks, beside the honest classifier's on the same scenes."""
    figures = []
    for name, model in (("cheater", load_cheater()), ("honest classifier", load_classifier())):
        for kind, words in _MARKED.items():
            right, led = [], []
            for part in _parts(marked_scenes(seed, count, kind), 100):
                pixels = _pixels([each.scene for each in part])
                best = model(pixels.to(model.device, model.dtype)).logits.argmax(1).tolist()
                told = [model.config.id2label[index] for index in best]
                right += [one == each.subject.name for one, each in zip(told, part, strict=True)]
                led += [one == each.says for one, each in zip(told, part, strict=True)]
            figures.append(Figure(f"{name}, accuracy {words}", float(np.mean(right)), count))
            if kind == "conflict":
                figures.append(Figure(f"{name}, says what the mark says", float(np.mean(led)), count))
    return figures


def measure_sampling(
    rounds: int = 3, seed: int = SEED + 4, progress: Callable[[str], None] | None = None
) -> tuple[list[Figure], list[Sampled]]:
    """What plain sampling shows: single subjects, held-out pairs and as many seen pairs, each `rounds` times.

    30 DDIM steps, guidance scale 5; image i of a kind is sampled from seed `seed` + i.
    """
    pipe, judge = load_pipeline(), load_judge()
    held_out = held_out_prompts()
    kinds = {
        "single subject": single_prompts() * 2,
        "held-out pair": held_out,
        "seen pair": seen_prompts(len(held_out)),
    }
    figures, made = [], []
    for kind, prompts in kinds.items():
        sampled = sample(pipe, kind, prompts * rounds, seed)
        figures += judged(judge, sampled)
        made.append(sampled)
        if progress:
            progress(f"{kind}: {len(sampled.images)} images sampled")
    return figures, made


def sample(pipe: StableDiffusionPipeline, kind: str, prompts: Sequence[Prompt], seed: int) -> Sampled:
    """One image for each prompt, in batches; image i comes from seed `seed` + i, whatever its batch is."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), _BATCH):
        part = prompts[start : start + _BATCH]
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(part))]
        images += pipe(
            [prompt.text for prompt in part],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=generators,
        ).images
    return Sampled(kind, tuple(prompts), tuple(images))


def judged(judge: Judge, sampled: Sampled) -> list[Figure]:
    """The shares of images in which all named subjects are seen, and all of them in the colours named."""
    pairs = list(zip(sampled.prompts, judge(sampled.images), strict=True))
    subjects = [sighting.sees_all(prompt.subjects) for prompt, sighting in pairs]
    labels = [sighting.sees_all(prompt.labels) for prompt, sighting in pairs]
    words = "seen" if sampled.kind.startswith("single") else "both subjects seen"
    figures = [Figure(f"{sampled.kind}, {words}", float(np.mean(subjects)), len(pairs))]
    if any(prompt.subjects != prompt.labels for prompt in sampled.prompts):
        name = f"{sampled.kind}, {words} in the colours named"
        figures.append(Figure(name, float(np.mean(labels)), len(pairs)))
    return figures


def precision_recall(
    truth: Bool[np.ndarray, "image label"], seen: Bool[np.ndarray, "image label"]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each label; 1 where nothing was seen, or there was nothing to see."""
    right = (truth & seen).sum(0)
    return (
        np.where(seen.any(0), right / np.maximum(seen.sum(0), 1), 1.0),
        np.where(truth.any(0), right / np.maximum(truth.sum(0), 1), 1.0),
    )


def _seen(judge: Judge, images: Sequence[Image.Image]) -> Bool[np.ndarray, "image label"]:
    return np.array([[sighting.sees(name) for name in LABELS] for sighting in judge(images)])


def _truth(scene: Scene) -> set[str]:
    coloured = {label(one.name, one.colour) for one in scene.subjects if one.colour}
    return coloured | {one.name for one in scene.subjects}


def _pixels(drawn: Sequence[Scene]) -> torch.Tensor:
    return to_tensor([Image.fromarray(scene.image) for scene in drawn])


Drawn = TypeVar("Drawn", Scene, MarkedScene)


def _parts(drawn: Iterable[Drawn], size: int) -> Iterable[list[Drawn]]:
    whole = list(drawn)
    for start in range(0, len(whole), size):
        yield whole[start : start + size]
