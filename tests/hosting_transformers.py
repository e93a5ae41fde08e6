"""Stable Diffusion 3 and Flux as cases of `hosting`, and their joint attention computed anew."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import diffusers
import torch
from heedful.guidance.denoiser import is_probed
from hosting import Case
from tiny_transformers import tiny_flux, tiny_sd3
from torch import Tensor, nn

T5_LENGTH, POSITIONS = 24, 80
SIZE = {"height": 160, "width": 128, "max_sequence_length": T5_LENGTH}
TWO_STEPS = {**SIZE, "num_inference_steps": 2}
FROM_AN_IMAGE = {**SIZE, "num_inference_steps": 4, "strength": 0.5}
FLOW = {"FlowMatchHeunDiscreteScheduler": {}}
RESHIFTED = {"FlowMatchEulerDiscreteScheduler": {"use_dynamic_shifting": False, "shift": 2.0}}
TEXTS = {"cat": (2, 78), "backpack": (5, 6, 81, 82)}
T5_TEXT = {"cat": (1,), "backpack": (4, 5)}


def whole_attention(module: nn.Module, text: Tensor | None, image: Tensor, rotary: Any = None) -> Tensor:
    """(row, heads, query, key) of a joint attention in float64, text first, from its projections' weights."""
    queries, keys = [], []
    if text is not None:
        queries.append(_normed(module.add_q_proj, getattr(module, "norm_added_q", None), text, module))
        keys.append(_normed(module.add_k_proj, getattr(module, "norm_added_k", None), text, module))
    queries.append(_normed(module.to_q, module.norm_q, image, module))
    keys.append(_normed(module.to_k, module.norm_k, image, module))
    query, key = torch.cat(queries, 2), torch.cat(keys, 2)
    if rotary is not None:
        query, key = _turned(query, rotary), _turned(key, rotary)
    scores = torch.einsum("bhqc,bhkc->bhqk", query, key) / query.shape[-1] ** 0.5
    return scores.softmax(-1)


