"""The words in which tests/explain_reference_families.py writes out how a family of models is built.

Attentions are numbered in the order in which a forward calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Stack:
    """One stream that only attends to itself; `pool` gathers it at last."""

    stream: str
    layers: tuple[int, ...]
    pool: int | None = None


@dataclass(frozen=True)
class Decoder:
    """A stream whose every layer attends to itself, then to another that a stack of its own encoded."""

    stream: str
    context: str
    encoder: tuple[int, ...]
    layers: tuple[tuple[int, int], ...]
    """Of every decoder layer the self-attention, then the cross-attention."""


@dataclass(frozen=True)
class CoAttention:
    """LXMERT: words alone, regions alone, then both at once, from words to regions and the other way."""

    stream: str
    context: str
    own: tuple[int, ...]
    other: tuple[int, ...]
    layers: tuple[tuple[int, int, int, int], ...]
    """Words to regions, regions to words, words among themselves, regions among themselves."""


Shape = Stack | Decoder | CoAttention


@dataclass(frozen=True)
class Shown:
    """The part of a stream that a person sees: tokens `first` to `first + count`, of which `kept` count."""

    kind: str
    stream: str
    first: int
    count: int
    grid: tuple[int, int] | None = None
    kept: tuple[tuple[int, ...], ...] | None = None
    """For both inputs; the other tokens are 0."""


Reads = Mapping[str, tuple[Mapping[int, float], ...]]
"""By stream, for both inputs: which tokens the score reads, and their shares."""
Head = Callable[[Any, str, Tensor], Tensor]
"""Model, stream, tokens of a layer -> scores of all classes, or embeddings (CLIP)."""


@dataclass(frozen=True)
class Hand:
    """A family, as its model's paper and code have it."""

    shapes: tuple[Shape, ...]
    scores: Callable[[Any, Any], Tensor]
    """Outputs and target -> the scores of both inputs."""
    reads: Callable[[Any, Any], Reads]
    """Outputs and target -> where these are read."""
    shown: tuple[Shown, ...]
    tokens: Mapping[str, str]
    """By stream the module whose output enters the first layer."""
    target: Any = None
    zero: Any = 0
    """A target that is falsy and yet one; None if there is none."""
    interface: bool = True
    """Whether transformers' attention interface reaches its attention."""
    pixels: bool = True
    blocks: Mapping[str, str] = field(default_factory=dict)
    """By stream the modules of the layers, for LeGrad."""
    head: Head | None = None
    paired: bool = False
    """Whether heads give embeddings that are compared."""
