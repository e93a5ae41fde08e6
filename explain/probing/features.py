"""Feature visualisation: the image that a feature of a vision transformer answers to, by gradients."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..errors import CaptureError, InputError
from ..models.common import pair
from ..relevance import versions
from . import files
from .augmentations import augmented, drawn, total_variation
from .tower import Tower, tower_of
from .units import KINDS, Feature, responses

FORMAT: Final = "heedful visualisation 1"
Watch = Callable[[int, int], None]
"""Called after every step with (steps done, all steps)."""


@dataclass(frozen=True)
class Recipe:
    """How an image is optimised; by default as Ghiasi et al. 2022 (arXiv 2212.06727) and their code do.

    Attributes:
        steps: of Adam with betas (.5, .99).
        rate: at the beginning; it falls to 0 along a cosine. Published: .1 for ViTs, 1 for CLIP.
        copies: how many changed copies of the image each step averages over.
        colour: strength of the colour shift.
        noise: standard deviation of the noise at the beginning; it falls to 0 along a line.
        jitter: the longest move, as a share of the image's shorter side (32 pixels of 224).
        variation: weight of the total variation, see `augmentations.total_variation`. Published: .09 to .9,
            by feature.
    """

    steps: int = 400
    rate: float = 0.1
    copies: int = 8
    colour: float = 1.0
    noise: float = 0.5
    jitter: float = 1 / 7
    variation: float = 0.09

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("copies", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name in ("colour", "noise", "variation"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)!r}")
        if not 0 < self.rate < np.inf:
            raise InputError(f"rate must be larger than 0, got {self.rate!r}")
        if not 0 <= self.jitter <= 1:
            raise InputError(f"jitter must lie in 0..1, a share of the shorter side; got {self.jitter!r}")


@dataclass(frozen=True, eq=False)
class Visualisation:
    """The images that were found, and what the features answer to them.

    Attributes:
        images: pixels 0..1.
        features: one an image.
        strengths: the feature's mean over the patches of its image, which is not changed for that.
        begun: the same of the noise that it was made from.
        recipe, seed, mean, std: how it was made.
        model: its class, and the name it was loaded by.
        versions: of heedful, torch and transformers.
    """

    images: Float[Tensor, "feature channel height width"]
    features: tuple[Feature, ...]
    strengths: tuple[float, ...]
    begun: tuple[float, ...]
    recipe: Recipe
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model: str
    versions: Mapping[str, str]

    def pictures(self) -> list[Image.Image]:
        """The images for looking at, RGB."""
        levels = (self.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(one[..., 0] if one.shape[2] == 1 else one).convert("RGB") for one in levels]

    def pixels(self) -> Float[Tensor, "feature channel height width"]:
        """The images as the model takes them: mean subtracted, divided by the deviation."""
        return _normalised(self.images, self.mean, self.std)

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file that `load` reads."""
        told = {name: getattr(self, name) for name in ("strengths", "begun", "seed", "mean", "std", "model")}
        told |= {"versions": dict(self.versions), "recipe": asdict(self.recipe)}
        told["features"] = [asdict(feature) for feature in self.features]
        files.write(path, FORMAT, {"images": self.images}, told)

    @classmethod
    def load(cls, path: str | Path) -> Visualisation:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        tensors, told = files.read(path, FORMAT)
        try:
            told |= {name: tuple(told[name]) for name in ("strengths", "begun", "mean", "std")}
            told["features"] = tuple(Feature(**one) for one in told["features"])
            return cls(images=tensors["images"], recipe=Recipe(**told.pop("recipe")), **told)
        except (KeyError, TypeError, ValueError) as problem:
            raise InputError(f"the visualisation {path} is damaged: {problem}") from problem

    def __repr__(self) -> str:
        shown = "; ".join(map(str, self.features[:3])) + ("; ..." if len(self.features) > 3 else "")
        return f"Visualisation({self.model}, images {tuple(self.images.shape)}: {shown})"

    def _repr_png_(self) -> bytes:
        from .draw_features import feature_sheet

        buffer = io.BytesIO()
        feature_sheet(self).save(buffer, "png")
        return buffer.getvalue()


