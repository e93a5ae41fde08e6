"""What users put into their pipelines, as cases: each must go on working while the pipeline is guided."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import accelerate
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import apply_pyramid_attention_broadcast
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from peft import LoraConfig, get_peft_model_state_dict
from tiny_transformers import tiny_flux, tiny_sd3
from tiny_unets import sd1, xl
from torch import nn
from torch.utils.checkpoint import checkpoint

PROMPT = "a cat and a backpack"
WORDS = ("cat", "backpack")
TOY = "<toy>"

Log = list[str] | None
"""Grows whenever the attachment does something; None where the pixels tell."""


@dataclass(frozen=True)
class Kind:
    """A pipeline that things are attached to: how it is built, and what its denoiser is called."""

    name: str
    build: Callable[[], Any]
    denoiser: str = "unet"
    attention: str = "cross_attention_kwargs"

    def of(self, pipe: Any) -> Any:
        """The denoiser of a pipeline of this kind."""
        return getattr(pipe, self.denoiser)


@dataclass(frozen=True)
class Attachment:
    """One thing that users attach.

    Attributes:
        name: what it is called in the table.
        attach: attaches it and returns its log.
        kinds: names of the pipelines that it exists for.
        arguments: further arguments of the pipeline's call.
        prompt, words: what is drawn and guided.
    """

    name: str
    attach: Callable[[Kind, Any], Log]
    kinds: Sequence[str]
    arguments: Callable[[Kind], Mapping[str, Any]] = lambda kind: {}
    prompt: str = PROMPT
    words: Sequence[str] = WORDS


def _small() -> Any:
    """Stable Diffusion with one grid of text: what is attached does not depend on how many there are."""
    return sd1(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        layers_per_block=1,
    )


SD, XL, SD3, FLUX = KINDS = (
    Kind("Stable Diffusion", _small),
    Kind("Stable Diffusion XL", xl),
    Kind("Stable Diffusion 3", tiny_sd3, "transformer", "joint_attention_kwargs"),
    Kind("Flux", tiny_flux, "transformer", "joint_attention_kwargs"),
)
UNETS, TRANSFORMERS = (SD.name, XL.name), (SD3.name, FLUX.name)
ALL = (*UNETS, *TRANSFORMERS)
NOT_XL = (SD.name, *TRANSFORMERS)  # where XL has the same code, and would cost the tests time


def _lora(kind: Kind, pipe: Any) -> None:
    """Weights that a twin of the pipeline makes, loaded as users load a file."""
    twin = kind.build()
    config = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"])
    text = LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, settings in ((kind.denoiser, config), ("text_encoder", text)):
            model = getattr(twin, name)
            model.add_adapter(settings)
            weights = get_peft_model_state_dict(model, adapter_name="default")
            found |= {f"{name}.{key}": value for key, value in weights.items()}
    pipe.load_lora_weights(found, adapter_name="style")


def _fused_lora(kind: Kind, pipe: Any) -> None:
    _lora(kind, pipe)
    pipe.fuse_lora(lora_scale=0.7)


def _textual_inversion(kind: Kind, pipe: Any) -> None:
    """One name for three vectors, in each text encoder."""
    for suffix in ("", "_2") if kind is XL else ("",):
        encoder, tokenizer = (getattr(pipe, part + suffix) for part in ("text_encoder", "tokenizer"))
        width = encoder.get_input_embeddings().weight.shape[1]
        vectors = torch.randn(3, width, generator=torch.Generator().manual_seed(2))
        pipe.load_textual_inversion(vectors, token=TOY, text_encoder=encoder, tokenizer=tokenizer)


def _ip_adapter(kind: Kind, pipe: Any) -> None:
    width = pipe.unet.config.cross_attention_dim
    noise = partial(torch.randn, generator=torch.Generator().manual_seed(3))
    weights, cross = {}, (name for name in pipe.unet.attn_processors if "attn2" in name)
    for index, name in enumerate(cross):
        channels = pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            weights[f"{2 * index + 1}.{part}.weight"] = noise(channels, width)
    projection = {
        "proj.weight": noise(4 * width, 12),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    given = {"image_proj": projection, "ip_adapter": weights}
    pipe.load_ip_adapter(given, subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(0.6)


def _image_prompt(kind: Kind) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    return {"ip_adapter_image_embeds": [torch.randn(2, 1, 12, generator=generator)]}


def _free_u(kind: Kind, pipe: Any) -> None:
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def _vae_tiling(kind: Kind, pipe: Any) -> None:
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 64, 8


def _vae_slicing(kind: Kind, pipe: Any) -> Log:
    pipe.vae.enable_slicing()
    return _heard(pipe.vae.decoder)


def _sliced_attention(kind: Kind, pipe: Any) -> None:
    pipe.enable_attention_slicing(1)


def _model_offload(kind: Kind, pipe: Any) -> Log:
    """What `enable_model_cpu_offload` attaches, with the CPU as the device."""
    hook, log = None, []
    for name in pipe.model_cpu_offload_seq.split("->"):
        if getattr(pipe, name, None) is not None:
            model, hook = accelerate.cpu_offload_with_hook(getattr(pipe, name), torch.device("cpu"), hook)
            _spy(model._hf_hook, "pre_forward", log)
    return log


def _sequential_offload(kind: Kind, pipe: Any) -> Log:
    """What `enable_sequential_cpu_offload` attaches, with the CPU as the device."""
    log: list[str] = []
    for model in pipe.components.values():
        if isinstance(model, nn.Module):
            accelerate.cpu_offload(model, torch.device("cpu"), offload_buffers=True)
    for module in kind.of(pipe).modules():
        if getattr(module, "_hf_hook", None) is not None:
            _spy(module._hf_hook, "pre_forward", log)
    return log


def _gradient_checkpointing(kind: Kind, pipe: Any) -> Log:
    log: list[str] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        log.append("a block")
        return checkpoint(*args, use_reentrant=False, **kwargs)

    kind.of(pipe).enable_gradient_checkpointing(counted)
    return log


def _fused_projections(kind: Kind, pipe: Any) -> Log:
    with warnings.catch_warnings(action="ignore"):  # experimental, it says
        (pipe if kind.denoiser == "unet" else pipe.transformer).fuse_qkv_projections()
    return _heard(next(module for name, module in kind.of(pipe).named_modules() if name.endswith("to_qkv")))


def _attention_backend(kind: Kind, pipe: Any) -> Log:
    pipe.transformer.set_attention_backend("_native_math")
    log: list[str] = []
    backends = _AttentionBackendRegistry._backends
    plain = backends[AttentionBackendName._NATIVE_MATH]
    backends[AttentionBackendName._NATIVE_MATH] = lambda **given: log.append("asked") or plain(**given)
    return log


@contextmanager
def backends_kept() -> Iterator[None]:
    """Attention backends are the whole process's: within the block they may be changed."""
    registry = _AttentionBackendRegistry
    backends, active = dict(registry._backends), registry._active_backend
    try:
        yield
    finally:
        registry._backends.update(backends)
        registry._active_backend = active


