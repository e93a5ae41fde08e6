"""What to want of a prompt's words: Attend-and-Excite, as its authors published it and corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from . import losses
from .errors import GuidanceError
from .maps import AttentionMaps
from .optimizer import GradientStep, RelativeStep, Schedule, Step
from .tokens import Span, find_spans, last_token, spans_from_indices

Words = Sequence[str] | Sequence[Sequence[str]] | None
Indices = Sequence[int | tuple[int, ...]] | Sequence[Sequence[int | tuple[int, ...]]] | None


@dataclass(frozen=True)
class AttendAndExcite:
    """No subject neglected: each word of interest must be attended to somewhere in the image.

    Source: Chefer et al., "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion
    Models" (SIGGRAPH 2023). Loss: `losses.attend_and_excite`, plus `overlap_weight` times `losses.overlap`.
    What this default corrects: all tokens of a word count; the softmax runs over the prompt's own tokens (no
    end token, no padding); the Gaussian has the sigma it says; points of time are fractions of the
    trajectory; the step is a share of the latents' norm, whatever scheduler and model; refinement ends when
    it has reached its aim. `AttendAndExcite.paper` is the method as published.

    Args:
        words: words or phrases of the prompt (`"cat"`, `"red bow"`, `"dog#2"`), one list for all prompts or
            a list a prompt. None, with no `token_indices`: every content word (see `tokens.find_spans`).
        token_indices: positions in the tokenized prompt instead of words (0 is the start token), as
            diffusers counts; one list for all prompts or a list a prompt, in which a tuple joins the tokens
            of one word.
        schedule: when to nudge and to refine.
        step: how far; `RelativeStep` or `GradientStep`.
        max_refinements: at most so many refinement moves at each of the schedule's thresholds.
        reduction: "max" looks at the most neglected word, "mean" at all that are neglected.
        overlap_weight: how much it matters that words do not look at the same place; 0 for not at all.
        published: read the attention as the authors' code does (see `losses.Reading`) and refine as it does.

    Raises:
        GuidanceError: both words and token_indices are given.
    """

    words: Words = None
    token_indices: Indices = None
    schedule: Schedule = field(default_factory=Schedule)
    step: Step = field(default_factory=RelativeStep)
    max_refinements: int = 20
    reduction: str = "max"
    overlap_weight: float = 0.0
    published: bool = False

    def __post_init__(self) -> None:
        if self.words is not None and self.token_indices is not None:
            raise GuidanceError("give words or token_indices, not both")
        if isinstance(self.words, str):
            object.__setattr__(self, "words", [self.words])

    @classmethod
    def paper(
        cls,
        token_indices: Indices = None,
        words: Words = None,
        *,
        max_iter_to_alter: int = 25,
        thresholds: Mapping[int, float] | None = None,
        scale_factor: float = 20.0,
    ) -> AttendAndExcite:
        """Attend-and-Excite exactly as its authors' code and diffusers' pipeline compute it, with their
        arguments.

        Thresholds and `max_iter_to_alter` count steps (the defaults are meant for 50); `scale_factor` is the
        step size that suits Stable Diffusion 1, and the authors' softmax includes end token and padding.
        """
        points = {0: 0.05, 10: 0.5, 20: 0.8} if thresholds is None else thresholds
        schedule = Schedule(
            thresholds={float(step): height for step, height in points.items()},
            until=max_iter_to_alter,
            unit="step",
        )
        return cls(words, token_indices, schedule, GradientStep(scale_factor), published=True)

    def spans(
        self, tokenizer: Any, prompts: Sequence[str] | None, images: int
    ) -> tuple[tuple[Span, ...], ...]:
        """The spans of each prompt; `images` is the number of prompts where only their embeddings are known.

        Raises:
            TokenNotFoundError: a word or index that a prompt does not have.
            GuidanceError: no prompt to find words in, or lists for another number of prompts.
        """
        if self.token_indices is not None:
            wanted = _one_a_prompt(self.token_indices, images, "token_indices", (int, tuple))
            texts = prompts if prompts is not None else [None] * images
            return tuple(
                spans_from_indices(tokenizer, text, own) for text, own in zip(texts, wanted, strict=True)
            )
        if prompts is None:
            raise GuidanceError(
                "prompt_embeds came without a prompt, so words cannot be found; give token_indices, the "
                "positions of the subjects' tokens in the sequence that was embedded"
            )
        words = _one_a_prompt(self.words, images, "words", str)
        return tuple(find_spans(tokenizer, text, own) for text, own in zip(prompts, words, strict=True))

    def last(self, tokenizer: Any, prompts: Sequence[str] | None) -> list[int] | None:
        """Where each prompt's own tokens end; None if end token and padding compete (as published)."""
        if self.published or prompts is None:
            return None
        return [last_token(tokenizer, prompt) for prompt in prompts]

    def word_maps(
        self, maps: AttentionMaps, spans: losses.Spans, last: Sequence[int] | None
    ) -> list[Float[Tensor, "_span height width"]]:
        """Each image's map of each span, 0 to 1, as the loss reads it."""
        return losses.subject_maps(maps, spans, last=last, published=self.published)

    def loss(
        self, maps: AttentionMaps, spans: losses.Spans, last: Sequence[int] | None
    ) -> Float[Tensor, "batch"]:
        """The loss of each image."""
        reading: losses.Reading = {"last": last, "published": self.published}
        total = losses.attend_and_excite(maps, spans, reduction=self.reduction, **reading)
        if self.overlap_weight:
            total = total + self.overlap_weight * losses.overlap(maps, spans, **reading)
        return total


def _one_a_prompt(given: Any, images: int, name: str, kind: type | tuple[type, ...]) -> list[Any]:
    if given is None:
        return [None] * images
    if not given or all(isinstance(one, kind) for one in given):
        return [given] * images
    if len(given) != images:
        raise GuidanceError(
            f"{name} has {len(given)} lists for {images} prompt{'s'[: images != 1]}; give one list a prompt"
        )
    return list(given)
