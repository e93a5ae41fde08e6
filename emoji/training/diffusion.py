"""Trains the UNet with its text encoder; here are the choices that make attention follow the words."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..tokenizer import MAX_LENGTH
from .latents import Latents

LEARNING_RATE: Final = 1.2e-3
TEXT_RATE_SHARE: Final = 0.4
DROPPED_SHARE: Final = 0.1
"""How often a caption is replaced by the empty one, for classifier-free guidance (Ho & Salimans 2022)."""
TAIL_SHARE: Final = 0.65
"""For this share of training the embeddings from the end token on are the empty prompt's.

The end token has seen the whole caption; left in from the start, it says everything, and the words are
never attended.
"""
EMBEDDING_GAIN: Final = 32.0
"""How much larger than CLIP's the token embeddings start.

Of the variance of the untrained encoder's output .91 is then word identity, not .30. With .30 the text was
still ignored after 700 steps: right and shuffled captions gave the same loss.
"""
SNR_LIMIT: Final = 5.0
AVERAGE_DECAY: Final = 0.9985


def build_unet() -> nn.Module:
    """The UNet: 64, 128, 128 channels, cross-attention at 16 x 16, 8 x 8 and, in the middle, 4 x 4."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder: CLIP's (Radford et al. 2021) with 128 channels and 4 layers."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(EMBEDDING_GAIN)
    return model


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule (Rombach et al. 2022) in a `DDIMScheduler`."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Generator(nn.Module):
    """UNet and text encoder, and the running average of both, which is what is sampled from and kept."""

    empty: Tensor

    def __init__(self, tokenizer: CLIPTokenizer) -> None:

        super().__init__()
        self.unet = build_unet()
        self.text_encoder = build_text_encoder(tokenizer)
        self.average = nn.ModuleDict(
            {"unet": copy.deepcopy(self.unet), "text_encoder": copy.deepcopy(self.text_encoder)}
        ).requires_grad_(False)
        if not torch.cuda.is_available():
            # On a CPU the fused attention's backward is slow for heads this narrow: a third of a step.
            self.unet.set_attn_processor(AttnProcessor())
        self.register_buffer("empty", _empty_prompt(tokenizer), persistent=False)
        self.end = int(tokenizer.eos_token_id)

    def forward(
        self,
        noised: Float[Tensor, "batch channel height width"],
        timesteps: Int64[Tensor, "batch"],
        tokens: Int64[Tensor, "batch token"],
        keep: Bool[Tensor, "batch"],
        donors: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "batch channel height width"]:
        """The predicted noise; `with_tails` explains `keep` and `donors`."""
        hidden = self.text_encoder(torch.cat([tokens, self.empty])).last_hidden_state
        words, empty = hidden[:-1], hidden[-1]
        words = with_tails(words, empty, tokens, self.end, keep, donors)
        return self.unet(noised, timesteps, encoder_hidden_states=words).sample

    def start_from(self, pipeline: Path | None, text: Path | None = None) -> None:
        """Take weights, and their average, from folders of the same sizes.

        Args:
            pipeline: a whole pipeline, of which the UNet is taken, and the text encoder if `text` is None.
            text: a CLIP, or a CLIP text encoder, of the same tokenizer.
        """
        if pipeline is not None:
            unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", local_files_only=True)
            self._take("unet", unet)
            text = text or pipeline / "text_encoder"
        if text is not None:
            encoder = CLIPTextModel.from_pretrained(text, local_files_only=True, dtype=torch.float32)
            # The activation may be another one than a new encoder's: the model, not its weights alone.
            self.text_encoder, self.average["text_encoder"] = encoder.train(), copy.deepcopy(encoder)
            self.average.requires_grad_(False)

    def _take(self, name: str, part: nn.Module) -> None:
        weights = part.float().state_dict()
        getattr(self, name).load_state_dict(weights)
        self.average[name].load_state_dict(weights)

    @torch.no_grad()
    def update_average(self, number: int) -> None:
        """One step of the exponential moving average, with a shorter memory at the start."""
        weight = 1.0 - min(AVERAGE_DECAY, (1.0 + number) / (10.0 + number))
        live = [*self.unet.parameters(), *self.text_encoder.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), live, weight)

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW in which the text encoder moves at 0.4 of the UNet's learning rate."""
        groups = [
            {"params": self.unet.parameters(), "lr": LEARNING_RATE},
            {"params": self.text_encoder.parameters(), "lr": LEARNING_RATE * TEXT_RATE_SHARE},
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-2)


