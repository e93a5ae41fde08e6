"""What to want of a prompt's words: any sum of losses, and Attend-and-Excite as published and corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from .errors import GuidanceError
from .limits import Limits
from .losses import (
    Last,
    Loss,
    Losses,
    Spans,
    attend_and_excite,
    attention_peak,
    overlap,
    subject_maps,
    weighted,
    weighted_sum,
)
from .maps import AttentionMaps
from .optimizer import GradientStep, RelativeStep, Schedule, Step
from .start import Start
from .tokens import Span, find_spans, own_tokens, spans_from_indices
from .wants import Boxes, Groups, find_context, needed, one_a_prompt

AT_ONCE = Schedule({}, until=0.52, enough={0.0: 0.42, 0.32: 0.66})
"""Every image from the first step on, until it has nearly all attention that is to be had. The image stays
near to what its noise would have become, and costs about an eighth more where nobody was neglected."""
NEGLECTED = Schedule(
    {},
    since=0.05,
    until=0.72,
    enough={0.04: 0.26, 0.08: 0.31, 0.12: 0.37, 0.2: 0.43, 0.32: 0.49, 0.48: 0.5},
    moves_per_probe=2,
    restart={0.08: 0.2, 0.2: 0.23, 0.32: 0.37, 0.44: 0.4},
    anew=AT_ONCE,
)
"""The default's: the pipeline's own passes are watched for nothing; who lacks attention is nudged, sparingly,
and who lacks it still begins anew and is helped at once.

