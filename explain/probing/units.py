"""Finds what is visualised inside a vision model: its feed-forward features, queries, keys and values.

A tower is run without its head and without texts, and no further than the layer that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from ..models.common import pair
from .activations import activations
from .tower import Tower, tower_of

_MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "feed_forward": ("activation_fn", "intermediate_act_fn", "act_fn", "act"),
    "query": ("q_proj", "query"),
    "key": ("k_proj", "key"),
    "value": ("v_proj", "value"),
}
"""What transformers calls the modules whose outputs these are; a feed-forward feature is a GELU's output."""
KINDS: Final = tuple(_MODULES)


@dataclass(frozen=True)
class Feature:
    """One number that a layer computes at every patch.

    Attributes:
        layer: from 0.
        channel: from 0; of the hidden layer of the feed-forward network, or of all heads side by side.
        kind: of `KINDS`.
    """

    layer: int
    channel: int
    kind: str = "feed_forward"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f'kind must be one of {", ".join(KINDS)}; got "{self.kind}"')
        if self.layer < 0 or self.channel < 0:
            raise InputError(
                f"layers and channels count from 0; got layer {self.layer}, channel {self.channel}"
            )

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.kind.replace('_', ' ')} {self.channel}"


def module_of(tower: Tower, feature: Feature) -> str:
    """The name of the module that computes the feature.

    Raises:
        InputError: a layer that is not there, or a kind that its model does not compute by itself.
    """
    if feature.layer >= len(tower.layers):
        raise InputError(
            f"there is no layer {feature.layer}: {tower.model} has {len(tower.layers)}, counted from 0"
        )
    layer = tower.layers[feature.layer]
    inside = [name for name, _ in tower.module.get_submodule(layer).named_modules() if name]
    found = [name for name in inside if name.rpartition(".")[2] in _MODULES[feature.kind]]
    if len(found) != 1:
        wanted = ", ".join(_MODULES[feature.kind])
        raise InputError(
            f"{layer} of {tower.model} has {len(found) or 'no'} modules named {wanted}, so its "
            f"{feature.kind} features cannot be told; it has {', '.join(inside)}"
        )
    return f"{layer}.{found[0]}"


def width_of(tower: Tower, feature: Feature) -> int:
    """How many channels there are of the feature's kind in its layer.

    Raises:
        InputError: as `module_of`.
    """
    config: Any = tower.module.config
    pixels = torch.zeros(1, config.num_channels, *pair(config.image_size))
    name = module_of(tower, feature)
    with torch.no_grad(), activations(tower.module, name) as seen, _stopped(tower, feature.layer):
        tower.module(**inputs_of(tower, pixels))
    return seen[name].shape[2]


def inputs_of(tower: Tower, pixels: Float[Tensor, "image channel height width"]) -> dict[str, Any]:
    """What the tower takes: the images, and the wish to fit its positions where their size is not its own.

    Raises:
        InputError: images that it cannot take.
    """
    trained = pair(tower.module.config.image_size)  # type: ignore[union-attr, arg-type]
    inputs: dict[str, Any] = {"pixel_values": pixels}
    if tuple(pixels.shape[2:]) != trained:
        inputs["interpolate_pos_encoding"] = True
    return tower.inputs(inputs)


def responses(
    tower: Tower,
    pixels: Float[Tensor, "image channel height width"],
    features: Sequence[Feature],
) -> list[Float[Tensor, "image patch"]]:
    """Each feature at every patch of every image, in the autograd graph, in the model's type.

    The forward ends behind the highest layer that is asked for.

    Raises:
        InputError: layers or channels that are not there, images that the model cannot take.
    """
    if not features:
        raise InputError("wanted at least one feature, got none")
    names = [module_of(tower, feature) for feature in features]
    highest = max(feature.layer for feature in features)
    inputs = inputs_of(tower, pixels)
    with activations(tower.module, tuple(dict.fromkeys(names))) as seen, _stopped(tower, highest):
        tower.module(**inputs)
    patches = tower.patches(tower.grid(pixels))
    return [_channel(seen[name][:, patches], feature) for name, feature in zip(names, features, strict=True)]


def _channel(patches: Float[Tensor, "image patch channel"], feature: Feature) -> Float[Tensor, "image patch"]:
    if feature.channel >= patches.shape[2]:
        raise InputError(
            f"layer {feature.layer} has {patches.shape[2]} {feature.kind} channels, from 0; "
            f"got channel {feature.channel}"
        )
    return patches[..., feature.channel]


class _Enough(Exception):
    """Says that what comes higher up is not needed."""


@contextmanager
def _stopped(tower: Tower, layer: int) -> Iterator[None]:
    """End the forward where the layer above `layer` would begin."""

    def stop(_module: nn.Module, _args: object) -> None:
        raise _Enough

    with ExitStack() as undo:
        if layer + 1 < len(tower.layers):
            above = tower.module.get_submodule(tower.layers[layer + 1])
            undo.callback(above.register_forward_pre_hook(stop).remove)
        try:
            yield
        except _Enough:
            return


@torch.no_grad()
def patch_activations(
    model: Any,
    pixels: Float[Tensor, "image channel height width"],
    features: Sequence[Feature],
    *,
    together: int = 64,
) -> Float[Tensor, "image feature rows columns"]:
    """Maps of features over images (Ghiasi et al. 2022, arXiv 2212.06727, section 4), float32 on the CPU.

    Args:
        pixels: as the model's processor leaves them; of any size that the model takes.
        together: how many images go through the model at once.

    Raises:
        UnknownFamilyError: a model without patches.
        InputError: layers or channels that are not there, no image, images that the model cannot take.
    """
    tower = tower_of(model)
    if together < 1:
        raise InputError(f"together must be at least 1, got {together}")
    if not len(pixels):
        raise InputError("wanted at least one image, got none")
    parts = [
        torch.stack(responses(tower, part, features), dim=1).float().cpu() for part in pixels.split(together)
    ]
    return torch.cat(parts).unflatten(2, tower.grid(pixels))


@torch.no_grad()
def strengths(
    model: Any,
    pixels: Float[Tensor, "image channel height width"],
    features: Sequence[Feature],
    *,
    together: int = 64,
) -> Float[Tensor, "image feature"]:
    """The mean of each feature over the patches of each image: what feature visualisation raises.

    As `patch_activations`, but without holding the maps.
    """
    parts = pixels.split(max(1, together))
    found = [patch_activations(model, part, features, together=together).mean((2, 3)) for part in parts]
    return torch.cat(found)
