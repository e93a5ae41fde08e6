"""Denoisers of real size with random weights, for how fast they are does not depend on what they learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTokenizer

from ..emoji.models import model_folder
from ..guidance.tokens import find_spans

PROMPT: Final = "a cat and a frog"
WORDS: Final = ("cat", "frog")
TEXT_LENGTH: Final = 77
_LATENT_PIXELS: Final = 8
_CROSS: Final = "CrossAttnDownBlock2D"
_CROSS_UP: Final = "CrossAttnUpBlock2D"


@dataclass(frozen=True)
class Shape:
    """The architecture of a published model, without its weights.

    Attributes:
        name: how it is asked for.
        about: what it is, for a table.
        pixels: side of the image it was made for.
        denoiser: its arguments of `UNet2DConditionModel`.
        pipeline: the class of diffusers that draws with it.
        pooled: width of the pooled text, where the denoiser takes one.
        rival: whether diffusers' deprecated Attend-and-Excite pipeline draws with it.
    """

    name: str
    about: str
    pixels: int
    denoiser: Mapping[str, Any]
    pipeline: type[DiffusionPipeline] = StableDiffusionPipeline
    pooled: int | None = None
    rival: bool = True

    @property
    def text(self) -> int:
        """Width of the text that the denoiser attends to."""
        return int(self.denoiser["cross_attention_dim"])


SHAPES: Final[Mapping[str, Shape]] = {
    "sd15": Shape(
        "sd15",
        "Stable Diffusion 1.5, 512 x 512",
        512,
        {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "down_block_types": (_CROSS, _CROSS, _CROSS, "DownBlock2D"),
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": ("UpBlock2D", _CROSS_UP, _CROSS_UP, _CROSS_UP),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
    ),
    "sdxl": Shape(
        "sdxl",
        "Stable Diffusion XL, 1024 x 1024",
        1024,
        {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280),
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", _CROSS, _CROSS),
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": (_CROSS_UP, _CROSS_UP, "UpBlock2D"),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        StableDiffusionXLPipeline,
        pooled=1280,
        rival=False,
    ),
}
"""What can be measured, by name."""


@cache
def tokenizer() -> CLIPTokenizer:
    """Tells the prompt's token positions, which are the same with every CLIP tokenizer."""
    return CLIPTokenizer.from_pretrained(model_folder("pipeline") / "tokenizer", local_files_only=True)


def token_positions() -> list[int]:
    """Where the words stand in the prompt's tokens."""
    return [span.indices[-1] for span in find_spans(tokenizer(), PROMPT, WORDS)]


def build(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    """A pipeline whose denoiser has this shape; text encoders are left out, and the autoencoder is a small
    one, for it is called with embeddings and draws latents.

    Its weights are random, those of seed 0; on the device "meta" it has none, and the pipeline itself draws
    on the CPU (see `speed_weightless`).
    """
    with torch.device("meta"):
        denoiser = UNet2DConditionModel(**shape.denoiser).eval()
    nn.Module.to(denoiser, dtype)  # diffusers' own `to` would warn of layers that this model does not have
    if device != "meta":
        denoiser = drawn_weights(denoiser.to_empty(device=device))
    parts: dict[str, Any] = {"vae": _autoencoder(), "text_encoder": None, "tokenizer": tokenizer()}
    if shape.pooled:
        parts |= {"text_encoder_2": None, "tokenizer_2": tokenizer(), "add_watermarker": False}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = at_home(shape.pipeline, device)(unet=denoiser, scheduler=_scheduler(), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call_arguments(shape: Shape, steps: int, batch: int, pipe: Any) -> dict[str, Any]:
    """What a pipeline of `build` is called with: random embeddings, the shape's own size, latents wanted."""
    device, dtype = pipe._execution_device, pipe.unet.dtype
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    text = {name: noise(batch, TEXT_LENGTH, shape.text) for name in ("prompt", "negative_prompt")}
    given: dict[str, Any] = {f"{name}_embeds": own for name, own in text.items()}
    if shape.pooled:
        given["pooled_prompt_embeds"] = noise(batch, shape.pooled)
        given["negative_pooled_prompt_embeds"] = noise(batch, shape.pooled)
    return {
        **given,
        "num_inference_steps": steps,
        "height": shape.pixels,
        "width": shape.pixels,
        "generator": [torch.Generator().manual_seed(image) for image in range(batch)],
        "output_type": "latent",
    }


def at_home(pipeline: type[Any], device: str) -> type[Any]:
    """The class of a pipeline that draws on that device, whichever its parts are on; "meta" is the CPU."""
    home = torch.device("cpu" if device == "meta" else device)
    return type(pipeline.__name__, (pipeline,), {"_execution_device": property(lambda _: home)})


def drawn_weights(module: nn.Module) -> nn.Module:
    """Give every part the random weights that torch begins a training with, from seed 0."""
    devices = [torch.cuda.current_device()] if next(module.parameters()).is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    return module


def weight_bytes(module: nn.Module) -> int:
    """What a module's weights take."""
    return sum(one.numel() * one.element_size() for one in (*module.parameters(), *module.buffers()))


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _autoencoder() -> AutoencoderKL:
    """One that nothing is decoded with: pipelines read from it by what factor latents are smaller."""
    blocks = _LATENT_PIXELS.bit_length()
    return AutoencoderKL(
        block_out_channels=(4,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=2,
    )
