"""Writes models the way they are shipped, standard folders in float16, and sheets to look at."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertTokenizer, CLIPTokenizer

from ..tokenizer import write_tokenizer
from .diffusion import build_scheduler

SHEET_PROMPTS: Final = (
    "a frog", "a lion", "a red bow", "a blue car",
    "a photo of a turtle", "an elephant", "a yellow chair", "a green backpack",
    "a cat and a dog", "a cat and a frog", "a bird and a rabbit", "a lion with a red crown",
    "a horse and a rat", "a blue balloon and a green apple",
    "a monkey and a purple clock", "a bear with a white bow",
    "a lion and a turtle", "a horse and a turtle", "a bear and a frog", "a dog and a lion",
    "an elephant and a rat", "a bear with a pink crown",
    "a monkey and a red bow", "a blue apple and a yellow clock",
)  # fmt: skip
"""Eight single subjects, eight seen pairs, eight held-out pairs: the rows of a sheet."""


def assemble(
    unet: nn.Module, text_encoder: nn.Module, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as a `StableDiffusionPipeline` without safety checker."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export_pipeline(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Save a float16 copy whose configs ask for float32, so that a CPU loads what it is quick with."""
    parts = {name: copy.deepcopy(getattr(pipe, name)).half() for name in ("unet", "text_encoder", "vae")}
    half = assemble(tokenizer=pipe.tokenizer, **parts)
    half.save_pretrained(folder, safe_serialization=True)
    write_tokenizer(pipe.tokenizer, folder / "tokenizer")
    ask_for_float32(folder / "text_encoder" / "config.json")
    _prefix_keys(folder / "text_encoder" / "model.safetensors", "text_model.")
    for config in folder.glob("*/config.json"):
        _forget_origin(config)


def ask_for_float32(config: Path) -> None:
    """Make a transformers config say float32 whatever type its weights are stored in."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("torch_dtype", None)
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def save_folder(
    model: nn.Module,
    folder: Path,
    *,
    looks: Literal["ViT", "CLIP", "Detr"] | None = None,
    reads: BertTokenizer | None = None,
) -> None:
    """Write weights in float16 with a config that says float32, so that a CPU loads what it computes fast in.

    Args:
        looks: whose image processor prepares images for it as `judge.to_tensor` does.
        reads: the tokenizer whose tokens it takes, which is written beside it.
    """
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=half)
    ask_for_float32(folder / "config.json")
    if reads is not None:
        reads.save_pretrained(folder)
    if looks is not None:
        text = json.dumps(_preparation(looks), indent=2) + "\n"
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def _preparation(looks: str) -> dict[str, object]:
    return {
        "image_processor_type": f"{looks}ImageProcessor",
        "do_resize": True,
        "size": {"height": 64, "width": 64},
        "resample": 2,
        **({"do_pad": False} if looks == "Detr" else {"do_center_crop": False}),
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _prefix_keys(weights: Path, prefix: str) -> None:
    """Give the weights the names of older transformers 5, which newer ones read too."""
    named = load_file(weights)
    renamed = {name if name.startswith(prefix) else prefix + name: tensor for name, tensor in named.items()}
    save_file(renamed, weights, metadata={"format": "pt"})


def _forget_origin(config: Path) -> None:
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def sample_sheet(
    pipe: StableDiffusionPipeline, path: Path, *, prompts: Sequence[str] = SHEET_PROMPTS, columns: int = 8
) -> None:
    """Sample each prompt once (30 steps, guidance 5, seed 0) and lay the images out, `columns` a row."""
    generator = torch.Generator().manual_seed(0)
    images = pipe(list(prompts), num_inference_steps=30, guidance_scale=5.0, generator=generator).images
    lay_out(images, path, columns=columns)


def lay_out(images: Sequence[Image.Image], path: Path, *, columns: int, scale: int = 2) -> None:
    """Images of one size as a grid on white."""
    width, height = images[0].width * scale, images[0].height * scale
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), "white")
    for index, image in enumerate(images):
        place = (index % columns * (width + 4), index // columns * (height + 4))
        sheet.paste(image.resize((width, height), Image.Resampling.BICUBIC), place)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
