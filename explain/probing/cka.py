"""Linear CKA between representations, streamed: unbiased terms a minibatch, averaged before the ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError

LEAST: Final = 4
"""Images of a minibatch: with fewer the unbiased estimate divides by zero."""
_SEVERAL: Final = 5
"""Minibatches: a bootstrap of fewer gives intervals that are far too narrow."""
_CONSTANT: Final = 1e-12
"""Of the features' squared size: what varies less over images than float32 rounds does not vary."""


@dataclass(frozen=True)
class Terms:
    """What minibatches say of HSIC: between every two representations, and of each with itself."""

    cross: Float[Tensor, "batch first second"]
    first: Float[Tensor, "batch first"]
    second: Float[Tensor, "batch second"]

    @property
    def cka(self) -> Float[Tensor, "first second"]:
        """CKA = mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L)), in -1..1.

        NaN where a representation is the same for every image, such as [CLS] before the first layer.
        """
        return ratio(self.cross.mean(0), self.first.mean(0), self.second.mean(0))

    def interval(self, draws: int = 1000, seed: int = 0) -> Float[Tensor, "ends first second"]:
        """The ends of a 95 % interval, by bootstrap over minibatches; of fewer than five it is everything."""
        count = len(self.cross)
        if count < _SEVERAL:
            return torch.stack([torch.full_like(self.cross[0], end) for end in (-torch.inf, torch.inf)])
        generator = torch.Generator().manual_seed(seed)
        picked = torch.randint(count, (draws, count), generator=generator)
        weights = torch.nn.functional.one_hot(picked, count).sum(1).to(self.cross) / count
        cross = torch.einsum("db,bfs->dfs", weights, self.cross)
        drawn = ratio(cross, weights @ self.first, weights @ self.second)
        return drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype), dim=0)


class MinibatchCKA:
    """Gathers the terms of CKA minibatch by minibatch, so that no more than one is held.

    Nguyen, Raghu, Kornblith 2020, arXiv 2010.15327, Eq. 3 and 4: averages of the unbiased HSIC_1 of Song et
    al. 2012, so that the size of minibatches does not matter, and the ratio only after that.
    """

    def __init__(self) -> None:
        self._cross: list[Tensor] = []
        self._first: list[Tensor] = []
        self._second: list[Tensor] = []

    def add(
        self, first: Float[Tensor, "first image image"], second: Float[Tensor, "second other other"]
    ) -> None:
        """Take one minibatch: centred Gram matrices of both sides, over the same images.

        Raises:
            InputError: for different numbers of images, or of representations than in the minibatch before.
        """
        if first.shape[-1] != second.shape[-1]:
            raise InputError(
                "both representations must be of the same images, got "
                f"{first.shape[-1]} and {second.shape[-1]} of them"
            )
        cross = hsic(first, second)
        if self._cross and self._cross[0].shape != cross.shape:
            before, now = tuple(self._cross[0].shape), tuple(cross.shape)
            raise InputError(f"wanted {before} representations as in the first minibatch, got {now}")
        self._cross.append(cross.cpu())
        self._first.append(_own(first).cpu())
        self._second.append(_own(second).cpu())

    @property
    def terms(self) -> Terms:
        """All that was gathered.

        Raises:
            InputError: where nothing was.
        """
        if not self._cross:
            raise InputError(f"there is no minibatch yet: add at least one, of {LEAST} images or more")
        return Terms(torch.stack(self._cross), torch.stack(self._first), torch.stack(self._second))


def linear_cka(
    first: Float[Tensor, "image *_first"], second: Float[Tensor, "other *_second"]
) -> Float[Tensor, ""]:
    """Linear CKA of two representations of the same images, all at once (Kornblith et al. 2019, Eq. 5).

    With the unbiased HSIC_1, as `MinibatchCKA` has it. It is 1 for equal ones, does not change when features
    are rotated, shifted, or all scaled alike, and is 0 in expectation for unrelated ones.

    Raises:
        InputError: for fewer than four images, or different numbers of them.
    """
    seen = MinibatchCKA()
    seen.add(centred_grams([first]), centred_grams([second]))
    return seen.terms.cka[0, 0]


def centred_grams(features: Sequence[Float[Tensor, "image *_"]]) -> Float[Tensor, "layer image image"]:
    """For each representation of the same images the U-centred Gram matrix of its flattened features.

    K_ij = x_i . x_j for i != j, from which the means of row and column are taken so that rows add up to 0
    without the diagonal, which is 0 (Szekely & Rizzo 2014, arXiv 1310.2926, Eq. 2.7). Float64.

    Raises:
        InputError: for fewer than four images, no features, or features that are not finite.
    """
    return torch.stack([_centred(_gram(each)) for each in features])


def token_grams(tokens: Float[Tensor, "image token channel"]) -> Float[Tensor, "token image image"]:
    """The same for every token: each is a representation of its own."""
    return centred_grams(list(tokens.unbind(1)))


def hsic(
    first: Float[Tensor, "first image image"], second: Float[Tensor, "second image image"]
) -> Float[Tensor, "first second"]:
    """Unbiased HSIC_1 (Song et al. 2012) of every two, from centred Gram matrices: sum K L / (n (n - 3)).

    This is the same number as [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3)) of Gram matrices
    whose diagonal is 0, but of each with itself it is never below 0, rounding included.
    """
    n = first.shape[-1]
    return first.flatten(1) @ second.flatten(1).T / (n * (n - 3))


def ratio(
    cross: Float[Tensor, "*draw first second"],
    first: Float[Tensor, "*draw first"],
    second: Float[Tensor, "*draw second"],
) -> Float[Tensor, "*draw first second"]:
    """HSIC of pairs over the geometric mean of both with themselves; NaN where one of these is 0."""
    scale = (first[..., :, None] * second[..., None, :]).sqrt()
    return torch.where(scale > 0, cross / scale, torch.nan)


def _own(grams: Float[Tensor, "layer image image"]) -> Float[Tensor, "layer"]:
    n = grams.shape[-1]
    return grams.square().sum((-1, -2)) / (n * (n - 3))


def _gram(features: Float[Tensor, "image *_"]) -> Float[Tensor, "image image"]:
    count = len(features)
    if count < LEAST:
        raise InputError(
            f"wanted at least {LEAST} images in every minibatch, for which unbiased CKA is defined; "
            f"got {count}"
        )
    flat = features.detach().flatten(1).float()
    if flat.numel() == 0 or not flat.isfinite().all():
        raise InputError(f"features must be finite numbers, got shape {tuple(features.shape)} without")
    moved = flat - flat.mean(0)  # changes no U-centred value, but keeps the digits
    if moved.square().sum() <= _CONSTANT * flat.square().sum():
        return flat.new_zeros(count, count, dtype=torch.float64)
    return (moved @ moved.T).double()


def _centred(gram: Float[Tensor, "image image"]) -> Float[Tensor, "image image"]:
    n = len(gram)
    bare = gram - torch.diag(gram.diagonal())
    rows = bare.sum(1) / (n - 2)
    centred = bare - rows[:, None] - rows[None, :] + bare.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(centred.diagonal())
