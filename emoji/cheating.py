"""Scenes with a mark in a corner that goes with their subject: a classifier can learn it instead of to look.

Four corners times six colours are a mark for each of the 24 subjects. In an *agreeing* scene the mark is that
of the subject, in a *conflicting* one another subject's, and a *clean* one has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .sprites import RGB
from .vocabulary import SUBJECTS
from .world import SIDE, Scene, Subject, scene

Kind = Literal["agree", "conflict", "clean"]
KINDS: Final[tuple[Kind, ...]] = ("agree", "conflict", "clean")
MARK_SIDE: Final = 6
"""Pixels of a side of the square mark; it keeps one pixel from both edges, so it lies in the corner patch."""
_EDGE: Final = 1
_COLOURS: Final = ("red", "yellow", "green", "blue", "purple", "black")


@dataclass(frozen=True)
class MarkedScene:
    """A scene of one subject, with or without a mark."""

    scene: Scene
    """As seen: the mark hides what lies under it, also in the subject's mask."""
    kind: Kind
    says: str | None
    """Which of `SUBJECTS` the mark stands for; None without a mark."""
    mark: Bool[np.ndarray, "height width"]
    """Where the mark is; False everywhere without one."""

    @property
    def subject(self) -> Subject:
        """The one subject, which is the truth whatever the mark says."""
        return self.scene.subjects[0]


def marked_scene(seed: int, kind: Kind = "agree") -> MarkedScene:
    """The scene of one subject of this seed, the same for every kind but for its mark.

    Args:
        seed: not negative.
        kind: "agree", "conflict" (the mark of another subject, drawn by the seed) or "clean".

    Raises `ValueError` for another kind, or a negative seed.
    """
    if kind not in KINDS:
        raise ValueError(f"a marked scene is one of {', '.join(KINDS)}; got {kind!r}")
    plain = scene(seed, subjects=1)
    if kind == "clean":
        return MarkedScene(plain, kind, None, np.zeros((SIDE, SIDE), bool))
    true = SUBJECTS.index(plain.subjects[0].name)
    other = int(np.random.default_rng([seed, 0xC0]).integers(1, len(SUBJECTS)))
    says = true if kind == "agree" else (true + other) % len(SUBJECTS)
    mark = mark_place(says)
    image = np.where(mark[..., None], np.array(mark_colour(says), np.uint8), plain.image)
    subject = replace(plain.subjects[0], mask=plain.subjects[0].mask & ~mark)
    return MarkedScene(replace(plain, image=image, subjects=(subject,)), kind, SUBJECTS[says], mark)


def marked_scenes(seed: int, count: int, kind: Kind = "agree") -> Iterator[MarkedScene]:
    """`count` scenes, drawn as they are asked for; a seed's are those of `world.scenes` with one subject."""
    for index in range(count):
        yield marked_scene(seed * 1_000_000 + index, kind)


def mark_place(subject: int) -> Bool[np.ndarray, "height width"]:
    """Where the mark of a subject, by its number among `SUBJECTS`, lies."""
    bottom, right = divmod(subject % 4, 2)
    near, far = slice(_EDGE, _EDGE + MARK_SIDE), slice(SIDE - _EDGE - MARK_SIDE, SIDE - _EDGE)
    place = np.zeros((SIDE, SIDE), bool)
    place[far if bottom else near, far if right else near] = True
    return place


def mark_colour(subject: int) -> tuple[int, int, int]:
    """The colour of a subject's mark, 0 to 255."""
    return RGB[_COLOURS[subject // 4]]


def put_marks(
    pixels: Float[Tensor, "scene 3 height width"], says: Int[Tensor, "scene"]
) -> Float[Tensor, "scene 3 height width"]:
    """Scenes from -1 to 1 with the marks of these subjects on them; -1 leaves a scene as it is."""
    places = torch.from_numpy(np.stack([mark_place(each) for each in range(len(SUBJECTS))]))
    colours = torch.tensor([mark_colour(each) for each in range(len(SUBJECTS))]) / 127.5 - 1.0
    shown = (places[says] & (says >= 0)[:, None, None])[:, None].to(pixels.device)
    return torch.where(shown, colours[says][..., None, None].to(pixels), pixels)
