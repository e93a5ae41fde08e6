"""Linear probes: what can be read off a layer's tokens by a linear classifier, [CLS] apart from patches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import InputError
from ..evaluation.intervals import Estimate, mean
from ..relevance import model_name, versions
from .files import read, write
from .vision import look, tokens_of

FORMAT: Final = "heedful.linear-probes/1"
"""What a saved file says of itself."""
READS: Final = ("cls", "mean", "patch")
"""What a probe reads: the first special token, the mean of all patches, one patch (mean over several)."""
Labelled = Iterable[tuple[Tensor, Tensor]]
"""Pixels (image, channel, height, width) with their labels (image), batch by batch."""


@dataclass(frozen=True)
class Probes:
    """How well the label is read off each layer by a linear classifier, on images it was not fitted to.

    Attributes:
        accuracy: by what is read (of `READS`; models without special tokens have no "cls") and by layer, with
            95 % intervals over the test images.
        chance: accuracy of always saying the commonest label of the training images.
        images: how many the probes were fitted to, and how many they were tested on.
        model: class and name of the model.
        settings: of the classifier; positions of the single patches, and their seed.
        versions: of heedful and the libraries it stands on.
    """

    accuracy: Mapping[str, Mapping[str, Estimate]]
    chance: float
    images: tuple[int, int]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def plot(self, path: str | Path) -> Path:
        """Draw accuracy over the layers into a PNG.

        Raises:
            InputError: where matplotlib is not installed.
        """
        from . import draw_similarity

        return draw_similarity.save(draw_similarity.probe_lines({self.model: self}), path)

    def save(self, path: str | Path) -> None:
        """Write everything into one file; `Probes.load` reads it."""
        write(path, FORMAT, {}, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Probes:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        _, told = read(path, FORMAT)
        try:
            told["accuracy"] = {
                reads: {name: Estimate(**each) for name, each in layers.items()}
                for reads, layers in told["accuracy"].items()
            }
            return cls(**{**told, "images": tuple(told["images"])})
        except (KeyError, TypeError, AttributeError) as problem:
            raise InputError(f"the file {path} is damaged: {problem}") from problem


def linear_probes(
    model: nn.Module,
    train: Labelled,
    test: Labelled,
    *,
    layers: str | Sequence[str] | None = None,
    patches: int = 8,
    strength: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Probes:
    """Fit a linear classifier to each layer's tokens, and see what it gets right on other images.

    Raghu et al. 2021, arXiv 2108.08810, Sec. 5 and App. F: logistic regression (scikit-learn's, L2, on
    standardised features) on [CLS], on the mean of the patches, and on single patches, a probe each. All
    features that are read are held: images x layers x (2 + patches) x channels numbers.

    Args:
        model: a model of images in eval mode; it is left as it was.
        train, test: images with their labels, of one size, none in both.
        layers: names or patterns (default: all layers of the image part).
        patches: at how many positions single patches are read, drawn from the seed; 0 for none.
        strength: scikit-learn's C, larger is less regularised.
        progress: called with the number of images seen so far.

    Raises:
        InputError: for fewer than two labels, a label in `test` that `train` lacks, no images, or where
            scikit-learn is not installed.
        CaptureError: for layers that are not there.
    """
    fit = _classifier(strength)
    count = 0

    def seen(more: int) -> None:
        nonlocal count
        count += more
        if progress is not None:
            progress(count)

    known, labels = _read(model, train, layers, patches, seed, seen)
    asked, truth = _read(model, test, layers, patches, seed, seen)
    _check_labels(labels, truth)
    accuracy: dict[str, dict[str, Estimate]] = {reads: {} for reads in READS}
    for (reads, name), rows in known.items():
        right = [
            fit(each.numpy(), labels).predict(other.numpy()) == truth
            for each, other in zip(rows.unbind(1), asked[reads, name].unbind(1), strict=True)
        ]
        accuracy[reads][name] = mean(np.mean(right, axis=0))
    commonest = np.bincount(labels).argmax()
    told = {
        "patches": patches,
        "C": strength,
        "seed": seed,
        "classifier": "logistic regression, standardised",
    }
    return Probes(
        {reads: each for reads, each in accuracy.items() if each},
        float(np.mean(truth == commonest)),
        (len(labels), len(truth)),
        model_name(model),
        told,
        versions(),
    )


def _read(
    model: nn.Module,
    batches: Labelled,
    layers: str | Sequence[str] | None,
    patches: int,
    seed: int,
    progress: Callable[[int], None],
) -> tuple[dict[tuple[str, str], Float[Tensor, "image position channel"]], Int[np.ndarray, "image"]]:
    """For what is read and every layer the features, and the labels."""
    found: dict[tuple[str, str], list[Tensor]] = {}
    labels: list[Tensor] = []
    for pixels, own in batches:
        if len(pixels) != len(own):
            raise InputError(f"wanted a label for each image, got {len(own)} for {len(pixels)}")
        with torch.no_grad():
            outputs = look(model, pixels, [layers] if isinstance(layers, str) else layers)
        for name, output in outputs.items():
            for reads, values in _features(model, pixels, output, name, patches, seed).items():
                found.setdefault((reads, name), []).append(values.float().cpu())
        labels.append(own)
        progress(len(own))
    if not labels:
        raise InputError("wanted images to fit probes to and images to test them on; got none of one kind")
    return {key: torch.cat(each) for key, each in found.items()}, torch.cat(labels).numpy()


def _features(
    model: nn.Module, pixels: Tensor, output: Tensor, name: str, patches: int, seed: int
) -> dict[str, Float[Tensor, "image position channel"]]:
    tokens = tokens_of(model, pixels, output, name)
    own = tokens.values[:, tokens.specials :]
    found = {"mean": own.mean(1, keepdim=True)}
    if tokens.specials:
        found["cls"] = tokens.values[:, :1]
    if patches:
        picked = torch.randperm(own.shape[1], generator=torch.Generator().manual_seed(seed))
        found["patch"] = own[:, picked[:patches].to(own.device)]
    return {reads: found[reads] for reads in READS if reads in found}


def _check_labels(train: Int[np.ndarray, "image"], test: Int[np.ndarray, "other"]) -> None:
    known = np.unique(train)
    if len(known) < 2:
        raise InputError(f"probes tell labels apart: wanted at least two, got {len(known)}")
    if strange := sorted(set(test.tolist()) - set(known.tolist())):
        raise InputError(f"label {strange[0]} is among the images to test on, but not among those to fit to")


def _classifier(strength: float) -> Callable[[np.ndarray, np.ndarray], Any]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as problem:
        raise InputError(
            'linear probes are fitted by scikit-learn, which is not installed: pip install "heedful[probe]"'
        ) from problem

    def fit(features: np.ndarray, labels: np.ndarray) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(
            features, labels
        )

    return fit
