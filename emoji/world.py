"""Draws scenes in which the truth is known: what is there, in which colour, where, and what is claimed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from .captions import Named, caption_for, phrase, write_caption
from .sprites import SETS, placed
from .vocabulary import (
    ANIMALS,
    COLOURED_OBJECTS,
    COLOURS,
    HELD_OUT,
    LABELS,
    OBJECTS,
    SUBJECTS,
    article,
    is_seen,
    label,
)

__all__ = [
    "ANIMALS", "COLOURED_OBJECTS", "COLOURS", "HELD_OUT", "LABELS", "OBJECTS", "SIDE", "SUBJECTS",
    "Named", "Scene", "Subject", "article", "caption_for", "is_seen", "label", "phrase",
    "scene", "scenes", "write_caption",
]  # fmt: skip

SIDE: Final = 64
Pairs = Literal["train", "held-out", "any"]
SIZES: Final[dict[int, tuple[int, int]]] = {1: (30, 44), 2: (26, 34), 3: (20, 26)}
"""The longer side of a subject in pixels, least and most, by how many are drawn."""
COUNT_SHARES: Final = (0.45, 0.45, 0.10)
COLOUR_NAMED_SHARE: Final = 0.65
VISIBLE_SHARE: Final = 0.85
"""No subject is hidden more than this leaves of it."""


@dataclass(frozen=True)
class Subject:
    """A subject that was really drawn."""

    name: str
    colour: str | None
    """One of `COLOURS` for an object, None for an animal; known even where the caption leaves it out."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels, right and bottom exclusive: the bounds of `mask`."""
    mask: Bool[np.ndarray, "height width"]
    """Where the subject is what one sees."""


@dataclass(frozen=True)
class Scene:
    """An image with its caption and its truth."""

    image: UInt8[np.ndarray, "height width rgb"]
    caption: str
    named: tuple[Named, ...]
    """What the caption names, in its order; in a noisy scene one more than is drawn."""
    subjects: tuple[Subject, ...]


def scene(
    seed: int,
    *,
    subjects: int | None = None,
    noisy: float = 0.0,
    pairs: Pairs = "train",
    named: tuple[Named, ...] | None = None,
) -> Scene:
    """The scene of this seed: the same arguments always give the same pixels and words.

    Args:
        seed: not negative.
        subjects: how many the caption names; None draws 1, 2 or 3 with shares .45, .45, .10.
        noisy: probability, 0 to 1, that one of several named subjects is missing from the image.
        pairs: "train" never puts a held-out pair into a caption, "held-out" always does, "any" does not care.
        named: these subjects instead of drawn ones; `subjects` and `pairs` are then ignored.

    Raises `ValueError` for a value outside these.
    """
    _check(seed, subjects, noisy, pairs)
    rng = np.random.default_rng([seed, 0xE0])
    if named is None:
        count = subjects or int(rng.choice(3, p=COUNT_SHARES)) + 1
        if pairs == "held-out":
            count = max(count, 2)
        named = _choose_named(rng, count, pairs)
    drawn = list(named)
    if len(drawn) > 1 and rng.random() < noisy:
        del drawn[int(rng.integers(len(drawn)))]
    caption = write_caption(named, rng)
    image, found = _compose(rng, drawn)
    return Scene(image, caption, tuple(named), found)


def scenes(
    seed: int,
    count: int,
    *,
    subjects: int | None = None,
    noisy: float = 0.0,
    pairs: Pairs = "train",
) -> Iterator[Scene]:
    """`count` scenes, drawn as they are asked for; different seeds share no scene (up to a million each)."""
    for index in range(count):
        yield scene(seed * 1_000_000 + index, subjects=subjects, noisy=noisy, pairs=pairs)


def _check(seed: int, subjects: int | None, noisy: float, pairs: str) -> None:
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if subjects not in (None, 1, 2, 3):
        raise ValueError(f"subjects must be 1, 2, 3 or None, got {subjects!r}")
    if not 0.0 <= noisy <= 1.0:
        raise ValueError(f"noisy is a probability between 0 and 1, got {noisy}")
    if pairs not in ("train", "held-out", "any"):
        raise ValueError(f'pairs must be "train", "held-out" or "any", got {pairs!r}')
    if pairs == "held-out" and subjects == 1:
        raise ValueError('pairs="held-out" needs subjects 2, 3 or None: one subject makes no pair')


