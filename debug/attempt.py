"""Carries out one attempt at a prompt: the plain and the guided image, what they attended to, what they show.

Both images are drawn from the same noise with attention recorded; the plain one by a guidance whose step has
no length, which only looks. The pipeline is left as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import torch
from PIL import Image

from .. import explain
from ..explain import Verdict
from ..guidance import (
    AttendAndExcite,
    AttentionRecord,
    GuidanceError,
    GuidedRun,
    RelativeStep,
    Span,
    StepLog,
    find_spans,
    guide,
    record,
)
from ..guidance.encoding import encode
from ..guidance.parts import parts_of
from ..pipelines.choices import (
    SCHEDULERS,
    heeds_negative_prompt,
    host_for,
    own_guidance_scale,
    own_size,
    scheduler,
)
from ..pipelines.retry import strengthened
from .errors import AttemptError, Cancelled
from .settings import AttemptSettings

__all__ = ["Attempt", "AttemptError", "AttemptSettings", "Cancelled", "Drawn", "attempt"]

PLAIN: Final = "plain"
GUIDED: Final = "guided"
CHECK: Final = "check"

Watch = Callable[[str, int, int, float | None], None]
"""`watch(what, done, total, loss)`: what is "plain", "guided" or "check"; the loss is None if not known."""
Checker = Callable[[Image.Image, tuple[str, ...], str], Verdict]
"""`checker(image, words, prompt)`: says of each word whether it is in the image."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """One of the two images, how it came about, and what it shows.

    Attributes:
        kind: "plain" or "guided".
        image: what came out.
        run: the loss and the words' attention at each step that was probed.
        record: the attention of every word, resolved by step.
        verdict: for each guided word whether it is in the image; None where it was not checked.
        judged: on the embedded model, for each guided word that its judge knows: "heeded" or "neglected".
    """

    kind: str
    image: Image.Image
    run: GuidedRun
    record: AttentionRecord
    verdict: Verdict | None = None
    judged: Mapping[str, str] | None = None

    @property
    def spans(self) -> tuple[Span, ...]:
        """The words that were guided, or only watched in the plain image."""
        return self.run.spans[0]


@dataclass(frozen=True, eq=False)
class Attempt:
    """The plain and the guided image of the same noise, and how many seconds each part took."""

    settings: AttemptSettings
    plain: Drawn
    guided: Drawn
    seconds: Mapping[str, float]

    def __repr__(self) -> str:
        words = ", ".join(span.label for span in self.guided.spans)
        return f"Attempt({self.settings.prompt!r}, words: {words}, seed {self.settings.seed})"

    def _repr_html_(self) -> str:
        from .notebook import html_of

        return html_of(self)


def attempt(
    pipe: Any,
    settings: AttemptSettings,
    *,
    watch: Watch | None = None,
    cancelled: Callable[[], bool] | None = None,
    check: bool | Checker = True,
) -> Attempt:
    """Draw a prompt plain and guided, record where every word looked, and check what came out.

    Args:
        pipe: the loaded pipeline of `settings.model`; its device and type decide where this runs. It is left
            as it was.
        settings: what to draw. With strength 0 the guided image is the plain one, drawn once.
        watch: told of each denoising step.
        cancelled: asked before each of the denoiser's calls, probes included.
        check: True asks the embedded CLIP, which knows the embedded model's world only; other models are not
            checked. A function `(image, words, prompt) -> Verdict` checks any.

    Raises:
        Cancelled: as soon as `cancelled()` is true.
        AttemptError: a scheduler that is not there, what the pipeline refuses, or too little memory.
        GuidanceError: words that the prompt does not hold, and what else guidance refuses.
    """
    work = _Work(pipe, settings, watch or (lambda *_: None), cancelled or (lambda: False))
    with _told_plainly(), work.prepared():
        drawn = [work.draw(PLAIN)]
        drawn.append(work.draw(GUIDED) if settings.strength else replace(drawn[0], kind=GUIDED))
    plain, guided = work.check(drawn, check)
    return Attempt(settings, plain, guided, dict(work.seconds))


class _Work:
    """One attempt on its way: the pipeline, whom to tell, whom to ask, and the seconds that it took."""

    def __init__(
        self, pipe: Any, settings: AttemptSettings, watch: Watch, cancelled: Callable[[], bool]
    ) -> None:
        if settings.scheduler is not None and settings.scheduler not in SCHEDULERS:
            raise AttemptError(
                f'scheduler must be one of {", ".join(SCHEDULERS)}; got "{settings.scheduler}"'
            )
        if settings.negative_prompt and not heeds_negative_prompt(pipe):
            raise AttemptError(f"{type(pipe).__name__} heeds no negative prompt; leave it empty")
        self.pipe, self.settings, self.watch, self.cancelled = pipe, settings, watch, cancelled
        self.host = host_for(pipe, settings.prompt)
        self.seconds: dict[str, float] = {}

    def stop_if_cancelled(self, *_: Any) -> None:
        if self.cancelled():
            raise Cancelled("the attempt was cancelled; nothing is kept of it")

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Within the block the pipeline has the scheduler asked for, and asks whether to go on."""
        own, threads = self.pipe.scheduler, torch.get_num_threads()
        handle = self.host.denoiser.register_forward_pre_hook(self.stop_if_cancelled)
        try:
            if self.settings.scheduler is not None:
                self.pipe.scheduler = scheduler(self.pipe, self.settings.scheduler)
            if self.settings.model is None and self.pipe.device.type == "cpu":
                torch.set_num_threads(1)  # as `heedful generate` does: the last bit of a sum depends on it
            yield
        finally:
            self.pipe.scheduler = own
            torch.set_num_threads(threads)
            handle.remove()

    def draw(self, kind: str) -> Drawn:
        self.stop_if_cancelled()
        loss: float | None = None

        def probed(step: StepLog) -> None:
            nonlocal loss
            loss = step.losses[0]

        def stepped(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            self.watch(kind, index + 1, self.pipe.num_timesteps, loss)
            return tensors

        with (
            self._timed(kind),
            guide(self.pipe, self._objective(kind), progress=probed) as session,
            record(self.pipe, self._recorded_words(), resolve=("step",)) as recording,
        ):
            image = self.pipe(**self._arguments(), callback_on_step_end=stepped).images[0]
        return Drawn(kind, image, session.run, recording.record)

    def check(self, drawn: list[Drawn], check: bool | Checker) -> list[Drawn]:
        embedded = self.settings.model is None
        device = str(self.pipe.device)
        checker = _embedded_checker(device) if check is True and embedded else check
        with self._timed(CHECK):
            checked: list[Drawn] = []
            for number, one in enumerate(drawn):
                self.stop_if_cancelled()
                self.watch(CHECK, number, len(drawn), None)
                words = tuple(span.label for span in one.spans)
                verdict = checker(one.image, words, self.settings.prompt) if callable(checker) else None
                judged = _judged(one, device) if embedded and check else None
                checked.append(replace(one, verdict=verdict, judged=judged))
            self.watch(CHECK, len(drawn), len(drawn), None)
        return checked

    def _objective(self, kind: str) -> AttendAndExcite:
        objective = AttendAndExcite(words=self.settings.words)
        if kind == PLAIN:  # a step of no length changes no pixel
            return replace(objective, step=RelativeStep(0.0), max_refinements=0)
        return strengthened(objective, self.settings.strength)

    def _recorded_words(self) -> list[str] | None:
        """Every word of the prompt, and the phrases that are guided; None where there are no phrases."""
        tokenizer, prompt = self.host.tokenizer, self.settings.prompt
        every = parts_of(tokenizer, prompt, len(encode(tokenizer, prompt).ids)).words
        guided = find_spans(tokenizer, prompt, self.settings.words)
        phrases = [span.label for span in guided if span not in every]
        return [*(span.label for span in every), *phrases] if phrases else None

    def _arguments(self) -> dict[str, Any]:
        asked = self.settings
        width, height = asked.size or own_size(self.pipe)
        scale = asked.guidance_scale
        return {
            "prompt": asked.prompt,
            **({"negative_prompt": asked.negative_prompt} if asked.negative_prompt else {}),
            "width": width,
            "height": height,
            "num_inference_steps": asked.steps,
            "guidance_scale": own_guidance_scale(self.pipe, asked.model) if scale is None else scale,
            "generator": torch.Generator("cpu").manual_seed(asked.seed),
        }

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - begin


@contextmanager
def _told_plainly() -> Iterator[None]:
    """Turns what a pipeline refuses, and running out of memory, into one line."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise AttemptError("out of memory; take a smaller size, or float16 on a GPU") from problem
    except (GuidanceError, AttemptError):
        raise
    except ValueError as problem:
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise AttemptError(f"the pipeline refused: {first[:300]}") from problem


@lru_cache(maxsize=1)
def _judge(device: str) -> Any:
    from ..emoji import load_judge

    return load_judge(device)


@lru_cache(maxsize=1)
def _classifier(device: str) -> Any:
    from ..emoji import load_classifier

    return load_classifier(device)


def _judged(drawn: Drawn, device: str) -> dict[str, str]:
    """What the judge says of the words it knows; a second frog it cannot tell from the first."""
    sighting = _judge(device)([drawn.image])[0]
    labels = {span.label: " ".join(span.text.lower().split()) for span in drawn.spans if span.occurrence == 1}
    return {
        word: "heeded" if sighting.sees(label) else "neglected"
        for word, label in labels.items()
        if label in sighting.scores
    }


def _embedded_checker(device: str) -> Checker:
    """The embedded CLIP, and the embedded classifier as a second witness where it knows one of the words."""

    def checker(image: Image.Image, words: tuple[str, ...], prompt: str) -> Verdict:
        classifier = _classifier(device)
        labels = {label.casefold() for label in classifier.config.id2label.values()}
        known = any(word.casefold() in labels for word in words)
        witness = classifier if known else None
        return explain.check(image, list(words), prompt=prompt, classifier=witness, device=device)

    return checker