Measured on the embedded model: of the pairs that need no help one in thirty begins anew, of those that lack a
subject one in four, and one in twenty is left wholly alone (figures in docs/losses.md)."""
THOROUGH = Schedule({}, until=0.0, restart={0.08: 0.25, 0.2: 0.29, 0.32: 0.36, 0.6: 0.41}, anew=AT_ONCE)
"""Plain sampling, watched; more images begin anew than by default, and none is nudged before: more success
for more cost (figures in docs/losses.md)."""
THRIFTY = Schedule(
    {},
    since=0.05,
    until=0.72,
    enough={0.04: 0.32, 0.08: 0.37, 0.12: 0.43, 0.2: 0.49, 0.32: 0.55, 0.48: 0.56},
    moves_per_probe=2,
)
"""Help for the clearly neglected alone: less success for less cost, and next to none where no help is
needed (figures in docs/losses.md). Measured on the embedded model: at each point fewer than a tenth of
the images that need no help have less attention, and first a third, later four fifths of those that lack
a subject."""
Words = Sequence[str] | Sequence[Sequence[str]] | None
Indices = Sequence[int | tuple[int, ...]] | Sequence[Sequence[int | tuple[int, ...]]] | None


@dataclass(frozen=True)
class Objective:
    """Any sum of losses: what is wanted of the attention to the prompt's words.

    `Objective({attend_and_excite: 1.0, symmetric_kl_binding: 0.5}, words=["cat", "red bow"])`. The losses are
    those of `heedful.guidance.losses`, with settings by `functools.partial`, and any function `(maps, spans)
    -> one value an image`; what one needs besides (`losses.needs`) is found in the prompt or asked for here,
    and checked before the pipeline runs.

    Args:
        losses: a mapping of loss to weight, or a list of losses that all weigh 1.
        words: words or phrases of the prompt (`"cat"`, `"red bow"`, `"dog#2"`), one list for all prompts or
            a list a prompt. None, with no `token_indices`: the words that have boxes, or else every content
            word (see `tokens.find_spans`).
        token_indices: positions in the tokenized prompt instead of words (0 is the start token), as
            diffusers counts; one list for all prompts or a list a prompt, in which a tuple joins the tokens
            of one word.
        schedule: when to nudge, and when to refine until the sum is at most 1 - threshold. The default
            refines never, because what a good value is depends on the losses.
        step: how far; `RelativeStep` or `GradientStep`.
        max_refinements: at most so many refinement moves at each of the schedule's thresholds.
        groups: nouns with their modifiers, for losses that bind them: phrases (`"red bow"`) or tuples of
            words, the noun last (`("red", "bow")`), one list for all prompts or a list a prompt, or a
            function of the prompt, such as `spacy_groups()`. None: the words' own modifiers, see
            `groups.groups_of`.
        boxes: where words are wanted, for losses that place them: a mapping of word to (left, top, right,
            bottom) in shares of the image, or to a mask (height, width); one for all prompts or one a
            prompt.
        start: what is done to the initial latents: `Rectify`, `OptimisedNoise`, or None for nothing.
        limits: how far the latents may be taken, and a guard against leaving the distribution; None for as
            far as the steps go.

    Raises:
        GuidanceError: no loss, a weight that is no finite number, or both words and token_indices.
    """

    losses: Losses
    words: Words = None
    token_indices: Indices = None
    schedule: Schedule = field(default_factory=lambda: Schedule({}))
    step: Step = field(default_factory=RelativeStep)
    max_refinements: int = 20
    groups: Groups = field(default=None, kw_only=True)
    boxes: Boxes = field(default=None, kw_only=True)
    start: Start | None = field(default=None, kw_only=True)
    limits: Limits | None = field(default_factory=lambda: Limits(step=0.3), kw_only=True)
    published = False  # read and refine as the authors of Attend-and-Excite do

    def __post_init__(self) -> None:
        weighted(self.losses)
        if self.words is not None and self.token_indices is not None:
            raise GuidanceError("give words or token_indices, not both")
        if isinstance(self.words, str):
            object.__setattr__(self, "words", [self.words])

    @property
    def needs(self) -> frozenset[str]:
        """All that any of the losses needs or takes, see `losses.needs`."""
        return needed(self.losses)

    def spans(
        self, tokenizer: Any, prompts: Sequence[str] | None, images: int
    ) -> tuple[tuple[Span, ...], ...]:
        """The spans of each prompt; `images` is the number of prompts where only their embeddings are known.

        Raises:
            TokenNotFoundError: a word or index that a prompt does not have.
            GuidanceError: no prompt to find words in, or lists for another number of prompts.
        """
        if self.token_indices is not None:
            wanted = one_a_prompt(self.token_indices, images, "token_indices", _holds(int, tuple))
            texts = prompts if prompts is not None else [None] * images
            return tuple(
                spans_from_indices(tokenizer, text, own) for text, own in zip(texts, wanted, strict=True)
            )
        if prompts is None:
            raise GuidanceError(
                "prompt_embeds came without a prompt, so words cannot be found; give token_indices, the "
                "positions of the subjects' tokens in the sequence that was embedded"
            )
        words = one_a_prompt(self._asked(), images, "words", _holds(str))
        return tuple(find_spans(tokenizer, text, own) for text, own in zip(prompts, words, strict=True))

    def last(self, tokenizer: Any, prompts: Sequence[str] | None) -> Last | None:
        """Where each prompt's own tokens end, or their ranges; None if end token and padding compete (as
        published)."""
        if self.published or prompts is None:
            return None
        return [own_tokens(tokenizer, prompt) for prompt in prompts]

    def context(
        self, tokenizer: Any, prompts: Sequence[str] | None, spans: Sequence[Sequence[Span]]
    ) -> dict[str, list[Any]]:
        """What the losses take of each prompt besides, by keyword, an entry a prompt; checked.

        Raises:
            GuidanceError, TokenNotFoundError: a loss does not get what it needs.
        """
        return find_context(self.losses, tokenizer, prompts, spans, self.groups, self.boxes)

    def word_maps(
        self, maps: AttentionMaps, spans: Spans, last: Last | None
    ) -> list[Float[Tensor, "_span height width"]]:
        """Each image's map of each span, 0 to 1, as the losses read it by default."""
        return subject_maps(maps, spans, last=last, published=self.published)

    def loss(
        self, maps: AttentionMaps, spans: Spans, last: Last | None, **context: Any
    ) -> Float[Tensor, "batch"]:
        """The loss of each image; `context` is what `context` found, and `previous` maps."""
        return weighted_sum(self.losses, maps, spans, last=last, **context)

    def for_start(self) -> Objective:
        """The objective whose losses the start looks at: this one, or one with the start's own losses."""
        if self.start is None or self.start.losses is None:
            return self
        names = ("words", "token_indices", "groups", "boxes")
        return Objective(self.start.losses, **{name: getattr(self, name) for name in names})

    def _asked(self) -> Words:
        if self.words is not None or not self.boxes:
            return self.words
        return list(self.boxes) if isinstance(self.boxes, Mapping) else [list(one) for one in self.boxes]


