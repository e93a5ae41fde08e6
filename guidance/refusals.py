"""What cannot be guided or recorded, found before anything runs, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .errors import GuidanceError, UnsupportedError
from .schedulers import keeps_sample


@dataclass(frozen=True)
class Refusal:
    """Something that diffusers hooks into a model and that guidance cannot work with.

    Attributes:
        name: what users know it as.
        hooks: how the names of its hooks begin.
        reason: why it is refused.
        remedy: what to do instead.
    """

    name: str
    hooks: tuple[str, ...]
    reason: str
    remedy: str


CASTING = Refusal(
    "layerwise casting",
    ("layerwise_casting",),
    "a gradient goes back through weights that have been cast away by then",
    "load the pipeline without enable_layerwise_casting, in torch.float16 or torch.bfloat16",
)
GROUPS = Refusal(
    "group offloading",
    ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading", "lazy_leafs"),
    "a gradient goes back through weights that have been offloaded by then",
    "load the pipeline without enable_group_offload, and use pipe.enable_model_cpu_offload() or "
    "pipe.enable_sequential_cpu_offload()",
)
CACHE = Refusal(
    "a cache",
    ("faster_cache", "fbc_", "mag_cache", "pyramid_attention", "sea_cache", "taylorseer_cache", "text_kv_"),
    "it answers attention from an earlier step, on other latents",
    "call disable_cache() on the denoiser, and enable_cache() anew afterwards",
)


def refuse_unguidable(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Refuse to guide where that could not work, before anything has run.

    Raises:
        GuidanceError: gradients are forbidden.
        UnsupportedError: an unknown scheduler, an argument that this diffusers cannot follow, or something
            hooked into the denoiser that gradients or probes do not survive.
    """
    if torch.is_inference_mode_enabled():
        raise GuidanceError(
            "guidance needs gradients, which torch.inference_mode() forbids; torch.no_grad() is fine"
        )
    with suppress(AttributeError):  # a scheduler without timesteps yet cannot tell; its class is known
        keeps_sample(pipe.scheduler)
    _refuse_clip_skip(pipe, arguments)
    _refuse_hooked(denoiser, "guide", (CASTING, GROUPS, CACHE))


def refuse_unrecordable(denoiser: nn.Module) -> None:
    """Refuse to record what skips attention.

    Raises:
        UnsupportedError: a cache is enabled.
    """
    _refuse_hooked(denoiser, "record", (CACHE,))


def _refuse_hooked(denoiser: nn.Module, who: str, refusals: Iterable[Refusal]) -> None:
    hooks = set(_hooks(denoiser))
    for refusal in refusals:
        if any(hook.startswith(refusal.hooks) for hook in hooks):
            raise UnsupportedError(
                f"{type(denoiser).__name__} runs with {refusal.name}, which {who} cannot work with: "
                f"{refusal.reason}; {refusal.remedy}"
            )


def _hooks(denoiser: nn.Module) -> Iterator[str]:
    """The names of all hooks of diffusers' own in a model."""
    for module in denoiser.modules():
        yield from getattr(getattr(module, "_diffusers_hook", None), "hooks", ())


def _refuse_clip_skip(pipe: Any, arguments: Mapping[str, Any]) -> None:
    several = hasattr(pipe, "text_encoder_2")  # these pipelines take hidden states, and need no text_model
    if arguments.get("clip_skip") is not None and not (several or hasattr(pipe.text_encoder, "text_model")):
        raise UnsupportedError(
            "this diffusers cannot skip layers of the text encoder of this transformers (it has no "
            "text_model); leave clip_skip out, or install a transformers in which it has"
        )
