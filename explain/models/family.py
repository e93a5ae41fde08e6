"""What an adapter says of a family of models: how it is wired, what it was asked, where its score is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ..wiring import Readout, Segment, Site, Wiring

Target = int | str | Callable[[Any], Tensor] | Sequence[int] | Sequence[str] | None
"""A class id, a label, a text, a box index, several of these, a function of the outputs; None chooses."""


@runtime_checkable
class Found(Protocol):
    """What a forward under `capture` leaves behind for an adapter to read."""

    @property
    def attention(self) -> Mapping[Site, Float[Tensor, "batch head query key"]]:
        """Probabilities by site, in the order of the forward."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Outputs of the modules that the family watches, in the autograd graph."""


@dataclass(frozen=True)
class Reading:
    """What one forward explains: a score for every row, and how the rows lie in the model's streams."""

    scores: Float[Tensor, "row"]
    targets: tuple[str, ...]
    """The target of every row in words."""
    readouts: tuple[Readout, ...]
    """One a tower: CLIP has two, of which each explains its own stream."""
    segments: tuple[Segment, ...]
    shared: frozenset[str] = frozenset()
    """Streams that were encoded once for all rows: their batch is 1 while there are several rows."""
    fixed: Target = None
    """The target that names the same rows for a changed input, where the one asked for might not."""
    score_of: Callable[[Any], Tensor] | None = None
    """The same question to other outputs: the rows' scores, were these the model's answer."""
    coupled: bool = False
    """Whether a row's score may depend on other rows' inputs, as a callable's can (a softmax over texts)."""


class Family(ABC):
    """One adapter. Stateless; everything it needs comes with the call."""

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    """Class names of the models it takes, as transformers spells them; subclasses come along."""
    refuses: ClassVar[Mapping[str, str]] = {}
    """Methods that have no meaning here, each with the reason, as a sentence that can follow a colon."""
    pixels: ClassVar[str | None] = "pixel_values"
    """The input that holds the image, if there is one: for the methods that only look from outside."""
    asked_by_inputs: ClassVar[bool] = False
    """Whether the inputs alone say what is explained, so that the target None names it (CLIP's texts)."""

    @abstractmethod
    def wiring(self, model: nn.Module) -> Wiring:
        """All attentions of the model, pooling ones left out: a readout names those."""

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        """All attentions that a forward must show, pooling ones included."""
        return self.wiring(model).sites

    @abstractmethod
    def embeddings(self, model: nn.Module) -> Mapping[str, str]:
        """For each stream the module whose output are the tokens that enter its first layer."""

    def layers(self, model: nn.Module) -> Mapping[str, tuple[str, ...]]:
        """For each stream the modules whose outputs are its tokens after each self-attention layer."""
        return {}

    def watches(self, model: nn.Module) -> tuple[str, ...]:
        """Further modules whose outputs `read` wants to see."""
        return ()

    @abstractmethod
    def check(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        """Refuse, before the forward, inputs on which the model would fail obscurely or answer nonsense."""

    @abstractmethod
    def read(
        self, model: nn.Module, inputs: Mapping[str, Any], outputs: Any, found: Found, target: Target
    ) -> Reading:
        """Resolve the target on the outputs.

        Raises:
            TargetError: for a label, class, text or box that is not there.
        """

    def layer_scores(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        outputs: Any,
        reading: Reading,
        readout: Readout,
        hidden: Float[Tensor, "batch token channel"],
    ) -> Float[Tensor, "row"]:
        """The rows' scores, were the model's head to read these tokens of a lower layer (LeGrad)."""
        raise NotImplementedError
