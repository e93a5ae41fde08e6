"""Carries out `heedful generate`: loads the model, draws each prompt plain and guided, asks the judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..guidance import AttendAndExcite, GuidanceError, GuidedRun, RelativeStep, Span, StepLog, guide
from ..pipelines.choices import heeds_negative_prompt, host_for, own_guidance_scale, own_size, scheduler
from ..pipelines.retry import Checker, Tried, Try, best, plan, strengthened, until_heeded
from .loading import load_model, load_processor
from .loading_pipelines import load_pipeline
from .machine import choose, one_line
from .settings import GenerateSettings, Request, UsageError

PLAIN, GUIDED = "plain", "guided"
Watch = Callable[[str, int, int, "float | None"], None]
"""`watch(what, done, total, loss)` is told of every denoising step; the loss is None until one is known."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """One image, how it came about, and, on the embedded model, which words the judge sees in it.

    `seed` is the one asked for; with `--until-heeded` the image is the best of `tried`, which may have
    another.
    """

    request: Request
    seed: int
    kind: str
    image: Image.Image
    run: GuidedRun
    verdicts: tuple[str | None, ...] = ()
    tried: tuple[Tried, ...] = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        """The words that were watched or guided."""
        return self.run.spans[0]


def resolve(settings: GenerateSettings) -> GenerateSettings:
    """Fill in what was left to the machine: device, dtype, threads, the folder's full path.

    Raises:
        UsageError: a device that is not there, or float16 on a CPU.
    """
    device, dtype = choose(settings.device, settings.dtype)
    model = settings.model
    if model is not None and Path(model).is_dir():
        model = str(Path(model).resolve())
    # The embedded model is small: on a busy machine two threads wait for each other more than they work.
    alone = settings.model is None and torch.device(device).type == "cpu"
    threads = settings.threads or (1 if alone else torch.get_num_threads())
    return replace(settings, device=device, dtype=dtype, model=model, threads=threads)


def load(settings: GenerateSettings) -> Any:
    """The pipeline of resolved settings, its scheduler exchanged if asked for; safetensors only.

    Raises:
        UsageError: a model that is not there or cannot draw from a prompt, or a scheduler that is not for it.
    """
    pipe = load_pipeline(settings.model, settings.device, getattr(torch, settings.dtype or "float32"))
    pipe.set_progress_bar_config(disable=True)
    if settings.scheduler is not None:
        try:
            pipe.scheduler = scheduler(pipe, settings.scheduler)
        except ValueError as problem:
            raise UsageError(f"--scheduler: {one_line(problem)}") from problem
    return pipe


def fitted(pipe: Any, settings: GenerateSettings) -> GenerateSettings:
    """Fill in what was left to the model: size and guidance scale.

    Raises:
        UsageError: a negative prompt for a pipeline that takes none.
    """
    if settings.negative_prompt and not heeds_negative_prompt(pipe):
        raise UsageError(f"{type(pipe).__name__} heeds no negative prompt; leave out --negative-prompt")
    scale = settings.guidance_scale
    return replace(
        settings,
        size=settings.size or own_size(pipe),
        guidance_scale=own_guidance_scale(pipe, settings.model) if scale is None else scale,
    )


def check_words(pipe: Any, requests: Sequence[Request]) -> None:
    """Find every word before anything is drawn, so that a typing error in the last prompt shows at once.

    Raises:
        GuidanceError: a word that its prompt does not hold.
    """
    for request in requests:
        tokenizer = host_for(pipe, request.prompt).tokenizer
        AttendAndExcite(words=request.words).spans(tokenizer, [request.prompt], 1)


def draw(pipe: Any, settings: GenerateSettings, watch: Watch = lambda *_: None) -> Iterator[Drawing]:
    """Yield each prompt's images seed by seed, the plain one first if it is wanted.

    Each image is drawn alone from its own seed, so that no image depends on which others were asked for.

    Raises:
        GuidanceError: what guidance refuses.
        UsageError: what the pipeline refuses, or too little memory.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    settings = fitted(pipe, settings)
    judge, checker = _judge(settings), _checker(settings)
    for request in settings.requests:
        for seed in settings.seeds:
            for kind in (PLAIN, GUIDED) if settings.compare else (GUIDED,):
                if kind == GUIDED and checker is not None:
                    drawing = _draw_until_heeded(pipe, settings, request, seed, checker, watch)
                else:
                    drawing = _draw_one(pipe, settings, request, Try(settings.strength, seed), kind, watch)
                yield replace(drawing, verdicts=judge(drawing)) if judge else drawing