def _choose_named(rng: np.random.Generator, count: int, pairs: Pairs) -> tuple[Named, ...]:
    if pairs == "held-out":
        listed = sorted(tuple(sorted(pair)) for pair in HELD_OUT)
        names = list(listed[int(rng.integers(len(listed)))])
        others = [name for name in SUBJECTS if name not in names]
        names += [str(name) for name in rng.choice(others, size=count - 2, replace=False)]
    else:
        names = [str(name) for name in rng.choice(SUBJECTS, size=count, replace=False)]
        while pairs == "train" and not is_seen(tuple(names)):
            names = [str(name) for name in rng.choice(SUBJECTS, size=count, replace=False)]
    order = rng.permutation(len(names))
    return tuple((names[index], _choose_colour(rng, names[index])) for index in order)


def _choose_colour(rng: np.random.Generator, name: str) -> str | None:
    if name in ANIMALS or rng.random() >= COLOUR_NAMED_SHARE:
        return None
    return str(rng.choice(COLOURS))


def _background(rng: np.random.Generator) -> Float[np.ndarray, "height width rgb"]:
    """A soft gradient between two pastels; never so light that white, nor so gray that gray is lost."""
    hue, turn = rng.random(), rng.uniform(-0.12, 0.12)
    ends = [
        _pastel((hue + at * turn) % 1.0, rng.uniform(0.10, 0.26), rng.uniform(0.78, 0.92)) for at in (0, 1)
    ]
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) - 0.5
    along = (np.cos(angle) * xs + np.sin(angle) * ys) / np.sqrt(2) + 0.5
    return (ends[0] + along[..., None] * (ends[1] - ends[0])).astype(np.float32)


def _pastel(hue: float, saturation: float, value: float) -> Float[np.ndarray, "rgb"]:
    """HSV to RGB, all 0 to 1."""
    sector = (hue * 6.0 + np.array([5.0, 3.0, 1.0])) % 6.0
    return value - value * saturation * np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)


def _compose(
    rng: np.random.Generator, drawn: list[Named]
) -> tuple[UInt8[np.ndarray, "height width rgb"], tuple[Subject, ...]]:
    canvas = _background(rng)
    colours = [None if name in ANIMALS else colour or str(rng.choice(COLOURS)) for name, colour in drawn]
    layers = _place(rng, [(name, colour) for (name, _), colour in zip(drawn, colours, strict=True)])
    found = []
    for index, layer in enumerate(layers):
        canvas = canvas * (1.0 - layer[..., 3:]) + layer[..., :3]
        mask = _visible(layers, index)
        found.append(Subject(drawn[index][0], colours[index], _bounds(mask), mask))
    return np.rint(255.0 * np.clip(canvas, 0.0, 1.0)).astype(np.uint8), tuple(found)


def _place(rng: np.random.Generator, drawn: list[Named]) -> list[Float[np.ndarray, "height width rgba"]]:
    """Each subject on a canvas of its own; tried again, ever smaller, until all are visible enough."""
    for attempt in range(200):
        layers = [_layer(rng, name, colour, len(drawn), attempt // 20) for name, colour in drawn]
        if all(
            _visible(layers, i).sum() >= VISIBLE_SHARE * (layers[i][..., 3] > 0.5).sum()
            for i in range(len(layers))
        ):
            return layers
    raise RuntimeError(f"no room found for {drawn}; this cannot happen at the sizes of SIZES")


def _layer(
    rng: np.random.Generator, name: str, colour: str | None, count: int, smaller: int
) -> Float[np.ndarray, "height width rgba"]:
    least, most = SIZES[count]
    sprite = placed(
        name,
        int(rng.integers(len(SETS))),
        colour,
        side=max(16, int(rng.integers(least, most + 1)) - smaller),
        angle=float(rng.uniform(-9, 9)),
        mirrored=bool(rng.random() < 0.5),
    )
    height, width, _ = sprite.shape
    top, left = int(rng.integers(1, SIDE - height)), int(rng.integers(1, SIDE - width))
    layer = np.zeros((SIDE, SIDE, 4), dtype=np.float32)
    layer[top : top + height, left : left + width] = sprite
    return layer


def _visible(
    layers: list[Float[np.ndarray, "height width rgba"]], index: int
) -> Bool[np.ndarray, "height width"]:
    mask = layers[index][..., 3] > 0.5
    for above in layers[index + 1 :]:
        mask = mask & (above[..., 3] <= 0.5)
    return mask


def _bounds(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