def _bare(model: nn.Module) -> Generator:
    """The generator out of what a distributed run wraps it in."""
    bare = getattr(model, "module", model)
    assert isinstance(bare, Generator)
    return bare


def _empty_prompt(tokenizer: CLIPTokenizer) -> Int64[Tensor, "one token"]:
    return tokenizer([""], padding="max_length", max_length=MAX_LENGTH, return_tensors="pt").input_ids


def with_tails(
    words: Float[Tensor, "batch token channel"],
    empty: Float[Tensor, "token channel"],
    tokens: Int64[Tensor, "batch token"],
    end: int,
    keep: Bool[Tensor, "batch"],
    donors: Int64[Tensor, "batch"],
) -> Float[Tensor, "batch token channel"]:
    """The text embeddings with what stands from the end token on exchanged.

    `donors[i]` is the sample whose end token and padding sample i gets, aligned at the end tokens; -1 takes
    the empty prompt's. Samples with `keep` are left as they are.
    """
    length = tokens.shape[1]
    ends = (tokens == end).int().argmax(1)
    at = torch.arange(length, device=tokens.device)
    is_tail = (at >= ends[:, None]) & ~keep[:, None]
    source = donors.clamp(min=0)
    aligned = (at - ends[:, None] + ends[source][:, None]).clamp(0, length - 1)
    given = words[source].gather(1, aligned[..., None].expand_as(words))
    tails = torch.where((donors < 0)[:, None, None], empty.expand_as(words), given)
    return torch.where(is_tail[..., None], tails.to(words.dtype), words)


@dataclass(frozen=True)
class DiffusionStep:
    """One step's loss: predicted noise, weighed by min-SNR-5 (Hang et al. 2023, equation 8)."""

    data: Latents
    scaling: float
    """The VAE's scaling factor."""
    steps: int
    batch_size: int
    alphas: Float[Tensor, "timestep"]
    """The scheduler's cumulative alphas."""
    tail_share: float = TAIL_SHARE
    """For this share of the steps, 0 to 1, what stands from the end token on is the empty prompt's."""

    def __call__(
        self, model: nn.Module, generator: torch.Generator, number: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss, and the plain mean squared error to show."""
        device = next(model.parameters()).device
        _bare(model).update_average(number)
        rows = torch.randint(len(self.data.mean), (self.batch_size,), generator=generator)
        clean = self._latents(rows, generator)
        noise = torch.randn(clean.shape, generator=generator)
        # The square root draws late timesteps, where the layout is decided, more often.
        timesteps = (1000 * torch.rand(self.batch_size, generator=generator).sqrt()).long().clamp(max=999)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noised = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        tokens, keep, donors = self._captions(model, rows, generator, number)
        inputs = [value.to(device) for value in (noised, timesteps, tokens, keep, donors)]
        error = (model(*inputs).float() - noise.to(device)).square().mean((1, 2, 3))
        ratio = (alpha / (1 - alpha)).flatten()
        weight = (ratio.clamp(max=SNR_LIMIT) / ratio).to(device)
        return (weight * error).mean(), {"error": error.mean().item()}

    def _latents(
        self, rows: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "batch channel height width"]:
        mean, deviation = self.data.mean[rows], self.data.deviation[rows]
        return (mean + deviation * torch.randn(mean.shape, generator=generator)) * self.scaling

    def _captions(
        self, model: nn.Module, rows: Tensor, generator: torch.Generator, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of one form of each caption, who keeps its tail, and whose tail the others get."""
        count = len(rows)
        forms = torch.randint(self.data.tokens.shape[1], (count,), generator=generator)
        tokens = self.data.tokens[rows, forms].clone()
        dropped = torch.rand(count, generator=generator) < DROPPED_SHARE
        tokens[dropped] = _bare(model).empty.cpu()
        keep = torch.rand(count, generator=generator) < 0.5
        donors = torch.randperm(count, generator=generator)
        if number < self.tail_share * self.steps:
            keep, donors = torch.zeros_like(keep), torch.full_like(donors, -1)
        # An unconditional sample must look exactly like the pipeline's: the empty prompt with its own tail.
        return tokens, keep | dropped, donors
