"""Tiny pipelines with controls, perturbed attention or guiders, made of the parts of tiny UNet pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
from diffusers import ControlNetModel, ControlNetUnionModel, MultiControlNetModel, T2IAdapter
from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks
from tiny_unets import sd1, seeded, xl_parts
from torch import nn

PERTURBED = ["down_blocks.1", "mid"]


def speaking(controlnet: nn.Module) -> nn.Module:
    """A ControlNet begins with layers of zeros, and says nothing; give these weights."""
    for parameter in controlnet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return controlnet


def controlnet(unet: nn.Module, union: bool = False) -> nn.Module:
    """A ControlNet for this UNet, of four input channels whatever the UNet has."""
    kind = ControlNetUnionModel if union else ControlNetModel
    settings = dict(kind.from_unet(unet, load_weights_from_unet=False).config)
    further = {"num_trans_channel": 8, "num_trans_head": 2, "num_proj_channel": 8} if union else {}
    return speaking(
        kind.from_config(settings, in_channels=4, conditioning_embedding_out_channels=(4, 4, 8, 8), **further)
    )


@seeded
def controlled(
    kind: str,
    base: Callable[..., Any] = sd1,
    nets: int = 1,
    union: bool = False,
    **further: Any,
) -> Any:
    """A pipeline of Stable Diffusion's, or another base's, parts and so many ControlNets."""
    options = {name: further.pop(name) for name in list(further) if name.startswith("pag_")}
    pipe = base(**further)
    made = [controlnet(pipe.unet, union) for _ in range(nets)]
    net = made[0] if nets == 1 else MultiControlNetModel(made)
    return getattr(diffusers, kind).from_pipe(pipe, controlnet=net, **options)


@seeded
def perturbed(kind: str, base: Callable[..., Any] = sd1, **unet: Any) -> Any:
    """A pipeline that perturbs the attention of an outer block, which probes run through, and the middle."""
    return getattr(diffusers, kind).from_pipe(base(**unet), pag_applied_layers=PERTURBED)


@seeded
def adapted(kind: str = "StableDiffusionAdapterPipeline", base: Callable[..., Any] = sd1) -> Any:
    """A pipeline with an adapter, whose features are of the image alone."""
    pipe = base()
    channels = list(pipe.unet.config.block_out_channels)
    adapter = T2IAdapter(3, channels, num_res_blocks=1, downscale_factor=8)
    if "XL" in kind:  # begins one grid further down, and ends in the middle block
        adapter = T2IAdapter(3, [*channels, channels[-1]], 1, 16, "full_adapter_xl")
    return getattr(diffusers, kind).from_pipe(pipe, adapter=adapter)


@seeded
def modular(guider: Any = None, control: bool = False, **unet: Any) -> Any:
    """Stable Diffusion XL put together of blocks, with a guider."""
    pipe = StableDiffusionXLAutoBlocks().init_pipeline()
    parts = xl_parts(**unet)
    if control:
        parts["controlnet"] = controlnet(parts["unet"])
    pipe.update_components(**parts, **({} if guider is None else {"guider": guider}))
    return pipe
