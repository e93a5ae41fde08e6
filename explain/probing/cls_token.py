"""A vision transformer without its [CLS]: kept apart from the patches, or replaced by them at the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError, UnsupportedMethodError
from ..models.registry import family_of
from ..models.vit import ImageClassifier
from .activations import activations
from .tower import Tower, tower_of
from .units import inputs_of


@contextmanager
def apart(model: Any, below: int | None = None) -> Iterator[None]:
    """Let [CLS] and the patches know nothing of each other in the layers below one.

    Ghiasi et al. 2022 (arXiv 2212.06727, section 6): below that layer [CLS] and the patches (with registers)
    go through every layer as sequences of their own; from it on they are together again. All is undone on
    every exit. To see outputs of layers meanwhile, enter `activations` inside.

    Args:
        model: a model with a [CLS]; with a distillation token that the head reads, this is kept apart, too.
        below: the first layer in which they are together, from 0; the last layer by default.

    Raises:
        UnknownFamilyError: a model without patches.
        UnsupportedMethodError: a model without [CLS].
        InputError: a layer that is not there.
    """
    tower = tower_of(model)
    own = _read_tokens(model, tower)
    last = len(tower.layers) - 1
    first = last if below is None else below
    if not 0 <= first <= last:
        raise InputError(f"below must be a layer of 0..{last}, got {below}")
    with ExitStack() as undo:
        for name in tower.layers[:first]:
            layer = tower.module.get_submodule(name)
            undo.callback(layer.register_forward_hook(partial(_split, own), with_kwargs=True).remove)
        yield


@torch.no_grad()
def patch_logits(
    model: Any, pixels: Float[Tensor, "image channel height width"], *, mean: bool = False
) -> Float[Tensor, "image patch label"]:
    """The logits of the head where it reads nothing but one patch of the last layer, behind the last norm.

    Ghiasi et al. 2022, section 6: "patch average" is the head on the mean of the patches, "patch maximum" the
    largest over these logits.

    Args:
        mean: read the mean of the patches instead, as a single patch.

    Raises:
        UnsupportedMethodError: a model that has no head on its tokens.
        UnknownFamilyError: a model without patches.
        InputError: images that the model cannot take.
    """
    tower = tower_of(model)
    family = family_of(model)
    if not isinstance(family, ImageClassifier):
        raise UnsupportedMethodError(
            f"{tower.model} has no head that classifies tokens; take a classifier, such as "
            "ViTForImageClassification"
        )
    last = tower.layers[-1]
    with activations(tower.module, last) as seen:
        tower.module(**inputs_of(tower, pixels))
    normed = tower.module.get_submodule("layernorm")(seen[last])[:, tower.patches(tower.grid(pixels))]
    if mean:
        normed = normed.mean(1, keepdim=True)
    images, count, _ = normed.shape
    # Whatever tokens the head reads, it finds the one patch there.
    everywhere = normed.flatten(0, 1)[:, None].expand(-1, tower.specials + 1, -1)
    return family.head(model, everywhere)["logits"].unflatten(0, (images, count))


def _read_tokens(model: Any, tower: Tower) -> int:
    """How many of the first tokens are [CLS], and a distillation token beside it that is read."""
    if not tower.specials:
        raise UnsupportedMethodError(f"{tower.model} has no [CLS] that could be kept apart from the patches")
    return 2 if hasattr(model, "distillation_classifier") else 1


def _split(own: int, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    """What a layer makes of both parts, each by itself."""
    given = dict(kwargs)
    hidden, rest = (args[0], args[1:]) if args else (given.pop("hidden_states"), ())

    def alone(part: Tensor) -> Tensor:
        # Not by a call of the layer, which would come back here.
        found = layer.forward(part, *rest, **given)
        return found if isinstance(found, Tensor) else found[0]

    joined = torch.cat([alone(hidden[:, :own]), alone(hidden[:, own:])], dim=1)
    return joined if isinstance(output, Tensor) else (joined, *output[1:])
