"""A second witness for `check`: what an image classifier says of the words that are among its labels."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from .errors import InputError, UnknownFamilyError
from .models.common import label_of
from .relevance import explain
from .sentences import numbered
from .verdict import ClassifierEvidence

THRESHOLD: Final = 0.5
"""From which probability on a label with a sigmoid of its own is seen."""
CROWDED: Final = (0.1, 0.5)
"""A softmax is shared by all that is in the image: of an equal share of the words asked for, so much is seen
from the second on, and not seen below the first; between them it cannot tell."""


class Witness:
    """A classifier of transformers, and the labels that are the words asked for.

    A word is a label if it is the whole of it, or one of its names where commas part them ("tabby, tabby
    cat"), in any case.

    Args:
        classifier: any `...ForImageClassification` in eval mode; or (model, image processor); or a pipeline
            of transformers. Alone, its processor is read from the folder it was loaded from.

    Raises:
        InputError: no classifier, or no processor, or labels of which no word is one.
    """

    def __init__(self, classifier: Any, words: Sequence[str]) -> None:
        self.model, self.processor = _parts(classifier)
        count = self.model.config.num_labels
        labels = [label_of(self.model.config, index) for index in range(count)]
        names = {name.strip().casefold(): index for index, label in reversed([*enumerate(labels)])
                 for name in (label, *label.split(","))}  # fmt: skip
        self.ids = {
            word: names[numbered(word)[0].casefold()]
            for word in words
            if numbered(word)[0].casefold() in names
        }
        self.labels = {word: labels[index] for word, index in self.ids.items()}
        if not self.ids:
            near = [near for word in words for near in get_close_matches(word, labels, n=2, cutoff=0.0)]
            raise InputError(
                f"none of the words ({', '.join(words)}) is a label of the classifier, which has {count}; "
                f"nearest: {', '.join(dict.fromkeys(near))}"
            )

    def ask(self, image: Image.Image, *, relevance: bool = True) -> dict[str, ClassifierEvidence]:
        """The evidence of each word that is a label."""
        pixels = self._pixels(image)
        with torch.inference_mode():
            logits = self.model(pixel_values=pixels).logits[0].float().cpu()
        independent = self.model.config.problem_type == "multi_label_classification"
        shares = logits.sigmoid() if independent else logits.softmax(-1)
        low, high = (THRESHOLD, THRESHOLD) if independent else (share / len(self.ids) for share in CROWDED)
        maps = self._maps(pixels) if relevance else {}
        found = {}
        for word, index in self.ids.items():
            share = float(shares[index])
            sees = True if share >= high else False if share < low else None
            found[word] = ClassifierEvidence(self.labels[word], share, sees, maps.get(word))
        return found

    def _maps(self, pixels: Float[Tensor, "1 3 height width"]) -> dict[str, Float[Tensor, "_rows _columns"]]:
        ids = [*dict.fromkeys(self.ids.values())]
        try:
            maps = explain(self.model, {"pixel_values": pixels}, ids).image
        except UnknownFamilyError:
            return {}
        return {} if maps is None else {word: maps[ids.index(index)] for word, index in self.ids.items()}

    def _pixels(self, image: Image.Image) -> Float[Tensor, "1 3 height width"]:
        like = next(self.model.parameters())
        ready = self.processor(images=[image.convert("RGB")], return_tensors="pt")
        return ready["pixel_values"].to(like.device, like.dtype)


def _parts(classifier: Any) -> tuple[Any, Any]:
    if isinstance(classifier, tuple) and len(classifier) == 2:
        model, processor = classifier
    else:
        model = getattr(classifier, "model", classifier)
        processor = getattr(classifier, "image_processor", None)
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(model, nn.Module) or not labels:
        raise InputError(
            "classifier must be a ...ForImageClassification of transformers, (model, image processor), or an "
            f"image-classification pipeline; got {type(classifier).__name__}"
        )
    return model, processor or _processor_of(model)


def _processor_of(model: Any) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(model.config._name_or_path, local_files_only=True)
    except (OSError, ValueError, AttributeError) as problem:
        raise InputError(
            "the classifier's image processor was not found where it was loaded from; pass "
            "classifier=(model, image_processor)"
        ) from problem