def _normed(projection: nn.Module, norm: nn.Module | None, states: Tensor, module: nn.Module) -> Tensor:
    """(row, heads, position, channel)."""
    own = states.double() @ projection.weight.double().T + projection.bias.double()
    heads = own.unflatten(2, (module.heads, -1)).transpose(1, 2)
    if norm is None:
        return heads
    size = (heads.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return heads / size * norm.weight.double()


def _turned(states: Tensor, rotary: Any) -> Tensor:
    """Pairs of channels turned by the angles of their positions."""
    cosines, sines = (part.double() for part in rotary)
    turned = torch.empty_like(states)
    for pair in range(0, states.shape[-1], 2):
        first, second = states[..., pair], states[..., pair + 1]
        turned[..., pair] = first * cosines[:, pair] - second * sines[:, pair]
        turned[..., pair + 1] = second * cosines[:, pair] + first * sines[:, pair]
    return turned


def joint(module: nn.Module, args: Any, kwargs: Any, rows: slice) -> tuple[Tensor, int]:
    """The whole attention of one call of a block's attention, text first, and the text's length.

    Behind the image's positions may stand those of another one.
    """
    image, text = kwargs["hidden_states"], kwargs.get("encoder_hidden_states")
    own = None if text is None else text[rows]
    whole = whole_attention(module, own, image[rows], kwargs.get("image_rotary_emb"))
    return whole, T5_LENGTH if text is None else text.shape[1]


@torch.no_grad()
def text_attention(module: nn.Module, args: Any, kwargs: Any, rows: slice) -> Tensor:
    """(image, heads, position, token): what the image's own positions give the text, as shares of that."""
    whole, length = joint(module, args, kwargs, rows)
    over_text = whole[:, :, length : length + POSITIONS, :length]
    return over_text / over_text.sum(-1, keepdim=True)


@torch.no_grad()
def image_attention(module: nn.Module, args: Any, kwargs: Any, rows: slice) -> Tensor:
    """(image, position, position): the image's part over itself, the mean over the heads."""
    whole, length = joint(module, args, kwargs, rows)
    over_image = whole[:, :, length:, length:]
    return (over_image / over_image.sum(-1, keepdim=True)).mean(1)


def images(count: int) -> dict[str, Any]:
    """The same image to begin with for each."""
    image = torch.rand(1, 3, 160, 128, generator=torch.Generator().manual_seed(5))
    return {"image": image.repeat(count, 1, 1, 1)}


def masked(count: int) -> dict[str, Any]:
    """The same, and a mask of its middle."""
    mask = torch.zeros(count, 1, 160, 128)
    mask[:, :, 32:112, 32:104] = 1
    return {**images(count), "mask_image": mask}


def pipeline(build: Any, kind: str | None = None, **settings: Any) -> Any:
    """A tiny pipeline, or one of another class with the same parts."""
    pipe = build(**settings)
    if kind is None:
        return pipe
    made = getattr(diffusers, kind)
    parts = inspect.signature(made.__init__).parameters
    other = made(**{name: part for name, part in pipe.components.items() if name in parts})
    other.set_progress_bar_config(disable=True)
    return other


def without_t5() -> Any:
    """Stable Diffusion 3.0, which knows no norms in attention and no second one, without its largest part."""
    pipe = tiny_sd3(dual_attention_layers=(), qk_norm=None)
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    return pipe


class TrueGuidance(Case):
    """Flux with a negative prompt for each prompt: the transformer is called twice a step."""

    def run(self, pipe: Any, prompt: Any = None, seed: int = 0, count: int = 1, **options: Any) -> Tensor:
        """As `Case.run`."""
        prompts = 1 if isinstance(prompt, str) or prompt is None else len(prompt)
        given = {} if prompt is None else {"prompt": prompt}
        negative = {"negative_prompt": ["a red dog"] * prompts, "true_cfg_scale": 3.0}
        return super().run(pipe, seed=seed, count=count, **given, **{**negative, **options})


def flux_case(name: str, build: Any, kind: type[Case] = Case, **given: Any) -> Case:
    """A case of Flux: no classifier-free part, T5's text alone."""
    settings = {
        "parts": ("conditional",),
        "off": None,
        "settings": TWO_STEPS,
        "columns": T5_TEXT,
        "direct": text_attention,
        "schedulers": RESHIFTED,
    }
    return kind(name, build, **{**settings, **given})


CASES = [
    Case(
        "StableDiffusion3Pipeline",
        tiny_sd3,
        settings=TWO_STEPS,
        columns=TEXTS,
        direct=text_attention,
        schedulers=FLOW,
    ),
    Case(
        "StableDiffusion3Pipeline, without T5",
        without_t5,
        settings=TWO_STEPS,
        direct=text_attention,
        schedulers=FLOW,
    ),
    flux_case("FluxPipeline", tiny_flux),
    flux_case(
        "FluxPipeline, true guidance",
        partial(tiny_flux, guidance_embeds=True),
        TrueGuidance,
        calls=2,
        off={"true_cfg_scale": 1.0},
    ),
    Case(
        "StableDiffusion3InpaintPipeline",
        partial(pipeline, tiny_sd3, "StableDiffusion3InpaintPipeline"),
        arguments=masked,
        settings=FROM_AN_IMAGE,
        columns=TEXTS,
        direct=text_attention,
        schedulers={},
    ),
    flux_case(
        "FluxInpaintPipeline",
        partial(pipeline, tiny_flux, "FluxInpaintPipeline"),
        arguments=masked,
        settings=FROM_AN_IMAGE,
        schedulers={},
    ),
    flux_case(
        "FluxFillPipeline",
        partial(
            pipeline, tiny_flux, "FluxFillPipeline", in_channels=288, out_channels=16, guidance_embeds=True
        ),
        arguments=masked,
        schedulers={},
    ),
    flux_case(
        "FluxKontextPipeline",
        partial(pipeline, tiny_flux, "FluxKontextPipeline"),
        arguments=images,
        settings={**TWO_STEPS, "max_area": 160 * 128, "_auto_resize": False},
        schedulers={},
    ),
]
"""Those that all tests of `hosting` are for."""

FURTHER = [
    Case(
        "StableDiffusion3Img2ImgPipeline",
        partial(pipeline, tiny_sd3, "StableDiffusion3Img2ImgPipeline"),
        arguments=images,
        per_image=True,
        settings=FROM_AN_IMAGE,
        columns=TEXTS,
        direct=text_attention,
        schedulers={},
    ),
    flux_case(
        "FluxImg2ImgPipeline",
        partial(pipeline, tiny_flux, "FluxImg2ImgPipeline"),
        arguments=images,
        settings=FROM_AN_IMAGE,
        schedulers={},
    ),
    flux_case(
        "FluxControlPipeline",
        partial(pipeline, tiny_flux, "FluxControlPipeline", in_channels=32, out_channels=16),
        arguments=lambda count: {"control_image": images(1)["image"]},
        schedulers={},
    ),
]
"""Those that work as one of `CASES` does, of which a few things are asked."""


def inputs_of(pipe, run):
    """The hidden states that the transformer works on in the pipeline's own calls."""
    seen = []

    def watch(module, args):
        if not is_probed(pipe.transformer):
            seen.append(args[0].clone())

    first = (
        pipe.transformer.x_embedder if hasattr(pipe.transformer, "x_embedder") else pipe.transformer.pos_embed
    )
    hook = first.register_forward_pre_hook(watch)
    try:
        run()
    finally:
        hook.remove()
    return seen
