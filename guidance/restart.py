"""Begins a pipeline's call anew for images that neglect a word, while the others follow their own way again.

What is lost by waiting can be had back: an image is on trial while the pipeline's own passes are watched, and
only one that neglects a word is paid for. A call cannot be wound back, so it is given up and made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from .denoiser import DenoiserCall
from .intercept import Given, as_given
from .limits import Latents
from .optimizer import Probed


class BeginAnew(Exception):
    """Signals that images begin anew: the pipeline's call is given up, and made again."""

    def __init__(self, attempts: Attempts) -> None:
        super().__init__("images begin anew")
        self.attempts = attempts


@dataclass
class _Step:
    """What a step began with, moved as it was, and what each of its calls of the denoiser returned."""

    latents: Latents
    outputs: list[Tensor] = field(default_factory=list)


class Attempts:
    """Which images of a call are on trial, which have begun anew, and where the others were by then.

    The tape of earlier steps is kept only where there are several images.

    Attributes:
        on_trial: the images that nothing has been done for yet.
        anew: the images that began anew last.
        repeated: for each image the number of steps that were given up when it began anew.
    """

    def __init__(self, images: int, on_trial: bool, generators: Any) -> None:
        """`generators` are those of the call, where each image has its own."""
        self.on_trial: Bool[Tensor, "image"] = torch.full((images,), on_trial)
        self.anew: Int[Tensor, "row"] = torch.arange(0)
        self.repeated = [0] * images
        self.own = generators if isinstance(generators, Sequence) and len(generators) == images else None
        self._states = [one.get_state() for one in self.own or ()]
        self._followed = torch.zeros(images, dtype=torch.long)
        self._tape: list[_Step] = []
        self._seen: dict[int, Probed] = {}
        self._live: Int[Tensor, "row"] | None = None
        self._calls = 0

    @property
    def images(self) -> int:
        """Number of images of the call."""
        return len(self.on_trial)

    def decide(self, index: int, lacking: Bool[Tensor, "*image"] | None, seen: Probed | None) -> None:
        """Before the step of this index, begin anew with those images on trial which are `lacking`.

        `seen` is what was seen of all images before it.

        Raises:
            BeginAnew: where there are any.
        """
        if self.images > 1 and seen is not None:
            self._seen[index] = seen
        if lacking is None or not (lacking & self.on_trial).any():
            return
        lacking = lacking & self.on_trial
        self.anew = lacking.nonzero().flatten()
        self.on_trial = self.on_trial & ~lacking
        self._followed = torch.where(lacking, 0, torch.clamp(self._followed, min=index))
        for row in self.anew.tolist():
            self.repeated[row] += index
            if self.own is not None:
                self._states[row] = self.own[row].get_state()
        raise BeginAnew(self)

    def rewind(self) -> None:
        """Give the generators of images that follow the tape the state that they began with."""
        for generator, state in zip(self.own or (), self._states, strict=True):
            generator.set_state(state)

    def live(self, index: int) -> Int[Tensor, "row"]:
        """The images that are denoised at this step; the others follow the tape."""
        return (self._followed <= index).nonzero().flatten()

    def earlier(self, index: int) -> Probed | None:
        """What was seen of all images before this step when it was made last, or after the first one."""
        return self._seen.get(max(index, 1))

    def follows(self, index: int) -> bool:
        """Whether an image follows the tape at this step."""
        return bool((self._followed > index).any())

    def begin_step(self) -> None:
        """A step begins, of which nothing is known yet."""
        self._live, self._calls = None, 0

    def follow(self, index: int, latents: Latents, alone: bool) -> Latents:
        """The latents with those of images that follow the tape put in, which is where they were.

        The step is put on tape.

        Args:
            index: the step's.
            latents: those of the step, moved.
            alone: nobody else sees the denoiser's calls; then it is called for the other images alone.
        """
        outputs: list[Tensor] = []
        if self.follows(index):
            before = self._tape[index]
            others = (self._followed > index).to(latents.device)[:, None, None, None]
            latents, outputs = torch.where(others, before.latents, latents), before.outputs
            self._live = self.live(index) if alone else None
        if self.images > 1:
            self._tape[index : index + 1] = [_Step(latents, outputs)]
        return latents

    def shortened(self, given: Given, call: DenoiserCall) -> Given:
        """The arguments of a call of the denoiser for the images alone that do not follow the tape."""
        if self._live is None:
            return given
        part = call.rows(self._rows(len(call.sample)).to(call.sample.device))
        return as_given(call.module, given, part.arguments)

    def completed(self, index: int, output: Any) -> Any:
        """The denoiser's output with that of images that follow the tape put in; it is put on tape."""
        if index >= len(self._tape):
            return output
        tape, found = self._tape[index].outputs, output[0]
        if self._live is not None:
            whole = tape[self._calls].clone()
            whole[self._rows(len(whole)).to(whole.device)] = found
            found, output = whole, _with_first(output, whole)
        tape[self._calls : self._calls + 1] = [found.detach().clone()]
        self._calls += 1
        return output

    def _rows(self, rows: int) -> Int[Tensor, "row"]:
        """Which rows of a batch of several parts, a row an image each, are of images that are denoised."""
        assert self._live is not None
        return torch.cat([self._live + first for first in range(0, rows, self.images)])


def _with_first(output: Any, first: Tensor) -> Any:
    """A denoiser's output, a tuple or one of diffusers' mappings, with another first entry."""
    if isinstance(output, Mapping):
        return type(output)(**{**output, next(iter(output)): first})
    return (first, *output[1:])


_observers: dict[int, list[Callable[[], None]]] = {}  # by the denoiser's id, whoever sees its calls


@contextmanager
def observing(module: nn.Module, begin_anew: Callable[[], None]) -> Iterator[None]:
    """Within the block somebody sees the denoiser's calls, and is told when they begin anew."""
    found = _observers.setdefault(id(module), [])
    found.append(begin_anew)
    try:
        yield
    finally:
        found.remove(begin_anew)
        if not found:
            del _observers[id(module)]


def observers(module: nn.Module) -> Sequence[Callable[[], None]]:
    """All that see the denoiser's calls now, the outermost first."""
    return tuple(_observers.get(id(module), ()))
