"""A whole Stable Diffusion with random weights, built in memory in a blink, so that no test needs a hub.

At 256x256 pixels its latents are 4x32x32 (the autoencoder's factor is 8, as in the real one) and its
cross-attention layers lie on grids of 32x32, 16x16 and 8x8.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = (
    "a an the and with next to of in on by photo picture cat dog frog turtle bird lion bear horse rabbit "
    "red blue green yellow orange bow bowl car chair clock crown apple balloon suitcase s"
).split()
SPLIT_WORDS = {
    "backpack": ("back", "pack</w>"),
    "elephant": ("ele", "phant</w>"),
    "glasses": ("glass", "es</w>"),
}
START, END = "<|startoftext|>", "<|endoftext|>"


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    for left, right in merges:
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == (left, right):
                joined[-1] = left + right
            else:
                joined.append(piece)
        pieces = joined
    return pieces


def _letters(unit: str) -> list[str]:
    if not unit.endswith("</w>"):
        return list(unit)
    word = unit.removesuffix("</w>")
    return [*word[:-1], word[-1] + "</w>"]


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges that make each of `WORDS` one token and each of `SPLIT_WORDS` its parts."""
    merges: list[tuple[str, str]] = []
    units = [word + "</w>" for word in WORDS] + [part for parts in SPLIT_WORDS.values() for part in parts]
    for unit in units:
        pieces = _merged(_letters(unit), merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters] + [a + b for a, b in merges]
    tokens = [*dict.fromkeys(tokens), START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def tiny_tokenizer(length: int = 77) -> CLIPTokenizer:
    """A CLIP tokenizer that knows `WORDS` whole, `SPLIT_WORDS` in parts and all else byte by byte."""
    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def _text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=256,
    )


def tiny_unet(**overrides: Any) -> UNet2DConditionModel:
    """The tiny pipeline's denoiser; `overrides` are `UNet2DConditionModel` arguments."""
    settings: dict[str, Any] = {
        "sample_size": 32,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**settings, **overrides})


def tiny_pipeline(seed: int = 0, **unet_overrides: Any) -> StableDiffusionPipeline:
    """A `StableDiffusionPipeline` whose weights follow from `seed`; the caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = tiny_unet(**unet_overrides)
        tokenizer = tiny_tokenizer()
        pipeline = StableDiffusionPipeline(
            vae=_autoencoder(),
            text_encoder=_text_encoder(tokenizer, unet.config.cross_attention_dim),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
