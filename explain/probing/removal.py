"""Takes patches out of a vision transformer at inference, and says what becomes of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import CaptureError, InputError
from ..relevance import model_name, prepared, versions
from .tower import Tower, tower_of


@dataclass(frozen=True, eq=False)
class Removal:
    """A model's logits with all patches, without those that were named, and without as many random others.

    Attributes:
        before, after: logits of each image, float32 on the CPU.
        control: the same without random patches that were not named, as many in each image; draw by draw.
        removed: which patches were taken out.
        labels: what the logits are of.
        model, settings, versions: where the numbers come from.
    """

    before: Float[Tensor, "image label"]
    after: Float[Tensor, "image label"]
    control: Float[Tensor, "draw image label"]
    removed: Bool[Tensor, "image height width"]
    labels: tuple[str, ...]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def drop(self) -> Float[Tensor, "image"]:
        """How much less probable (softmax) the first answer is afterwards, -1 to 1."""
        return self._first(self.before) - self._first(self.after)

    @property
    def control_drop(self) -> Float[Tensor, "image"]:
        """The same without random patches, the mean of all draws."""
        return self._first(self.before) - torch.stack([self._first(one) for one in self.control]).mean(0)

    @property
    def changed(self) -> Bool[Tensor, "image"]:
        """Whether the answer is another one afterwards."""
        return self.after.argmax(1) != self.before.argmax(1)

    @property
    def control_changed(self) -> Float[Tensor, "image"]:
        """In which share of the draws random patches change it, 0 to 1."""
        return (self.control.argmax(2) != self.before.argmax(1)).float().mean(0)

    def accuracy(
        self, truth: Int[Tensor, "image"]
    ) -> tuple[Bool[Tensor, "image"], Bool[Tensor, "image"], Float[Tensor, "image"]]:
        """Which answers are right before, after, and in which share of the draws."""
        right = (self.control.argmax(2) == truth).float().mean(0)
        return self.before.argmax(1) == truth, self.after.argmax(1) == truth, right

    def _first(self, logits: Tensor) -> Tensor:
        return logits.softmax(1).gather(1, self.before.argmax(1, keepdim=True))[:, 0]


def without(
    model: nn.Module,
    inputs: Mapping[str, Any],
    patches: Bool[Tensor, "image height width"],
    *,
    draws: int = 8,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Removal:
    """Ask a model again without some patches.

    Their tokens are taken out where they enter the first layer, with their positions already in them. No
    other token can attend to them then; nothing is painted over, so that no new contour appears.

    Args:
        model: with patches that attend to each other and logits: a classifier, CLIP, SigLIP.
        inputs: as the model takes them.
        patches: those to take out, on the model's grid; none is fine, all of an image is not.
        draws: random controls, with as many patches of each image, from those that were not named.
        seed: of the controls.
        batch_size: images at once; those with as many patches left run together.
        progress: told how many of the passes are done.

    Raises:
        UnknownFamilyError: for a model without such patches.
        InputError: for patches of another grid, or an image that loses more than half of them.
    """
    tower = tower_of(model)
    taken = prepared(model, inputs)
    pixels = tower.inputs(inputs)["pixel_values"]
    grid = tower.grid(pixels)
    _check(patches, len(pixels), grid, draws)
    controls = random_others(patches, draws, seed)
    passes = [torch.zeros_like(patches), patches, *controls]
    found = []
    for place, gone in enumerate(passes):
        found.append(_answers(model, tower, taken, gone.cpu(), batch_size))
        if progress is not None:
            progress(place + 1, len(passes))
    return Removal(
        before=found[0],
        after=found[1],
        control=torch.stack(found[2:]) if draws else found[0][None][:0],
        removed=patches.cpu(),
        labels=_labels(model, found[0].shape[1]),
        model=model_name(model),
        settings={"draws": draws, "seed": seed, "by": "tokens"},
        versions=versions(),
    )


def random_others(
    patches: Bool[Tensor, "image height width"], draws: int, seed: int = 0
) -> Bool[Tensor, "{draws} image height width"]:
    """As many patches of each image, drawn at random from those that were not named.

    Raises:
        InputError: an image with more named patches than others.
    """
    flat = patches.cpu().flatten(1)
    count = flat.sum(1)
    if (2 * count > flat.shape[1]).any():
        image = int(count.argmax())
        raise InputError(
            f"image {image} loses {int(count[image])} of {flat.shape[1]} patches, so no control can lose as "
            "many others; take draws=0, or fewer patches"
        )
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand((draws, *flat.shape), generator=generator).masked_fill(flat, 2.0)
    places = keys.argsort(-1).argsort(-1)
    return (places < count[:, None]).reshape(draws, *patches.shape)


@contextmanager
def _without_tokens(tower: Tower, keep: Int[Tensor, "image token"]) -> Iterator[None]:
    """The embeddings give only these tokens, each image its own."""
    ran: list[bool] = []

    def cut(module: nn.Module, args: Any, output: Any) -> Any:
        first = output if isinstance(output, Tensor) else output[0]
        ran.append(True)
        kept = first.gather(1, keep.to(first.device)[..., None].expand(-1, -1, first.shape[-1]))
        return kept if isinstance(output, Tensor) else (kept, *output[1:])

    handle = tower.module.get_submodule(tower.embeddings).register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()
    if len(ran) != 1:
        raise CaptureError(f"{tower.embeddings} ran {len(ran)} times in one forward; wanted is once")


@torch.no_grad()
def _answers(
    model: nn.Module, tower: Tower, inputs: Mapping[str, Any], gone: Tensor, batch_size: int
) -> Float[Tensor, "image label"]:
    """Logits without these patches; images that lose as many run together."""
    flat = gone.flatten(1)
    kept = torch.cat([torch.ones(len(flat), tower.specials, dtype=torch.bool), ~flat], 1)
    found: dict[int, Tensor] = {}
    for size in kept.sum(1).unique().tolist():
        rows = (kept.sum(1) == size).nonzero()[:, 0]
        for part in rows.split(batch_size):
            tokens = kept[part].nonzero()[:, 1].reshape(len(part), size)
            one = {**inputs, "pixel_values": inputs["pixel_values"][part.to(inputs["pixel_values"].device)]}
            with _without_tokens(tower, tokens):
                logits = _logits(model, model(**one))
            found |= dict(zip(part.tolist(), logits.float().cpu(), strict=True))
    return torch.stack([found[row] for row in range(len(flat))])


def _logits(model: nn.Module, outputs: Any) -> Tensor:
    for name in ("logits", "logits_per_image"):
        if getattr(outputs, name, None) is not None:
            return getattr(outputs, name)
    raise InputError(
        f"{type(model).__name__} gives neither logits nor logits_per_image, so it has no answer that could "
        "change; take a classifier, or a model that compares images with texts"
    )


def _labels(model: Any, count: int) -> tuple[str, ...]:
    named = getattr(model.config, "id2label", None) or {}
    if len(named) == count and hasattr(model, "classifier"):
        return tuple(str(named[index]) for index in range(count))
    return tuple(f"text {index}" for index in range(count))


def _check(patches: Tensor, images: int, grid: tuple[int, int], draws: int) -> None:
    if tuple(patches.shape) != (images, *grid):
        raise InputError(
            f"wanted patches of {images} images on the model's grid {grid}, got shape {tuple(patches.shape)}"
        )
    if patches.flatten(1).all(1).any():
        raise InputError("an image would lose all of its patches; leave it out, or take fewer")
    if draws < 0:
        raise InputError(f"draws must be at least 0, got {draws}")
