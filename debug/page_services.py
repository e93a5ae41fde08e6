"""What the page needs done by others, and the values that it passes to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from ..explain import Relevance
from .probing import Seer

EMBEDDED: Final = "embedded"
"""How the page calls the model that comes with the package."""


@dataclass(frozen=True, eq=False)
class Question:
    """What the second tab asks about an image.

    Attributes:
        texts: what the image is compared with; `labels`: classes. At most one of both.
        method: one of `heedful.explain.METHODS`.
        model: a folder or a hub id; None for the embedded CLIP with texts, else the embedded classifier.
        point: (x, y) of the part of the image that the model sees, each 0..1: whose attention to show.
        layer, head: of the methods that look at one.
    """

    image: Image.Image
    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    method: str = "libra"
    model: str | None = None
    point: tuple[float, float] | None = None
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back: the maps, and the part of the image that the model saw."""

    relevance: Relevance
    shown: Image.Image


@dataclass(frozen=True)
class Services:
    """What the page is given.

    Attributes:
        load: the pipeline of a model (a folder or a hub id; None for the embedded one), such as `Pipelines`.
        explain: the answer to a question about an image.
        see: a model of images with its processor, by the name of an embedded one, a folder or a hub id.
        model: the model that a new tab begins with.
    """

    load: Callable[[str | None], Any]
    explain: Callable[[Question], Answer]
    see: Callable[[str], Seer]
    model: str | None = None


class Pipelines:
    """Loaded pipelines: the embedded one is kept, of all others the latest, for their size."""

    def __init__(self, load: Callable[[str | None], Any]) -> None:
        self._load = load
        self._kept: dict[str | None, Any] = {}

    def __call__(self, model: str | None) -> Any:
        """The pipeline of a model, loaded if it is not there."""
        if model not in self._kept:
            for other in [name for name in self._kept if name is not None and model is not None]:
                del self._kept[other]  # before the next one takes the memory
            self._kept[model] = self._load(model)
        return self._kept[model]
