"""Runs the conditional part of a denoiser's call as a probe: latents in, attention maps out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .intercept import eagerly
from .layers import Grid, Layer
from .maps import AttentionMaps
from .processors import AllRecorded, Recorder, recording


@dataclass(frozen=True)
class DenoiserCall:
    """One call of a denoiser on some rows, ready to be repeated on other latents.

    This one is a UNet's. A denoiser of another kind has a subclass, which says where its latents and its text
    stand among the arguments and how (batch, channel, height, width) is laid out there.

    Attributes:
        module: the denoiser.
        arguments: its arguments by name.
        scale: the scheduler's input scale c; the denoiser is given c * latents.
        channels: how many input channels are latents, the first ones (an inpainting model's others are mask
            and image); None for all.
    """

    module: nn.Module
    arguments: Mapping[str, Any]
    scale: float = 1.0
    channels: int | None = None

    sample_name: ClassVar[str] = "sample"

    @property
    def sample(self) -> Tensor:
        """What the denoiser was given, as it was given: the latents, scaled, and what comes with them."""
        return self.arguments[self.sample_name]

    @property
    def own(self) -> Tensor:
        """The part of the sample that is latents, as the denoiser was given it."""
        return self.sample[:, : self.channels]

    @property
    def latents(self) -> Float[Tensor, "batch channel height width"]:
        """The latents as the scheduler knows them, before its input scaling, in float32."""
        sample = self.unpacked(self.own.detach()).float()
        return sample if self.scale == 1 else sample / self.scale

    @property
    def grid(self) -> Grid:
        """(height, width) of the latents."""
        height, width = self.sample.shape[-2:]
        return height, width

    @property
    def text_length(self) -> int:
        """Number of text tokens, image prompts that stand beside them apart."""
        text = self.arguments["encoder_hidden_states"]
        return (text[0] if isinstance(text, tuple) else text).shape[1]

    def unpacked(self, sample: Tensor) -> Float[Tensor, "batch channel height width"]:
        """What the denoiser and the scheduler take, laid out as an image."""
        return sample

    def packed(self, latents: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Latents laid out as the denoiser and the scheduler take them."""
        return latents

    def rows(self, index: Int[Tensor, "row"]) -> DenoiserCall:
        """The same call for some of its images only."""
        return replace(self, arguments=take(self.arguments, index, len(self.sample)))

    def moved(self, shift: Tensor) -> dict[str, Any]:
        """The arguments with every part of the batch moved by the same shift of the (packed) latents."""
        scaled = shift if self.scale == 1 else shift * self.scale
        repeated = torch.cat([scaled] * (len(self.sample) // len(scaled))).to(self.sample.dtype)
        return self._with(self.own + repeated)

    def attention(
        self, latents: Float[Tensor, "batch channel height width"], layers: Sequence[Layer]
    ) -> AttentionMaps:
        """Run the denoiser on `latents` up to the last of `layers` and return what these recorded.

        Among the layers may be self-attention (`layers.self_attention_layers`).

        The maps are in the autograd graph of `latents`. The rest of the denoiser is not run.
        """
        arguments = self._with(self.packed(latents * self.scale).to(self.sample.dtype))
        recorder = Recorder(layers, self.grid, self.text_length, stop=True)
        with recording(recorder), eagerly(self.module), suppress(AllRecorded):
            self.module(**arguments)
        maps = recorder.maps
        recorder.forget()  # lent classes refer to it and, as all classes, wait for the garbage collector
        return maps

    def _with(self, latents: Tensor) -> dict[str, Any]:
        """The arguments with other (packed) latents, and what else stands in their tensor.

        Lists are new ones: a UNet takes an adapter's residuals out of the list that it is given.
        """
        whole = latents if self.channels is None else torch.cat([latents, self.sample[:, self.channels :]], 1)
        fresh = {
            name: list(value) if isinstance(value, list) else value for name, value in self.arguments.items()
        }
        return {**fresh, self.sample_name: whole}


def by_name(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by parameter name: diffusers reads some (LoRA scales, say) from keywords only."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    named = dict(bound.arguments)
    named.update(named.pop("kwargs", {}))
    return named


def take(tree: Any, index: Tensor, rows: int) -> Any:
    """Select from every tensor of `rows` rows, in nested dicts, lists and tuples; keep the rest."""
    if isinstance(tree, Tensor):
        return tree[index.to(tree.device)] if tree.ndim and tree.shape[0] == rows else tree
    if isinstance(tree, Mapping):
        return {key: take(value, index, rows) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(take(value, index, rows) for value in tree)
    return tree


_probed: set[int] = set()  # denoisers (by id) that run as a probe, in whichever of several nested guides


@contextmanager
def probing(module: nn.Module) -> Iterator[None]:
    """Within the block the denoiser's calls are probes, which no guide nudges and no record counts."""
    _probed.add(id(module))
    try:
        yield
    finally:
        _probed.discard(id(module))


def is_probed(module: nn.Module) -> bool:
    """Whether the denoiser runs as a probe at this moment."""
    return id(module) in _probed


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient within the block, so that a probe keeps no more than it needs.

    Parameters are remembered by name, for offloading puts others in their place.
    """
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    for name in trainable:
        module.get_parameter(name).requires_grad_(False)
    try:
        yield
    finally:
        for name in trainable:
            module.get_parameter(name).requires_grad_(True)
