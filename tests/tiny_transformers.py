"""Tiny Stable Diffusion 3 and Flux with random weights: real architectures, in a blink, without a hub.

Heads, sides, and the lengths of the encoders' texts are unequal, so that nothing fits by chance.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny import SPLIT_WORDS, WORDS, tiny_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)


def tiny_t5_tokenizer(length: int = 512) -> T5Tokenizer:
    """T5's tokenizer that knows `WORDS` whole and `SPLIT_WORDS` in parts, which are not CLIP's parts."""
    pieces = [f"\u2581{word}" for word in WORDS]
    pieces += [f"\u2581{word[:-3]}" for word in SPLIT_WORDS] + [word[-3:] for word in SPLIT_WORDS]
    letters = sorted({letter for word in (*WORDS, *SPLIT_WORDS) for letter in word})
    known = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in pieces)]
    known += [(letter, -9.0) for letter in ["\u2581", *letters, ",", "."]]
    return T5Tokenizer(vocab=known, extra_ids=0, model_max_length=length)


def tiny_sd3(seed: int = 0, **transformer: Any) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3.5: four blocks of three heads, two with an attention of the image beside the joint
    one."""
    settings: dict[str, Any] = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 4,
        "num_attention_heads": 3,
        "attention_head_dim": 8,
        "joint_attention_dim": 40,
        "caption_projection_dim": 24,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 32,
        "dual_attention_layers": (0, 1),
        "qk_norm": "rms_norm",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip, t5 = tiny_tokenizer(), tiny_t5_tokenizer()
        return _quiet(
            StableDiffusion3Pipeline(
                transformer=_lively(SD3Transformer2DModel(**{**settings, **transformer})),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=_autoencoder(16),
                text_encoder=_clip(clip, 12, CLIPTextModelWithProjection),
                tokenizer=clip,
                text_encoder_2=_clip(clip, 20, CLIPTextModelWithProjection),
                tokenizer_2=clip,
                text_encoder_3=_t5(t5, 40),
                tokenizer_3=t5,
            )
        )


def tiny_flux(seed: int = 0, **transformer: Any) -> FluxPipeline:
    """Flux: three double blocks and two single ones, of two heads."""
    settings: dict[str, Any] = {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 3,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 12,
        "axes_dims_rope": (4, 6, 6),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip, t5 = tiny_tokenizer(), tiny_t5_tokenizer()
        return _quiet(
            FluxPipeline(
                transformer=_lively(FluxTransformer2DModel(**{**settings, **transformer})),
                scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
                vae=_autoencoder(4),
                text_encoder=_clip(clip, 12, CLIPTextModel),
                tokenizer=clip,
                text_encoder_2=_t5(t5, 24),
                tokenizer_2=t5,
            )
        )


def _lively(transformer: Any) -> Any:
    """Random weights leave most of a transformer's gates nearly shut; this opens them."""
    for name, parameter in transformer.named_parameters():
        if parameter.ndim > 1 and not name.startswith("proj_out"):
            parameter.data.mul_(2.0)
    return transformer


def _autoencoder(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def _clip(tokenizer: Any, width: int, kind: Any) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def _t5(tokenizer: Any, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2
    )
    return T5EncoderModel(config)


def _quiet(pipe: Any) -> Any:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
