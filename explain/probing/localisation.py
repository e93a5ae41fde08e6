"""Whether a token still holds the patch that it began as: CKA of every token with every input patch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ...pictures.draw import colours, sheet
from ..errors import InputError
from ..relevance import model_name, versions
from .cka import MinibatchCKA, token_grams
from .files import read, write
from .plots import short
from .vision import look, tokens_of

FORMAT: Final = "heedful.localisation/1"
"""What a saved file says of itself."""


@dataclass(frozen=True)
class Held:
    """What the tokens of one layer hold of the input, means over the patches' own tokens.

    Attributes:
        own: CKA of a token with the input patch at its place.
        others: with all other patches.
        hits: share of tokens, 0..1, that are more like the patch at their place than like any other.
        chance: the share that would be hit by chance, one in as many as there are patches.
    """

    own: float
    others: float
    hits: float
    chance: float


@dataclass(frozen=True, eq=False)
class Localisation:
    """CKA between tokens and input patches, layer by layer.

    Attributes:
        cka: by layer (token, height, width) over the grid of input patches, special tokens first; NaN for a
            token, or a patch, that is the same in all images.
        specials: by layer how many tokens come before the first patch's.
        images: how many were seen.
        model: class and name of the model.
        settings: what was asked for.
        versions: of heedful and the libraries it stands on.
    """

    cka: Mapping[str, Float[Tensor, "_token _height _width"]]
    specials: Mapping[str, int]
    images: int
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def held(self) -> dict[str, Held]:
        """By layer how much of their own place the tokens hold."""
        return {name: held(each[self.specials[name] :]) for name, each in self.cka.items()}

    def picture(self, token: int | None = None, side: int = 120) -> Image.Image:
        """One token's CKA with all patches, layer beside layer, in colours from 0 (black) to 1.

        Args:
            token: its number, 0 the first special one where there is one (default: the central patch's).

        Raises:
            InputError: for a token that is not there.
        """
        tiles = []
        for name, each in self.cka.items():
            height, width = each.shape[1:]
            place = self.specials[name] + height // 2 * width + width // 2 if token is None else token
            if not 0 <= place < len(each):
                raise InputError(f"there is no token {place} in {name}; it has {len(each)}, counted from 0")
            tile = Image.fromarray(colours(each[place].nan_to_num(0.0).clamp(0, 1).numpy()))
            size = round(side * width / max(height, width)), round(side * height / max(height, width))
            tiles.append(tile.resize(size, Image.Resampling.NEAREST))
        return sheet([tiles], column_labels=short(tuple(self.cka)), title=self.model, side=side)

    def plot(self, path: str | Path) -> Path:
        """Write `picture` of the central patch's token as a PNG."""
        self.picture().save(path)
        return Path(path)

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; `Localisation.load` reads it."""
        told = {name: getattr(self, name) for name in ("specials", "images", "model", "settings", "versions")}
        write(path, FORMAT, self.cka, told | {"layers": list(self.cka)})

    @classmethod
    def load(cls, path: str | Path) -> Localisation:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        tensors, told = read(path, FORMAT)
        try:
            return cls({name: tensors[name] for name in told.pop("layers")}, **told)
        except (KeyError, TypeError) as problem:
            raise InputError(f"the file {path} is damaged: {problem}") from problem


def localisation(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    layers: str | Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Localisation:
    """Compare each token of each layer with the pixels of each input patch (Raghu et al. 2021, Sec. 5).

    By unbiased minibatch linear CKA (`cka.MinibatchCKA`), a token and a patch being a representation each. Of
    a convolutional layer the cells are tokens, and the patches are the image cut into as many.

    Args:
        model: a model of images in eval mode; it is left as it was.
        batches: pixels (image, channel, height, width) of one size, in minibatches of at least four;
            `similarity.minibatches` makes them even.
        layers: names or patterns (default: all layers of the image part).
        progress: called with the number of images seen so far.

    Raises:
        InputError: for fewer than four images at once, images of several sizes, or a layer whose output has
            no place for each patch.
        CaptureError: for layers that are not there.
    """
    seen: dict[str, MinibatchCKA] = {}
    grids: dict[str, tuple[int, int]] = {}
    specials: dict[str, int] = {}
    images = 0
    for pixels in batches:
        with torch.no_grad():
            outputs = look(model, pixels, [layers] if isinstance(layers, str) else layers)
        whole: dict[tuple[int, int], Tensor] = {}
        for name, output in outputs.items():
            tokens = tokens_of(model, pixels, output, name)
            if grids.setdefault(name, tokens.grid) != tokens.grid:
                raise InputError(
                    f"all images must have one size: {name} had {grids[name]}, now {tokens.grid}"
                )
            specials[name] = tokens.specials
            if tokens.grid not in whole:
                whole[tokens.grid] = token_grams(patches_of(pixels, tokens.grid)).to(output.device)
            seen.setdefault(name, MinibatchCKA()).add(token_grams(tokens.values), whole[tokens.grid])
        images += len(pixels)
        if progress is not None:
            progress(images)
    if not images:
        raise InputError("wanted at least four images, got none")
    cka = {name: each.terms.cka.unflatten(1, grids[name]).float() for name, each in seen.items()}
    return Localisation(cka, specials, images, model_name(model), {"layers": layers}, versions())


def patches_of(
    pixels: Float[Tensor, "image channel height width"], grid: tuple[int, int]
) -> Float[Tensor, "image patch value"]:
    """The pixels of each patch of a grid, row by row; what remains at the edges is left out, as models do.

    Raises:
        InputError: for a grid with more cells than pixels.
    """
    height, width = pixels.shape[2] // grid[0], pixels.shape[3] // grid[1]
    if height < 1 or width < 1:
        raise InputError(f"images of {tuple(pixels.shape[2:])} pixels have no {grid[0]} x {grid[1]} patches")
    kept = pixels[:, :, : height * grid[0], : width * grid[1]]
    return nn.functional.unfold(kept, (height, width), stride=(height, width)).transpose(1, 2)


def held(cka: Float[Tensor, "token height width"]) -> Held:
    """How much of its own place each patch's token holds, from its CKA with every patch.

    Tokens without a value (the same in all images) do not count; NaN where none has one.
    """
    flat = cka.flatten(1).double()
    own = flat.diagonal()
    apart = ~torch.eye(len(flat), dtype=torch.bool)
    known = own.isfinite()
    best = flat.nan_to_num(-torch.inf).argmax(1) == torch.arange(len(flat))
    return Held(
        own=float(own.nanmean()),
        others=float(flat[apart].nanmean()),
        hits=float(best[known].double().mean()),
        chance=1 / flat.shape[1],
    )
