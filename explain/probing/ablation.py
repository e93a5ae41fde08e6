"""What a classifier can do without: the subject, its surroundings, fine detail, [CLS], all but one patch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InputError
from ..evaluation.intervals import Estimate, paired, share
from ..evaluation.parts import Colour, Fill
from ..relevance import model_name, versions
from .cls_token import apart, patch_logits

TESTS: Final = ("ground", "low_pass", "cls", "patches")
CUTOFFS: Final = (0.75, 0.5, 0.375, 0.25, 0.125)
Answer = Callable[[Float[Tensor, "image channel height width"]], Float[Tensor, "image label"]]
"""Pixels to logits."""
NATURAL: Final = "as it is"


@dataclass(frozen=True, eq=False)
class Ablation:
    """Which images a model classified rightly under each condition, the same images in the same order.

    Attributes:
        right: by condition; the first is "as it is".
        settings: what was taken away and how.
        model: its class, and the name it was loaded by.
    """

    right: Mapping[str, Bool[np.ndarray, "image"]]
    settings: Mapping[str, Any]
    model: str
    versions: Mapping[str, str]

    def accuracy(self, condition: str) -> Estimate:
        """The share of images, with Wilson's interval.

        Raises:
            InputError: a condition that was not tried.
        """
        return share(self._of(condition))

    def change(self, condition: str) -> Estimate:
        """The difference to the images as they are, with the interval of a paired bootstrap."""
        return paired(self._of(condition).astype(float), self._of(NATURAL).astype(float))

    def kept(self, condition: str) -> float:
        """Accuracy over that of the images as they are ("normalised" in the paper); NaN where that is 0."""
        natural = self._of(NATURAL).mean()
        return float(self._of(condition).mean() / natural) if natural else float("nan")

    def _of(self, condition: str) -> Bool[np.ndarray, "image"]:
        if condition not in self.right:
            raise InputError(f'"{condition}" was not tried; there are: {", ".join(self.right)}')
        return self.right[condition]


def ablate(
    model: Any,
    pixels: Float[Tensor, "image channel height width"],
    labels: Int[Tensor, "_"],
    masks: Bool[Tensor, "_ _ _"] | None = None,
    *,
    tests: Sequence[str] = TESTS,
    cutoffs: Sequence[float] = CUTOFFS,
    fill: Fill | None = None,
    answer: Answer | None = None,
    classes: Sequence[int] | None = None,
    together: int = 64,
) -> Ablation:
    """Accuracy without parts of the image or of the model (Ghiasi et al. 2022, arXiv 2212.06727, 4 to 6).

    - "ground": only the foreground is shown, and only the background, the rest filled with one colour. The
      outline of what is filled can be seen: pass boxes as masks to hide it.
    - "low_pass": fine detail taken away, see `low_pass`.
    - "cls": [CLS] and patches know nothing of each other below the last layer, see `cls_token.apart`.
    - "patches": the head reads the mean of the patches instead of [CLS], or each patch, of whose logits the
      largest counts for every class.

    Args:
        model: a classifier of transformers; one without patches for "ground" and "low_pass" alone.
        pixels: as the model's processor leaves them.
        labels: the class of each image, among the logits or among `classes`.
        masks: where the subject is, as large as the images; for "ground".
        tests: of `TESTS`.
        cutoffs: of the low pass, shares of the highest frequency, each larger than 0.
        fill: what takes a part's place; the mean colour by default.
        answer: pixels to logits, where that is not `model(pixel_values=pixels).logits`; not in "patches".
        classes: which logits count, for a model that knows more than the question.
        together: how many images go through the model at once.

    Raises:
        InputError: masks of another size or empty ones, labels that are no classes, a test that does not fit.
        UnsupportedMethodError: "patches" or "cls" of a model without a head on its tokens.
        UnknownFamilyError: the same of a model without patches.
    """
    _check(pixels, labels, masks, tests, cutoffs, together)
    fill = fill or Colour()
    ask = answer or (lambda part: model(pixel_values=_like(model, part)).logits)
    grade = _Grade(labels, None if classes is None else torch.tensor(list(classes)), together)
    right = {NATURAL: grade(ask, pixels)}
    if "ground" in tests:
        assert masks is not None
        right["foreground only"] = grade(ask, shown(pixels, masks, fill))
        right["background only"] = grade(ask, shown(pixels, ~masks, fill))
    if "low_pass" in tests:
        right |= {f"low pass {cutoff:g}": grade(ask, low_pass(pixels, cutoff)) for cutoff in cutoffs}
    if "cls" in tests:
        right["[CLS] apart"] = grade(ask, pixels, mode=apart(model))
    if "patches" in tests:
        right["mean of the patches"] = grade(lambda part: patch_logits(model, part, mean=True)[:, 0], pixels)
        right["largest of the patches"] = grade(lambda part: patch_logits(model, part).amax(1), pixels)
    told = {"fill": fill.told, "images": len(pixels), "tests": tuple(tests), "cutoffs": tuple(cutoffs)}
    return Ablation(right, told, model_name(model), versions())


def shown(
    pixels: Float[Tensor, "image channel height width"], masks: Bool[Tensor, "image height width"], fill: Fill
) -> Float[Tensor, "image channel height width"]:
    """The images where the masks are, and the fill elsewhere."""
    return torch.where(masks[:, None].to(pixels.device), pixels, fill(pixels).to(pixels))


def low_pass(
    pixels: Float[Tensor, "image channel height width"], cutoff: float
) -> Float[Tensor, "image channel height width"]:
    """The images without the frequencies above a share of the highest.

    Keeps the Fourier coefficients with sqrt((2 u)^2 + (2 v)^2) <= cutoff, u and v in cycles a pixel, whose
    highest is 1/2: with 1 all are kept but the corners, with sqrt(2) all. The mean colour always stays.

    Raises:
        InputError: a cutoff that is not larger than 0.
    """
    if not cutoff > 0:
        raise InputError(f"the cutoff of a low pass must be larger than 0, got {cutoff}")
    height, width = pixels.shape[2:]
    down = torch.fft.fftfreq(height, device=pixels.device)[:, None]
    right = torch.fft.rfftfreq(width, device=pixels.device)[None]
    kept = (2 * down) ** 2 + (2 * right) ** 2 <= cutoff**2 + 1e-6
    waves = torch.fft.rfft2(pixels.float() if pixels.dtype != torch.float64 else pixels)
    return torch.fft.irfft2(waves * kept, s=(height, width)).to(pixels.dtype)


@dataclass(frozen=True, eq=False)
class _Grade:
    """Says of every image whether the largest logit is its label's."""

    labels: Tensor
    classes: Tensor | None
    together: int

    @torch.no_grad()
    def __call__(
        self, ask: Answer, pixels: Tensor, mode: AbstractContextManager[Any] | None = None
    ) -> Bool[np.ndarray, "image"]:
        with mode or nullcontext():
            logits = torch.cat([ask(part).float().cpu() for part in pixels.split(self.together)])
        if self.classes is not None:
            if int(self.classes.max()) >= logits.shape[1]:
                raise InputError(
                    f"classes must lie in 0..{logits.shape[1] - 1}, got {int(self.classes.max())}"
                )
            logits = logits[:, self.classes]
        if int(self.labels.max()) >= logits.shape[1]:
            raise InputError(
                f"labels must lie in 0..{logits.shape[1] - 1}, as the model has as many classes; got "
                f"{int(self.labels.max())}"
            )
        return (logits.argmax(1) == self.labels.cpu()).numpy()


