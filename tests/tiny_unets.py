"""Tiny pipelines of the UNet family with random weights: the real architectures, in a blink, without a hub.

Their heads, and their grids' heights and widths, are unequal, so that nothing fits by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tiny import tiny_pipeline, tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def seeded(build: Callable[..., Any]) -> Callable[..., Any]:
    """Let a builder make the same weights each time, and leave the caller's random state as it is."""

    @wraps(build)
    def built(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = build(*args, **kwargs)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return built


def sd1(kind: str = "StableDiffusionPipeline", **unet: Any) -> Any:
    """Stable Diffusion 1, or a pipeline made of the same parts: two heads outside, four inside."""
    pipe = tiny_pipeline(**{"attention_head_dim": (2, 4, 4), **unet})
    if kind == "StableDiffusionPipeline":
        return pipe
    found = getattr(diffusers, kind).from_pipe(pipe)
    found.set_progress_bar_config(disable=True)
    return found


def sd2() -> StableDiffusionPipeline:
    """Stable Diffusion 2: linear projections, attention upcast, velocity predicted."""
    pipe = sd1(use_linear_projection=True, upcast_attention=True)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="v_prediction")
    return pipe


@seeded
def depth() -> Any:
    """Image-to-image that keeps to a depth map; the maps are given, so nothing has to estimate them."""
    parts = sd1(in_channels=5).components
    for name in ("safety_checker", "image_encoder"):
        del parts[name]
    parts["feature_extractor"] = None
    return diffusers.StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None)


@seeded
def adapted() -> Any:
    """Stable Diffusion 1 with a T2I adapter, whose residuals join the blocks on the way down."""
    parts = sd1().components
    del parts["image_encoder"]
    adapter = diffusers.T2IAdapter(3, [8, 16, 16], 1, 8, "full_adapter")
    return diffusers.StableDiffusionAdapterPipeline(**parts, adapter=adapter, requires_safety_checker=False)


@seeded
def gligen() -> Any:
    """Stable Diffusion 1 that is told boxes, with attention over these in every block."""
    parts = sd1(attention_type="gated").components
    del parts["image_encoder"]
    return diffusers.StableDiffusionGLIGENPipeline(**parts, requires_safety_checker=False)


def lcm(kind: str = "LatentConsistencyModelPipeline") -> Any:
    """A latent consistency model, which is told its guidance instead of running twice."""
    pipe = sd1(time_cond_proj_dim=12)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    found = getattr(diffusers, kind).from_pipe(pipe)
    found.set_progress_bar_config(disable=True)
    return found


def _text_config(tokenizer: CLIPTokenizer, width: int, heads: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        projection_dim=projection,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def xl_unet(text: int, pooled: int, ids: int = 6, **overrides: Any) -> UNet2DConditionModel:
    """A UNet with text on its two coarser grids, one and two transformer blocks deep."""
    settings: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (1, 2, 4),
        "norm_num_groups": 4,
        "use_linear_projection": True,
        "cross_attention_dim": text,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": pooled + 4 * ids,
    }
    return UNet2DConditionModel(**{**settings, **overrides})


def xl_parts(refiner: bool = False, **unet: Any) -> dict[str, Any]:
    """The parts of Stable Diffusion XL; the refiner has the second tokenizer and text encoder only."""
    first, second = tiny_tokenizer(), tiny_tokenizer()
    second.pad_token = "!"
    text = CLIPTextModel(_text_config(first, 8, 2, 8))
    text_2 = CLIPTextModelWithProjection(_text_config(second, 12, 3, 10))
    autoencoder = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=128,
    )
    return {
        "vae": autoencoder,
        "text_encoder": None if refiner else text,
        "text_encoder_2": text_2,
        "tokenizer": None if refiner else first,
        "tokenizer_2": second,
        "unet": xl_unet(12 if refiner else 20, 10, 5 if refiner else 6, **unet),
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    }


@seeded
def xl(kind: str = "StableDiffusionXLPipeline", refiner: bool = False, **unet: Any) -> Any:
    """Stable Diffusion XL, or a pipeline made of the same parts."""
    options = {"requires_aesthetics_score": True} if refiner else {}
    return getattr(diffusers, kind)(**xl_parts(refiner, **unet), **options, add_watermarker=False)


@seeded
def xl_adapted() -> Any:
    """Stable Diffusion XL with a T2I adapter."""
    adapter = diffusers.T2IAdapter(3, [8, 8, 16], 1, 16, "full_adapter_xl")
    return diffusers.StableDiffusionXLAdapterPipeline(**xl_parts(), adapter=adapter)


@seeded
def turbo() -> Any:
    """Stable Diffusion XL Turbo: one to four ancestral steps, without guidance."""
    pipe = diffusers.StableDiffusionXLPipeline(**xl_parts(), add_watermarker=False)
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    return pipe
