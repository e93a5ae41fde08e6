"""The image tower of a model as the probes need it: what runs, its layers, its grid, its special tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor, nn

from ..capture import capture
from ..errors import CaptureError, InputError, UnknownFamilyError
from ..models.common import check_call, check_image, grid_of, pair
from ..models.registry import families
from ..models.towers import TwoTowers
from ..models.vit import ImageClassifier
from ..relevance import model_name, prepared
from ..wiring import Site

BACKBONES: Final = {
    "ViTModel": "ViT",
    "DeiTModel": "DeiT",
    "Dinov2Model": "DINOv2",
    "Dinov2WithRegistersModel": "DINOv2",
    "CLIPVisionModel": "CLIP",
    "CLIPVisionTransformer": "CLIP",
    "SiglipVisionModel": "SigLIP",
    "SiglipVisionTransformer": "SigLIP",
}
"""Towers without a head, which no adapter takes by itself, and the adapter that knows their layers."""


@dataclass(frozen=True, eq=False)
class Tower:
    """The part of a model that turns an image into patches and lets them attend to each other.

    Attributes:
        module: what is run; names of modules are relative to it.
        model: class and name of the whole model.
        layers: the modules whose outputs are the tokens after each layer.
        sites: the attention of each layer.
        embeddings: the module whose output are the tokens that enter the first layer.
        specials: how many tokens come before the first patch ([CLS], distillation, registers).
        patch: (height, width) of a patch in pixels.
        interpolates: whether its positions always fit the image, without `interpolate_pos_encoding`.
    """

    module: nn.Module
    model: str
    layers: tuple[str, ...]
    sites: tuple[Site, ...]
    embeddings: str
    specials: int
    patch: tuple[int, int]
    interpolates: bool

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the tower takes of a model's inputs, checked and moved to its device and type.

        Raises:
            InputError: for images that the tower would fail on, or place wrongly.
        """
        check_call(self.module, inputs, "pixel_values")
        interpolates = self.interpolates or bool(inputs.get("interpolate_pos_encoding"))
        check_image(inputs, self.module.config, interpolates=interpolates)
        taken = {"pixel_values": inputs["pixel_values"]}
        if interpolates and not self.interpolates:
            taken["interpolate_pos_encoding"] = True
        return prepared(self.module, taken)

    def grid(self, pixels: Float[Tensor, "batch colour height width"]) -> tuple[int, int]:
        """Patches (height, width) over an image, rows first."""
        return grid_of(pixels, self.patch)

    def patches(self, grid: tuple[int, int]) -> slice:
        """Which tokens are the patches, row by row."""
        return slice(self.specials, self.specials + grid[0] * grid[1])


def tower_of(model: object) -> Tower:
    """The image tower of a model of transformers: a classifier, a tower without a head, CLIP or SigLIP.

    Raises:
        UnknownFamilyError: for a model without patches that attend to each other; it names those that have.
        InputError: for anything but a torch module.
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch module, such as a ViTModel; got {type(model).__name__}")
    for each in (model, getattr(model, "vision_model", None)):
        known = None if each is None else _adapter(each)
        if known is not None:
            return _tower(*known, model_name(model))
    raise UnknownFamilyError(
        f"{type(model).__name__} has no patches that attend to each other as these probes follow them; they "
        f"take {', '.join(_names())}, and the classes {', '.join(BACKBONES)}. For another model write a "
        "subclass of heedful.explain.models.vit.ImageClassifier and register it: docs/adapters.md shows one"
    )


def attention_of(
    tower: Tower, inputs: Mapping[str, Any], batch_size: int = 8
) -> Iterator[tuple[Float[Tensor, "batch head query key"], ...]]:
    """The attention of every layer, `batch_size` images at a time: float32, without a graph.

    Each probability is the one from which the output was computed; special tokens are among the tokens.

    Raises:
        InputError: for images that do not fit, or a batch of less than one.
        CaptureError: for attention that was not seen whole.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    taken = tower.inputs(inputs)
    for pixels in taken.pop("pixel_values").split(batch_size):
        with capture(tower.module) as seen:
            tower.module(pixel_values=pixels, **taken)
        found = tuple(seen.attention[site].detach() for site in tower.sites)
        _check_tokens(tower, found, tower.grid(pixels))
        yield found


def _check_tokens(tower: Tower, attention: tuple[Tensor, ...], grid: tuple[int, int]) -> None:
    wanted = tower.patches(grid).stop
    for site, found in zip(tower.sites, attention, strict=True):
        if found.shape[2:] != (wanted, wanted):
            raise CaptureError(
                f"{tower.model} attends at {site.module} from {found.shape[2]} to {found.shape[3]} tokens; "
                f"wanted are {tower.specials} special ones and {grid[0]} x {grid[1]} patches, {wanted} in all"
            )


class _Dressed(nn.Module):
    """A tower without its head, under the names by which an adapter looks for it."""

    def __init__(self, tower: Any, prefix: str) -> None:
        super().__init__()
        self.base_model_prefix, self.config = prefix, tower.config
        self.add_module(prefix, tower)
        self.text_model = nn.Module()
        self.text_model.encoder = nn.Module()
        self.text_model.encoder.layers = nn.ModuleList()


def _adapter(model: nn.Module) -> tuple[ImageClassifier | TwoTowers, Any] | None:
    """The adapter that knows a model's layers, and the model as the adapter wants to see it."""
    kinds = [kind.__name__ for kind in type(model).__mro__]
    for family in families():
        if isinstance(family, ImageClassifier | TwoTowers) and set(kinds) & set(family.classes):
            return family, model
    bare = next((BACKBONES[kind] for kind in kinds if kind in BACKBONES), None)
    for family in families():
        if family.name == bare and isinstance(family, ImageClassifier):
            return family, _Dressed(model, str(model.base_model_prefix))
        if family.name == bare and isinstance(family, TwoTowers):
            return family, _Dressed(model, "vision_model")
    return None


def _tower(family: ImageClassifier | TwoTowers, model: Any, name: str) -> Tower:
    single = isinstance(family, ImageClassifier)
    prefix = model.base_model_prefix if single else "vision_model"
    module = model.get_submodule(prefix)

    def own(full: str) -> str:
        return full.removeprefix(f"{prefix}.")

    return Tower(
        module=module,
        model=name,
        layers=tuple(own(each) for each in family.layers(model)["image"]),
        sites=tuple(Site(own(step.site.module), step.site.call) for step in family.wiring(model).of("image")),
        embeddings=own(family.embeddings(model)["image"]),
        specials=family.specials(model) if isinstance(family, ImageClassifier) else family.specials(),
        patch=pair(module.config.patch_size),
        interpolates=isinstance(family, ImageClassifier) and family.interpolates({}),
    )


def _names() -> list[str]:
    return [one.name for one in reversed(families()) if isinstance(one, ImageClassifier | TwoTowers)]
