"""Checks on real scenes, before anything is sampled, how far attention has learnt to go where its word is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from ..world import Scene, label
from .latents import to_pixels, tokenise

TIMESTEPS = (300, 600, 850)


@dataclass(frozen=True)
class WordAttention:
    """What the cross-attention of one grid does, averaged over scenes, subjects and `TIMESTEPS`."""

    in_box: float
    """A subject word's share of attention inside its box, over the box's share of the image: 1 is chance."""
    peak: float
    """The largest attention probability that a subject word reaches anywhere."""
    start: float
    """The mean attention probability of the start token."""


class _Recorder:
    """An eager cross-attention processor that keeps its probabilities by the number of image tokens."""

    def __init__(self) -> None:
        self.found: dict[int, list[Float[Tensor, "batch head pixel token"]]] = defaultdict(list)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(layer(x))
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        if encoder_hidden_states is not None:
            self.found[query.shape[1]].append(probabilities.unflatten(0, (-1, attn.heads)))
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(probabilities @ value)))


@torch.no_grad()
def measure(
    unet: UNet2DConditionModel,
    text_encoder: nn.Module,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    alphas: Float[Tensor, "timestep"],
    found: list[Scene],
) -> dict[int, WordAttention]:
    """How attention behaves on these scenes, noised, by grid side. The UNet's processors are put back."""
    kept = unet.attn_processors
    recorder = _Recorder()
    unet.set_attn_processor({name: recorder if "attn2" in name else kept[name] for name in kept})
    try:
        pixels = to_pixels(torch.stack([torch.from_numpy(scene.image) for scene in found]))
        clean = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        tokens = tokenise(tokenizer, [scene.caption for scene in found])
        hidden = text_encoder(tokens).last_hidden_state
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        for timestep in TIMESTEPS:
            alpha = alphas[timestep]
            unet(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, timestep, encoder_hidden_states=hidden)
    finally:
        unet.set_attn_processor(kept)
    return {
        int(pixels**0.5): _summary(maps, tokens, tokenizer, found)
        for pixels, maps in sorted(recorder.found.items())
    }


def word_positions(tokenizer: CLIPTokenizer, tokens: Int64[Tensor, "token"], word: str) -> list[int]:
    """Where the tokens of a word (or of "red bow") first stand among those of its caption."""
    wanted = tokenizer(word, add_special_tokens=False).input_ids
    row = tokens.tolist()
    for start in range(len(row) - len(wanted) + 1):
        if row[start : start + len(wanted)] == wanted:
            return list(range(start, start + len(wanted)))
    raise ValueError(f'"{word}" is not in "{tokenizer.decode(row, skip_special_tokens=True)}"')


def _summary(
    maps: list[Float[Tensor, "batch head pixel token"]],
    tokens: Int64[Tensor, "batch token"],
    tokenizer: CLIPTokenizer,
    found: list[Scene],
) -> WordAttention:
    mean = torch.stack(maps).mean((0, 2))
    side = int(mean.shape[1] ** 0.5)
    ratios, peaks = [], []
    for row, scene in enumerate(found):
        for subject in scene.subjects:
            at = word_positions(tokenizer, tokens[row], label(subject.name))
            attention = mean[row, :, at].sum(1).view(side, side)
            left, top, right, bottom = subject.box
            box = torch.zeros(1, 1, *scene.image.shape[:2])
            box[..., top:bottom, left:right] = 1.0
            box = functional.adaptive_avg_pool2d(box, side)[0, 0]
            ratios.append(float((attention * box).sum() / attention.sum() / box.mean()))
            peaks.append(float(attention.max()))
    return WordAttention(sum(ratios) / len(ratios), sum(peaks) / len(peaks), float(mean[..., 0].mean()))
