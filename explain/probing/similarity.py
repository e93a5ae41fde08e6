"""How alike the layers of two models see the same images: a matrix of CKA, from one pass over them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from ..relevance import model_name, versions
from .cka import LEAST, MinibatchCKA, Terms, centred_grams
from .files import read, write
from .vision import look

FORMAT: Final = "heedful.similarity/1"
"""What a saved file says of itself."""
Batch = Tensor | tuple[Tensor, Tensor]
"""Pixels (image, channel, height, width) for both models, or for each its own: processors may differ."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """Linear CKA between every layer of one model and every layer of another.

    Attributes:
        terms: HSIC of every minibatch, from which `cka` and `interval` are.
        layers: names of the first model's layers, in its order, and of the second's.
        models: class and name of both.
        images: how many were seen.
        settings: the layers' patterns and the sizes of the minibatches; what a caller adds, such as seeds.
        versions: of heedful and the libraries it stands on.
    """

    terms: Terms
    layers: tuple[tuple[str, ...], tuple[str, ...]]
    models: tuple[str, str]
    images: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def cka(self) -> Float[Tensor, "first second"]:
        """1 where layers tell the same images apart in the same way; 0 where they are unrelated.

        NaN for a layer that gives the same for every image.
        """
        return self.terms.cka

    @property
    def interval(self) -> Float[Tensor, "ends first second"]:
        """The ends of 95 % intervals over minibatches."""
        return self.terms.interval()

    def nearest(self) -> list[tuple[str, str, float]]:
        """For every layer of the first model the layer of the second that is most like it, and their CKA."""
        known = self.cka.nan_to_num(-torch.inf)
        best = known.argmax(1).tolist()
        return [
            (name, self.layers[1][place], float(self.cka[row, place]))
            for row, (name, place) in enumerate(zip(self.layers[0], best, strict=True))
        ]

    def plot(self, path: str | Path) -> Path:
        """Draw the matrix into a PNG.

        Raises:
            InputError: where matplotlib is not installed.
        """
        from . import draw_similarity

        return draw_similarity.save(draw_similarity.heatmap(self), path)

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; `Similarity.load` reads it."""
        told = {name: getattr(self, name) for name in ("layers", "models", "images", "settings", "versions")}
        tensors = {name: getattr(self.terms, name) for name in ("cross", "first", "second")}
        write(path, FORMAT, tensors, told)

    @classmethod
    def load(cls, path: str | Path) -> Similarity:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        tensors, told = read(path, FORMAT)
        try:
            first, second = (tuple(names) for names in told.pop("layers"))
            one, other = told.pop("models")
            return cls(Terms(**tensors), (first, second), (one, other), **told)
        except (KeyError, TypeError, ValueError) as problem:
            raise InputError(f"the file {path} is damaged: {problem}") from problem

    def _repr_png_(self) -> bytes:
        from . import draw_similarity

        return draw_similarity.png(draw_similarity.heatmap(self))


def similarity(
    first: nn.Module,
    second: nn.Module,
    batches: Iterable[Batch],
    *,
    first_layers: str | Sequence[str] | None = None,
    second_layers: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Similarity:
    """Compare layers of two models (or of one with itself) by unbiased minibatch linear CKA.

    Kornblith et al. 2019, arXiv 1905.00414; Nguyen et al. 2020, arXiv 2010.15327, Eq. 3 and 4; as Raghu et
    al. 2021, arXiv 2108.08810, a layer's representation of an image is its whole output, all tokens or cells.
    Nothing is held but the terms of each minibatch.

    Args:
        first, second: any models of images in eval mode, on any device and in any type; they are left as
            they were. Models of images and texts are asked for their image part.
        batches: minibatches of at least four images each; their terms are unbiased at any size, but
            of the same images larger minibatches hold more pairs, and vary less. Images of a minibatch have
            one size; minibatches may differ.
        first_layers, second_layers: names or patterns such as "vit.layers.*" (default: all layers).
        settings: what else the result should say of itself, such as the images' seed.
        progress: called with the number of images seen so far.

    Raises:
        InputError: for fewer than four images at once, none at all, or pixels that a model cannot take.
        CaptureError: for layers that are not there.
    """
    seen, sizes = MinibatchCKA(), []
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    for batch in batches:
        for_first, for_second = batch if isinstance(batch, tuple) else (batch, batch)
        if len(for_first) != len(for_second):
            raise InputError(
                "both models must see the same images, got "
                f"{len(for_first)} for the first and {len(for_second)} for the second"
            )
        with torch.no_grad():
            one = look(first, for_first, _patterns(first_layers))
            same = first is second and for_first is for_second and first_layers == second_layers
            other = one if same else look(second, for_second, _patterns(second_layers))
        names = tuple(one), tuple(other)
        grams = centred_grams(list(one.values()))
        seen.add(grams, grams if same else centred_grams(list(other.values())).to(grams.device))
        sizes.append(len(for_first))
        if progress is not None:
            progress(sum(sizes))
    if not sizes:
        raise InputError(f"wanted at least one minibatch of {LEAST} images, got none")
    told = {
        "first_layers": first_layers,
        "second_layers": second_layers,
        "batches": len(sizes),
        "batch_sizes": sorted(set(sizes)),
    }
    models = model_name(first), model_name(second)
    return Similarity(seen.terms, names, models, sum(sizes), told | dict(settings or {}), versions())


def minibatches(items: Sequence[Any] | Tensor, size: int = 32) -> list[slice]:
    """Even minibatches of at most `size`, so that the last one is never too small for CKA.

    Raises:
        InputError: for a size below four, or fewer than four items.
    """
    if size < LEAST or len(items) < LEAST:
        raise InputError(
            f"wanted at least {LEAST} images, in minibatches of at least {LEAST}; got {len(items)} images "
            f"and minibatches of {size}"
        )
    count = -(-len(items) // size)
    while len(items) // count < LEAST:  # 5 images in minibatches of 4 are one minibatch of 5
        count -= 1
    ends = [round(place * len(items) / count) for place in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def twin(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same architecture with random weights, drawn as transformers begins training: the control.

    Raises:
        InputError: for a model that transformers did not make, whose beginning is not known.
    """
    config, kind = getattr(model, "config", None), type(model)
    if config is None or not hasattr(kind, "from_pretrained"):
        raise InputError(
            f"{kind.__name__} is no model of transformers: make its random twin yourself, and pass it on"
        )
    like = next(model.parameters())
    bare_config = copy.deepcopy(config)
    bare_config._name_or_path = f"random twin of {model_name(model).removeprefix(kind.__name__).strip()}"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # weights are drawn on the CPU: no other state is touched
        bare = kind(bare_config)
    return bare.to(like.device, like.dtype).eval()


def _patterns(layers: str | Sequence[str] | None) -> Sequence[str] | None:
    return [layers] if isinstance(layers, str) else layers