def _compiled(how: str, kind: Kind, pipe: Any) -> Log:
    """The log tells of every compilation ("made") and of every run of compiled code ("ran")."""
    log: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        log.append("made")
        return lambda *args: log.append("ran") or graph.forward(*args)

    model = kind.of(pipe)
    if how == "wrapped":
        setattr(pipe, kind.denoiser, torch.compile(model, backend=backend))
    elif how == "in place":
        model.compile(backend=backend)
    else:
        model.compile_repeated_blocks(backend=backend)
    return log


def _heard(module: nn.Module) -> list[str]:
    """A log of a module's calls, by the number of rows of each."""
    log: list[str] = []
    module.register_forward_pre_hook(lambda module, args: log.append(f"{len(args[0])} rows"))
    return log


def _spy(target: Any, name: str, log: list[str]) -> None:
    """Let the log hear of every call of a method."""
    method = getattr(target, name)

    def heard(*args: Any, **kwargs: Any) -> Any:
        log.append(name)
        return method(*args, **kwargs)

    setattr(target, name, heard)


def _half(kind: Kind) -> dict[str, Any]:
    return {kind.attention: {"scale": 0.5}}


def _drawn(kind: Kind) -> dict[str, Any]:
    return {"output_type": "pt"}


def _two(kind: Kind) -> dict[str, Any]:
    return {"output_type": "pt", "num_images_per_prompt": 2}


ATTACHMENTS = (
    Attachment("LoRA, loaded, with a scale", _lora, ALL, _half),
    Attachment("LoRA, fused", _fused_lora, NOT_XL),
    Attachment(
        "textual inversion of three vectors",
        _textual_inversion,
        UNETS,
        prompt=f"a {TOY} and a cat",
        words=(TOY, "cat"),
    ),
    Attachment("IP-Adapter", _ip_adapter, UNETS, _image_prompt),
    Attachment("FreeU", _free_u, UNETS),
    Attachment("sliced attention", _sliced_attention, (SD.name,)),
    # Stable Diffusion 3.5's own pass fails with them: its second attention has no text to fuse
    Attachment("fused projections", _fused_projections, (SD.name, FLUX.name)),
    Attachment("another attention backend", _attention_backend, (FLUX.name,)),
    Attachment("VAE tiling", _vae_tiling, (SD.name, FLUX.name), _drawn),
    Attachment("VAE slicing", _vae_slicing, (SD.name, FLUX.name), _two),
    Attachment("model offloading", _model_offload, ALL),
    Attachment("sequential offloading", _sequential_offload, NOT_XL),
    Attachment("gradient checkpointing", _gradient_checkpointing, NOT_XL),
)
WAYS = ("wrapped", "in place", "its blocks")
COMPILED = tuple(
    Attachment(
        f"compiled: {how}",
        partial(_compiled, how),
        (SD.name, FLUX.name) if how == "its blocks" else (SD.name,),
    )
    for how in WAYS
)


def _cast(kind: Kind, pipe: Any) -> None:
    kind.of(pipe).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def _grouped(kind: Kind, pipe: Any) -> None:
    kind.of(pipe).enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")


def _broadcast(kind: Kind, pipe: Any) -> None:
    settings = PyramidAttentionBroadcastConfig(
        cross_attention_block_skip_range=2,
        cross_attention_block_identifiers=("attentions",),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(kind.of(pipe), settings)


def _cached(kind: Kind, pipe: Any) -> None:
    """Let Flux leave out blocks whose first one changed little."""
    kind.of(pipe).enable_cache(FirstBlockCacheConfig(threshold=0.1))


@dataclass(frozen=True)
class Refused:
    """What cannot be guided: its name in the table, how it is attached, what the error advises, and where."""

    name: str
    attach: Callable[[Kind, Any], None]
    remedy: str
    kinds: Sequence[str]


REFUSED = (
    Refused("layerwise casting", _cast, r"float16 or torch\.bfloat16", ALL),
    Refused("group offloading", _grouped, r"use pipe\.enable_model_cpu_offload\(\)", ALL),
    Refused("a cache: pyramid attention broadcast", _broadcast, r"disable_cache\(\)", (SD.name,)),
    Refused("a cache: first block", _cached, r"disable_cache\(\)", (FLUX.name,)),
)
