"""Draws and encodes the scenes of a training run once, so that a step of the UNet costs no drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int64, UInt8
from rich.progress import track
from torch import Tensor
from transformers import CLIPTokenizer

from ..tokenizer import MAX_LENGTH
from ..world import Pairs, Scene, scene, write_caption

FORMS: Final = 6
"""Captions kept for each scene, each in a form and an order of its own."""


@dataclass(frozen=True)
class Drawn:
    """Scenes as arrays: pixels and tokenised captions."""

    images: UInt8[Tensor, "scene height width rgb"]
    tokens: Int64[Tensor, "scene form token"]

    def save(self, path: Path) -> None:
        """Write one file, its folder too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"images": self.images, "tokens": self.tokens.short()}, path)

    @classmethod
    def load(cls, path: Path) -> Drawn:
        """What `save` wrote."""
        stored = torch.load(path, weights_only=True)
        return cls(stored["images"], stored["tokens"].long())


@dataclass(frozen=True)
class Latents:
    """Scenes as the VAE's encoder sees them; latents are drawn anew from mean and deviation at each step."""

    mean: Float[Tensor, "scene channel height width"]
    deviation: Float[Tensor, "scene channel height width"]
    tokens: Int64[Tensor, "scene form token"]

    def save(self, path: Path) -> None:
        """Write one file, its folder too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Latents:
        """What `save` wrote; a `FileNotFoundError` names the stage that was not run."""
        if not path.is_file():
            raise FileNotFoundError(f'{path} is missing; run the stage "latents" first')
        return cls(**torch.load(path, weights_only=True))


def draw(tokenizer: CLIPTokenizer, seed: int, count: int, *, noisy: float, pairs: Pairs = "train") -> Drawn:
    """`count` scenes with `FORMS` captions each; a share `noisy` of those with several subjects lacks one."""
    images = torch.empty(count, 64, 64, 3, dtype=torch.uint8)
    tokens = torch.empty(count, FORMS, MAX_LENGTH, dtype=torch.long)
    for index in track(range(count), description="drawing"):
        found = scene(seed * 1_000_000 + index, noisy=noisy, pairs=pairs)
        images[index] = torch.from_numpy(found.image)
        tokens[index] = tokenise(tokenizer, caption_forms(found, seed * 1_000_000 + index))
    return Drawn(images, tokens)


def caption_forms(found: Scene, seed: int) -> list[str]:
    """The scene's own caption and `FORMS - 1` others of what it names, in any order."""
    rng = np.random.default_rng([seed, 0xCA])
    captions = [found.caption]
    for _ in range(FORMS - 1):
        order = rng.permutation(len(found.named))
        captions.append(write_caption([found.named[index] for index in order], rng))
    return captions


def tokenise(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Int64[Tensor, "caption token"]:
    """Token ids padded to the model's length, as the diffusers pipeline passes them."""
    return tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    ).input_ids


def to_pixels(images: UInt8[Tensor, "scene height width rgb"]) -> Float[Tensor, "scene rgb height width"]:
    """Bytes to the -1 to 1 that the VAE takes."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


@torch.no_grad()
def encode(vae: AutoencoderKL, drawn: Drawn, *, batch_size: int = 64) -> Latents:
    """Mean and deviation of each scene's latents, not yet scaled."""
    device = next(vae.parameters()).device
    means, deviations = [], []
    for images in track(drawn.images.split(batch_size), description="encoding"):
        posterior = vae.encode(to_pixels(images).to(device)).latent_dist
        means.append(posterior.mean.cpu())
        deviations.append(posterior.std.cpu())
    return Latents(torch.cat(means), torch.cat(deviations), drawn.tokens)