def _draw_until_heeded(
    pipe: Any,
    settings: GenerateSettings,
    request: Request,
    seed: int,
    checker: Checker,
    watch: Watch,
) -> Drawing:
    """The best of the tries; the first is what would be drawn without."""

    def draw(one: Try) -> Tried:
        drawing = _draw_one(pipe, settings, request, one, GUIDED, watch)
        words = [span.label for span in drawing.spans]
        verdict = checker(drawing.image, words, prompt=request.prompt)
        return Tried(one.strength, one.seed, drawing.image, verdict, drawing.run)

    tried = until_heeded(plan(settings.until_heeded or 1, seed, strength=settings.strength), draw)
    chosen = best(tried)
    return Drawing(request, seed, GUIDED, chosen.image, chosen.run, tried=tried)


def _draw_one(
    pipe: Any,
    settings: GenerateSettings,
    request: Request,
    one: Try,
    kind: str,
    watch: Watch,
) -> Drawing:
    stronger = f", strength {one.strength:g}" if kind == GUIDED and one.strength != 1 else ""
    title = f"{kind}, seed {one.seed}{stronger}: {request.prompt}"
    loss: float | None = None

    def probed(step: StepLog) -> None:
        nonlocal loss
        loss = step.losses[0]

    def stepped(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        watch(title, index + 1, pipe.num_timesteps, loss)
        return tensors

    width, height = settings.size or own_size(pipe)
    negative = {"negative_prompt": settings.negative_prompt} if settings.negative_prompt else {}
    with _ToldPlainly(), guide(pipe, _objective(request, kind, one.strength), progress=probed) as session:
        image = pipe(
            request.prompt,
            width=width,
            height=height,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(one.seed),
            callback_on_step_end=stepped,
            **negative,
        ).images[0]
    return Drawing(request, one.seed, kind, image, session.run)


def _objective(request: Request, kind: str, strength: float) -> AttendAndExcite:
    objective = AttendAndExcite(words=request.words)
    if kind == GUIDED and strength:
        return strengthened(objective, strength)
    # A step of no length only looks: the image is the bare pipeline's, and its attention can be compared.
    return replace(objective, step=RelativeStep(0.0), max_refinements=0)


class _ToldPlainly:
    """Turns what a pipeline refuses, and running out of memory, into one line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, problem: BaseException | None, _trace: Any) -> None:
        if isinstance(problem, torch.OutOfMemoryError):
            raise UsageError("out of memory; take a smaller --size, or --dtype float16 on a GPU") from problem
        if isinstance(problem, ValueError) and not isinstance(problem, GuidanceError):
            raise UsageError(f"the pipeline refused: {one_line(problem)}") from problem


def _judge(settings: GenerateSettings) -> Callable[[Drawing], tuple[str | None, ...]] | None:
    """What says *heeded* or *neglected* of each word; None for images of another world than the judge's."""
    if settings.model is not None:
        return None
    from ..emoji import load_judge

    try:
        judge = load_judge(device=settings.device)
    except OSError as problem:
        raise UsageError(f"cannot load the embedded judge: {one_line(problem)}") from problem

    def verdicts(drawing: Drawing) -> tuple[str | None, ...]:
        sighting = judge([drawing.image])[0]
        return tuple(_verdict(sighting, span) for span in drawing.spans)

    return verdicts


def _checker(settings: GenerateSettings) -> Checker | None:
    """What looks for each word in an image, where that was asked for."""
    if settings.until_heeded is None:
        return None
    from ..explain import check

    device, dtype = settings.device or "cpu", getattr(torch, settings.dtype or "float32")
    if settings.check_model is None:
        return partial(check, device=device, dtype=dtype, relevance=False)
    model = load_model(settings.check_model, device, dtype)
    processor = load_processor(settings.check_model, texts=True)
    return partial(check, model=model, processor=processor, relevance=False)


def _verdict(sighting: Any, span: Span) -> str | None:
    """None for words outside the judge's vocabulary, and for a second frog: it does not count."""
    label = " ".join(span.text.lower().split())
    if label not in sighting.scores or span.occurrence > 1:
        return None
    return "heeded" if sighting.sees(label) else "neglected"
