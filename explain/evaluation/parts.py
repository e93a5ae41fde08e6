"""What can be taken away from a model's inputs, piece by piece: patches, words, regions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import InputError
from ..models.inputs import real_tokens, word_tokens
from .asking import Inputs

Told = dict[str, str | int | float | bool]


class Fill(ABC):
    """What takes the place of pixels that are taken away."""

    @abstractmethod
    def __call__(self, pixels: Float[Tensor, "row channel height width"]) -> Tensor:
        """The replacement, in the model's units, of a shape that goes with `pixels`."""

    @property
    @abstractmethod
    def told(self) -> str:
        """In words, as a table has it."""


@dataclass(frozen=True)
class Colour(Fill):
    """One colour, 0..1, as it is before the processor's normalisation (x - mean) / std.

    With the defaults the colour is meant after it: 0 is then the mean colour that the processor subtracts.
    Published tables differ in this: Chefer et al. 2021 set pixels to 0 before normalisation.
    """

    colour: tuple[float, ...] = (0.0, 0.0, 0.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = [one for one in (self.mean, self.std) if one is not None]
        if len(given) == 1 or any(len(one) != len(self.colour) for one in given):
            raise InputError("give both mean and std, one number a channel as the colour has, or neither")

    def __call__(self, pixels: Float[Tensor, "row channel height width"]) -> Tensor:
        """One pixel of that colour."""
        if pixels.shape[1] != len(self.colour):
            raise InputError(f"the colour has {len(self.colour)} channels, the images {pixels.shape[1]}")
        value = torch.tensor(self.colour, dtype=torch.float64)
        if self.mean is not None and self.std is not None:
            value = (value - torch.tensor(self.mean).double()) / torch.tensor(self.std).double()
        return value.to(pixels)[:, None, None]

    @property
    def told(self) -> str:
        """The colour, and where it is meant."""
        shown = ", ".join(f"{value:g}" for value in self.colour)
        return f"colour ({shown}) {'after' if self.mean is None else 'before'} normalisation"


@dataclass(frozen=True)
class Blur(Fill):
    """The image itself through a Gaussian; `sigma` in pixels (insertion of Petsiuk et al. 2018)."""

    sigma: float = 5.0

    def __call__(self, pixels: Float[Tensor, "row channel height width"]) -> Tensor:
        """The blurred images; beyond their edges they go on as they end."""
        reach = max(1, round(3 * self.sigma))
        places = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
        kernel = torch.softmax(-0.5 * (places / self.sigma) ** 2, 0)
        channels = pixels.shape[1]
        wide = nn.functional.pad(pixels, (reach,) * 4, mode="replicate")
        for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
            wide = nn.functional.conv2d(wide, kernel.view(shape).repeat(channels, 1, 1, 1), groups=channels)
        return wide

    @property
    def told(self) -> str:
        """The width of the Gaussian."""
        return f"the image blurred by a Gaussian of {self.sigma:g} pixels"


class Part(ABC):
    """One modality of the inputs, in pieces that can be taken away. Knows how, not which."""

    @abstractmethod
    def movable(self, inputs: Inputs) -> Bool[Tensor, "row piece"]:
        """Which pieces there are to take: no padding, nor what opens and closes a text."""

    @abstractmethod
    def without(self, inputs: Inputs, gone: Bool[Tensor, "row piece"]) -> dict[str, Any]:
        """The inputs without these pieces; those given stay as they are."""

    @property
    @abstractmethod
    def told(self) -> Told:
        """How pieces are taken, as a table has it."""


@dataclass(frozen=True)
class Patches(Part):
    """The cells of a grid (height, width) over `inputs[name]`; they may differ by one pixel."""

    grid: tuple[int, int]
    fill: Fill = Colour()
    name: str = "pixel_values"

    def movable(self, inputs: Inputs) -> Bool[Tensor, "row piece"]:
        """All of them."""
        pixels = self._pixels(inputs)
        return torch.ones(len(pixels), self.grid[0] * self.grid[1], dtype=torch.bool, device=pixels.device)

    def without(self, inputs: Inputs, gone: Bool[Tensor, "row piece"]) -> dict[str, Any]:
        """The images with these patches filled."""
        pixels = self._pixels(inputs)
        return {**inputs, self.name: torch.where(self.cover(inputs, gone), self.fill(pixels), pixels)}

    def cover(self, inputs: Inputs, taken: Bool[Tensor, "row piece"]) -> Bool[Tensor, "row one height width"]:
        """The pixels of these patches."""
        pixels = self._pixels(inputs)
        rows, wide = (
            torch.arange(size, device=pixels.device) * count // size
            for size, count in zip(pixels.shape[-2:], self.grid, strict=True)
        )
        return taken.to(pixels.device).unflatten(1, self.grid)[:, rows][:, None, :, wide]

    @property
    def told(self) -> Told:
        """Grid and baseline."""
        return {"patches": f"{self.grid[0]} x {self.grid[1]}", "baseline": self.fill.told}

    def _pixels(self, inputs: Inputs) -> Tensor:
        pixels = _tensor(inputs, self.name)
        if (
            pixels.ndim != 4
            or min(self.grid) < 1
            or any(size < count for size, count in zip(pixels.shape[-2:], self.grid, strict=True))
        ):
            raise InputError(
                f"{self.name} of shape {tuple(pixels.shape)} cannot be cut into {self.grid} patches "
                "(height, width)"
            )
        return pixels


@dataclass(frozen=True)
class Words(Part):
    """The tokens of a text, all but padding and what opens and closes it.

    Attributes:
        how: "drop" closes the gap and keeps the order (the VQA test of Chefer et al. 2021); "mask" puts
            `mask_id` there (blank-out, Abnar and Zuidema 2020, who take the unknown token).
        padding: the id that fills what dropping leaves at the end.
        stay: ids of tokens that are no words to take, such as the question mark that VisualBERT reads its
            answer from: without it the reader is gone, and not what was read.
    """

    how: Literal["drop", "mask"] = "drop"
    mask_id: int | None = None
    padding: int = 0
    stay: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.how not in ("drop", "mask") or (self.how == "mask") != (self.mask_id is not None):
            raise InputError('how must be "drop", without a mask_id, or "mask", with one')

    def movable(self, inputs: Inputs) -> Bool[Tensor, "row piece"]:
        """Parts of words."""
        ids = _tensor(inputs, "input_ids")
        kept = torch.isin(ids, torch.tensor(self.stay, dtype=ids.dtype, device=ids.device))
        return word_tokens(ids, inputs.get("attention_mask"), self.padding) & ~kept

    def without(self, inputs: Inputs, gone: Bool[Tensor, "row piece"]) -> dict[str, Any]:
        """The texts without these tokens, padded on the right to the length they had."""
        ids = _tensor(inputs, "input_ids")
        gone = gone.to(ids.device)
        if self.mask_id is not None:
            return {**inputs, "input_ids": ids.masked_fill(gone, self.mask_id)}
        stay = real_tokens(ids, inputs.get("attention_mask"), self.padding) & ~gone
        order = (~stay).int().argsort(dim=1, stable=True)
        kept = stay.gather(1, order)
        changed = {"input_ids": ids.gather(1, order).masked_fill(~kept, self.padding)}
        if (kinds := inputs.get("token_type_ids")) is not None:
            changed["token_type_ids"] = kinds.gather(1, order).masked_fill(~kept, 0)
        mask = inputs.get("attention_mask")
        changed["attention_mask"] = kept.long() if mask is None else kept.to(mask.dtype)
        return {**inputs, **changed}

    @property
    def told(self) -> Told:
        """What becomes of a word."""
        gone = "dropped, the order kept" if self.mask_id is None else f"replaced by token {self.mask_id}"
        also = f", so do tokens {', '.join(map(str, self.stay))}" if self.stay else ""
        return {"words": f"{gone}; what opens and closes the text stays{also}"}


@dataclass(frozen=True)
class Regions(Part):
    """Regions that come as features (VisualBERT, LXMERT).

    A region that is taken is hidden by the mask, and its features and box become zeros. The mask alone would
    not do: a softmax over nothing but hidden regions looks at all of them alike.
    """

    names: tuple[str, ...] = ("visual_embeds",)
    """For LXMERT ("visual_feats", "visual_pos")."""
    mask: str = "visual_attention_mask"

    def movable(self, inputs: Inputs) -> Bool[Tensor, "row piece"]:
        """All regions but padding."""
        return self._mask(inputs).bool()

    def without(self, inputs: Inputs, gone: Bool[Tensor, "row piece"]) -> dict[str, Any]:
        """The inputs with these regions hidden and empty."""
        mask = self._mask(inputs)
        gone = gone.to(mask.device)
        emptied = {name: _tensor(inputs, name).masked_fill(gone[..., None], 0.0) for name in self.names}
        return {**inputs, **emptied, self.mask: mask.masked_fill(gone, 0)}

    @property
    def told(self) -> Told:
        """What becomes of a region."""
        return {"regions": "hidden from attention, features and boxes zero"}

    def _mask(self, inputs: Inputs) -> Int[Tensor, "row piece"] | Float[Tensor, "row piece"]:
        features = _tensor(inputs, self.names[0])
        if (mask := inputs.get(self.mask)) is None:
            return torch.ones(features.shape[:2], dtype=torch.long, device=features.device)
        return mask.long() if mask.dtype == torch.bool else mask


def _tensor(inputs: Inputs, name: str) -> Tensor:
    found = inputs.get(name)
    if not isinstance(found, Tensor):
        raise InputError(f"the inputs hold no tensor {name}, only {', '.join(inputs) or 'nothing'}")
    return found
