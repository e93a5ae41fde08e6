"""How a model's attentions are wired: which tokens attend to which, in the order of the forward.

A *stream* is a sequence of tokens that is updated layer by layer ("image", "text", "queries"). Every method
is written once against these few types, and every family of models says in them how it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Site:
    """One use of one attention module in a forward."""

    module: str
    """Its name in `model.named_modules()`."""
    call: int = 0
    """Which of the module's calls, from 0: LXMERT calls one cross-attention twice."""


@dataclass(frozen=True)
class SelfStep:
    """Self-attention: the tokens of a stream attend to each other."""

    stream: str
    site: Site


@dataclass(frozen=True)
class CrossStep:
    """Cross-attention: the tokens of `stream` are the queries, those of `context` the keys."""

    stream: str
    context: str
    site: Site


@dataclass(frozen=True)
class TogetherStep:
    """Cross-attentions that all see the streams as they were before any of them (LXMERT's two directions)."""

    steps: tuple[CrossStep, ...]


Step = SelfStep | CrossStep | TogetherStep


@dataclass(frozen=True)
class Wiring:
    """All attentions of a model, in the order of the forward."""

    steps: tuple[Step, ...]

    @property
    def flat(self) -> Iterator[SelfStep | CrossStep]:
        """Every attention, those of a `TogetherStep` one by one."""
        for step in self.steps:
            if isinstance(step, TogetherStep):
                yield from step.steps
            else:
                yield step

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the attentions are, in order."""
        return tuple(step.site for step in self.flat)

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams, in the order in which they first appear."""
        names = [
            name
            for step in self.flat
            for name in ((step.stream, step.context) if isinstance(step, CrossStep) else (step.stream,))
        ]
        return tuple(dict.fromkeys(names))

    def of(self, stream: str) -> tuple[SelfStep, ...]:
        """The self-attentions of one stream, bottom layer first."""
        return tuple(step for step in self.flat if isinstance(step, SelfStep) and step.stream == stream)

    def part(self, stream: str) -> Wiring:
        """The steps that can reach a stream: a tower that no other attends to stands alone."""
        wanted = {stream}
        kept: list[Step] = []
        for step in reversed(self.steps):
            parts = step.steps if isinstance(step, TogetherStep) else (step,)
            reaching = tuple(part for part in parts if part.stream in wanted)
            wanted |= {part.context for part in reaching if isinstance(part, CrossStep)}
            if reaching == parts:
                kept.append(step)
            elif reaching:  # of a TogetherStep's cross-attentions, those into a wanted stream
                kept.append(TogetherStep(tuple(part for part in reaching if isinstance(part, CrossStep))))
        return Wiring(tuple(reversed(kept)))

    @property
    def is_plain(self) -> bool:
        """Whether this is one stream of self-attentions, of which the rules need a single row."""
        return all(isinstance(step, SelfStep) for step in self.steps) and len(self.streams) == 1


@dataclass(frozen=True)
class Readout:
    """Which tokens of a stream the score is read from, for every row of the result.

    A *row* is one score that is explained: an image with its class, a text against an image, a box.
    """

    stream: str
    weights: Float[Tensor, "row token"]
    """One where the score reads ([CLS], the end token, a box query), equal shares where it reads a mean.

    With `pool` these are weights of the pooling queries, usually (row, 1) ones.
    """
    pool: Site | None = None
    """The attention (row, head, query, token) that gathers the stream after its last layer (SigLIP)."""


@dataclass(frozen=True)
class Segment:
    """Where the tokens of one modality lie in a stream, and what they mean to a person."""

    kind: Literal["image", "text", "regions", "target_text"]
    stream: str
    positions: slice
    """Which tokens of the stream, without [CLS] and registers. Text keeps the length of `input_ids`."""
    grid: tuple[int, int] | None = None
    """For an image: patches (height, width), rows first."""
    mask: Bool[Tensor, "row token"] | None = None
    """Which of these tokens mean something to a person; the others (padding, [CLS], [SEP]) are set to 0."""
