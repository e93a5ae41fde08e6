"""Evaluations in which nothing is drawn by a model: noise for images, eyes that look at brightness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from heedful.evaluation.eyes import Seen
from heedful.evaluation.methods import Drawn, Method, Setting
from heedful.evaluation.prompts import Prompt
from heedful.evaluation.rows import Evaluation
from PIL import Image
from tiny import tiny_tokenizer
from torch import Tensor, nn

PROMPTS = (
    Prompt("a cat and a frog", ("cat", "frog"), "pairs", "animal-animal"),
    Prompt("a dog and a red bow", ("dog", "red bow"), "pairs", "animal-object"),
    Prompt("a rat and a blue car and a lion", ("rat", "blue car", "lion"), "three"),
    Prompt("a bear", ("bear",), "single"),
)


class NoisePipeline:
    """Draws 8 x 8 pixels of noise, each image from its own generator."""

    device, dtype = torch.device("cpu"), torch.float32
    scheduler = object()

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def __call__(self, prompts: Sequence[str], *, generator: Sequence[torch.Generator], **_: Any) -> Any:
        self.drawn += prompts
        images = [torch.randint(0, 256, (8, 8, 3), generator=one, dtype=torch.uint8) for one in generator]
        return type("Output", (), {"images": [Image.fromarray(image.numpy()) for image in images]})


class BrightEyes:
    """A subject is there where its own corner of the image is bright; a colour where its neighbour is."""

    @property
    def told(self) -> dict[str, str]:
        return {"eyes": "brightness"}

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """All words are known."""

    def look(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[Seen]:
        return [self._seen(np.asarray(image), prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _seen(self, pixels: np.ndarray, prompt: Prompt) -> Seen:
        scores = {name: float(pixels[0, place, 0]) / 255 for place, name in enumerate(prompt.subjects)}
        own = {name: score > 0.4 for name, score in scores.items()}
        coloured = {label: own[name] and pixels[1, 0, 0] > 99 for name, label in prompt.coloured}
        return Seen(own, scores, {label: bool(seen) for label, seen in coloured.items()})


def features(images: Sequence[Image.Image]) -> Tensor:
    found = torch.stack([torch.tensor(np.asarray(image)).float().flatten() for image in images])
    return found / found.norm(dim=1, keepdim=True)


def evaluation(folder: Path, **settings: Any) -> Evaluation:
    given = {"seeds": 2, "batch_size": 3, "counted": False, "features": features, **settings}
    return Evaluation(
        NoisePipeline(), "noise", PROMPTS, setting=Setting(2), eyes=BrightEyes(), folder=folder, **given
    )


def brighter(name: str = "brighter", by: int = 60, **about: Any) -> Method:
    """A method that makes the noise brighter: it sees more, and changes the image."""

    def draw(pipe: Any, setting: Setting, prompts: Sequence[Prompt], noise: list[torch.Generator]) -> Drawn:
        images = pipe([one.text for one in prompts], generator=noise).images
        lit = [
            Image.fromarray(np.clip(np.asarray(image).astype(int) + by, 0, 255).astype(np.uint8))
            for image in images
        ]
        return Drawn(lit, (True,) * len(lit), (None,) * len(lit), (0.0,) * len(lit))

    return Method(name, f"{by} brighter", draw, **about)


def row(item: int, seen: dict[str, bool], **about: Any) -> dict[str, Any]:
    """A planted row; scores follow what is seen."""
    scores = {name: 0.9 if there else 0.1 for name, there in seen.items()}
    return {
        "item": item, "prompt": f"prompt {item // 2}", "group": "pairs", "kind": "", "seed": item % 2,
        "image": f"images/plain/{item:05d}.png", "seen": seen, "scores": scores, "coloured": {},
        "all": all(seen.values()), "change": 0.0, "moved": False, "forwards": 50.0, "seconds": 1.0, **about,
    }  # fmt: skip


def save_owl_vit(folder: Path) -> None:
    """A random OWL-ViT for images of 32 x 32, with its processor."""
    tokenizer = tiny_tokenizer(16)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 16,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    transformers.OwlViTForObjectDetection(config).save_pretrained(folder)
    images = transformers.OwlViTImageProcessorPil(size={"height": 32, "width": 32}, crop_size=32)
    transformers.OwlViTProcessor(images, tokenizer).save_pretrained(folder)


def tiny_captioner() -> tuple[nn.Module, Any]:
    """A random BLIP that captions images of 32 x 32, with its processor."""
    tokenizer = tiny_tokenizer(16)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16,
        "projection_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "sep_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "projection_dim": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=8)
    images = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    model = transformers.BlipForConditionalGeneration(config).eval()
    return model, transformers.BlipProcessor(images, tokenizer)