@dataclass(frozen=True)
class AttendAndExcite(Objective):
    """No subject neglected: each word of interest must be attended to somewhere in the image.

    Source: Chefer et al., "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion
    Models" (SIGGRAPH 2023). Loss: `losses.attention_peak`, plus `overlap_weight` times `losses.overlap`.
    What this default changes, and why (figures in docs/losses.md): attention is read as it is, for a
    softmax over the text takes words for attended which are not; all neglected words pull at once; one
    move a step while a word is neglected takes the place of refinement, an image that has attention
    enough is left alone (see `Schedule.enough`); all tokens of a word count; points of time are fractions
    of the trajectory; the step is a share of the latents' norm, whatever scheduler and model.
    `AttendAndExcite.paper` is the method as published, `reading="softmax"` its loss with what is wrong in it
    corrected: the softmax runs over the prompt's own tokens (no end token, no padding), and the Gaussian has
    the sigma it says.

    Args:
        words: words or phrases of the prompt (`"cat"`, `"red bow"`, `"dog#2"`), one list for all prompts or
            a list a prompt. None, with no `token_indices`: every content word (see `tokens.find_spans`).
        token_indices: positions in the tokenized prompt instead of words (0 is the start token), as
            diffusers counts; one list for all prompts or a list a prompt, in which a tuple joins the tokens
            of one word.
        schedule: when to nudge and to refine.
        step: how far; `RelativeStep` or `GradientStep`.
        max_refinements: at most so many refinement moves at each of the schedule's thresholds.
        reduction: "mean" looks at all words that are neglected, "max" at the most neglected one.
        reading: "attention" reads attention as it is (`losses.attention_peak`), "softmax" after a softmax
            over the text (`losses.attend_and_excite`).
        overlap_weight: how much it matters that words do not look at the same place; 0 for not at all.
        published: read the attention as the authors' code does (see `losses.Reading`) and refine as it does.
        start, limits: as for `Objective`; no limits unless they are given.

    Raises:
        GuidanceError: both words and token_indices are given, or another reading.
    """

    losses: Losses = field(init=False, repr=False, compare=False)
    schedule: Schedule = field(default_factory=lambda: NEGLECTED)
    groups: Groups = field(default=None, init=False, repr=False)
    boxes: Boxes = field(default=None, init=False, repr=False)
    limits: Limits | None = field(default=None, kw_only=True)
    reduction: str = "mean"
    overlap_weight: float = 0.0
    published: bool = False
    reading: str = "attention"

    def __post_init__(self) -> None:
        if self.reading not in ("attention", "softmax"):
            raise GuidanceError(f'reading is "attention" or "softmax"; got {self.reading!r}')
        excite: Loss = partial(attend_and_excite, reduction=self.reduction, published=self.published)
        if self.reading == "attention":
            excite = partial(attention_peak, reduction=self.reduction)
        apart = partial(overlap, published=self.published)
        terms: dict[Loss, float] = {excite: 1.0}
        object.__setattr__(
            self, "losses", {**terms, apart: self.overlap_weight} if self.overlap_weight else terms
        )
        super().__post_init__()

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
        step = GradientStep(scale_factor)
        return cls(words, token_indices, schedule, step, reduction="max", published=True, reading="softmax")

    def context(
        self, tokenizer: Any, prompts: Sequence[str] | None, spans: Sequence[Sequence[Span]]
    ) -> dict[str, list[Any]]:
        """Nothing: both losses do with the spans, and one word overlaps with none."""
        return {}


def _holds(*kinds: type) -> Any:
    """Whether a list is of these and thus meant for all prompts."""
    return lambda given: not given or all(isinstance(one, kinds) for one in given)