def visualise(
    model: Any,
    features: Sequence[Feature],
    *,
    recipe: Recipe | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    seed: int = 0,
    together: int = 64,
    watch: Watch | None = None,
) -> Visualisation:
    """Make for each feature an image that it answers to strongly (Ghiasi et al. 2022, arXiv 2212.06727).

    x* = argmax over x in 0..1 of the mean over copies k and patches p of f_p(a_k(x)) - variation TV(x), where
    a_k moves the image, shifts its colours and adds noise (`augmentations.augmented`), f_p is the feature at
    patch p ([CLS] and registers do not count) and TV is `augmentations.total_variation`. Begins from uniform
    noise. Each feature's image has random numbers of its own: it does not depend on which others are asked
    for.

    Args:
        model: a model of transformers in eval mode whose image stream is of patches; frozen or not. Pass a
            float16 model on CUDA and a float32 one on a CPU, as the embedded models are loaded.
        features: layers, channels and kinds.
        recipe: the published one by default, which is meant for 224 pixels and a GPU.
        size: (height, width) of the images; the model's own by default. Other sizes need a model whose
            positions can be fitted.
        mean, std: the normalisation of the model's processor, one number a channel.
        seed: not negative.
        together: how many copies go through the model at once.
        watch: told of every step, for a progress bar.

    Raises:
        UnknownFamilyError: a model without patches.
        InputError: features that are not there, sizes or settings that do not fit.
        CaptureError: gradients that are not finite.
    """
    tower, recipe = tower_of(model), recipe or Recipe()
    config: Any = tower.module.config
    shape = (int(config.num_channels), *(size or pair(config.image_size)))
    if len(mean) != shape[0] or len(std) != shape[0] or min(std) <= 0:
        raise InputError(f"mean and std must be {shape[0]} numbers each, std above 0; got {mean} and {std}")
    if not features or seed < 0 or together < 1:
        raise InputError(
            f"wanted at least one feature, a seed of at least 0 and together of at least 1; got "
            f"{len(features)} features, seed {seed} and together {together}"
        )
    search = _Search(tower, recipe, tuple(mean), tuple(std))
    width = max(1, together // recipe.copies)
    groups = [list(features[start : start + width]) for start in range(0, len(features), width)]
    found = []
    for number, group in enumerate(groups):
        told = _counted(watch, number * recipe.steps, len(groups) * recipe.steps)
        found.append(search.run(group, shape, seed, told))
    images, begun, strengths = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Visualisation(
        images=images,
        features=tuple(features),
        strengths=tuple(strengths.tolist()),
        begun=tuple(begun.tolist()),
        recipe=recipe,
        seed=seed,
        mean=tuple(mean),
        std=tuple(std),
        model=tower.model,
        versions=versions(),
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """One optimisation of several images side by side, which know nothing of each other."""

    tower: Tower
    recipe: Recipe
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def run(
        self, features: list[Feature], shape: tuple[int, int, int], seed: int, watch: Callable[[int], None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The images, and what the features answered to the noise and to them, on the CPU."""
        generators = [_generator(seed, feature) for feature in features]
        like = next(self.tower.module.parameters())
        begin = torch.stack([torch.rand(shape, generator=one) for one in generators]).to(like.device)
        images = begin.clone().requires_grad_()
        optimizer = torch.optim.Adam([images], lr=self.recipe.rate, betas=(0.5, 0.99))
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.recipe.steps)
        for step in range(self.recipe.steps):
            images.grad = -self._gradient(images, features, generators, step)
            optimizer.step()
            falling.step()
            with torch.no_grad():
                images.clamp_(0, 1)
            watch(step + 1)
        final = images.detach()
        return final.cpu(), self._strengths(begin, features), self._strengths(final, features)

    def _gradient(
        self, images: Tensor, features: list[Feature], generators: list[torch.Generator], step: int
    ) -> Tensor:
        """Of the objective, float32. The model's part is divided afterwards: small ones vanish in float16."""
        recipe = self.recipe
        noise = recipe.noise * (1 - step / recipe.steps)
        jitter = round(recipe.jitter * min(images.shape[2:]))
        with torch.enable_grad():
            copies = torch.cat(
                [
                    augmented(
                        image,
                        drawn(one, recipe.copies, tuple(image.shape), colour=recipe.colour, noise=noise,
                              jitter=jitter),
                    )
                    for image, one in zip(images, generators, strict=True)
                ]
            )  # fmt: skip
            answers = self._own(copies, features)
            (rising,) = torch.autograd.grad(answers.sum(), images)
            (rough,) = torch.autograd.grad(total_variation(images).sum(), images)
        gradient = rising.float() / answers[0].numel() - recipe.variation * rough
        if not gradient.isfinite().all():
            raise CaptureError("the gradient of a feature is not finite; load the model in float32")
        return gradient

    def _own(self, copies: Tensor, features: list[Feature]) -> Float[Tensor, "feature _"]:
        """Every feature's answers to its own copies."""
        pixels = _normalised(copies, self.mean, self.std)
        each = len(copies) // len(features)
        found = responses(self.tower, pixels, features)
        rows = [answer[place * each : (place + 1) * each] for place, answer in enumerate(found)]
        return torch.stack(rows).flatten(1).float()

    @torch.no_grad()
    def _strengths(self, images: Tensor, features: list[Feature]) -> Float[Tensor, "feature"]:
        return self._own(images, features).mean(1).cpu()


def _normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    centre, spread = (torch.tensor(each)[:, None, None].to(images) for each in (mean, std))
    return (images - centre) / spread


def _generator(seed: int, feature: Feature) -> torch.Generator:
    """Random numbers of this seed and feature, on the CPU: the same wherever the model is."""
    told = [seed, KINDS.index(feature.kind), feature.layer, feature.channel]
    state = np.random.SeedSequence(told).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)


def _counted(watch: Watch | None, before: int, total: int) -> Callable[[int], None]:
    return lambda step: watch(before + step, total) if watch else None