def _like(model: Any, pixels: Tensor) -> Tensor:
    weight = next(one for one in model.parameters() if one.is_floating_point())
    return pixels.to(weight.device, weight.dtype)


def _check(
    pixels: Tensor,
    labels: Tensor,
    masks: Tensor | None,
    tests: Sequence[str],
    cutoffs: Sequence[float],
    together: int,
) -> None:
    if not tests or set(tests) - set(TESTS):
        raise InputError(f"tests must be some of {', '.join(TESTS)}; got {', '.join(tests) or 'none'}")
    if not len(pixels) or len(labels) != len(pixels) or int(labels.min()) < 0:
        raise InputError(
            f"wanted a label of at least 0 for each of {len(pixels)} images, at least one; got {len(labels)}"
        )
    if together < 1 or (not cutoffs and "low_pass" in tests):
        raise InputError(f"together must be at least 1, got {together}, and cutoffs at least one")
    if "ground" not in tests:
        return
    if masks is None:
        raise InputError('the test "ground" needs masks; pass them, or leave it out of tests')
    wanted = (len(pixels), *pixels.shape[2:])
    if masks.shape != wanted:
        raise InputError(f"masks must be {wanted} (image, height, width), got {tuple(masks.shape)}")
    seen = masks.flatten(1).any(1)
    if not seen.all():
        raise InputError(f"the mask of image {int(seen.float().argmin())} is empty: it has no subject")
