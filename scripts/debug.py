"""Carries out `heedful debug`: gives the page what the other commands do, and serves it until interrupted."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..debug import page_server as server
from ..debug.errors import PageError
from ..debug.page_forms import SEEN
from ..debug.page_jobs import Worker
from ..debug.page_services import Answer, Pipelines, Question, Services
from ..debug.probing import Seer
from . import explain, generate
from .explain_settings import ExplainSettings
from .loading import embedded, load_model, load_processor, seen_box
from .machine import choose, one_line
from .settings import GenerateSettings, Request, UsageError


@dataclass(frozen=True)
class DebugSettings:
    """What `heedful debug` was asked for; `port` 0 is any that is free.

    Attributes:
        model: a folder or a hub id; None for the embedded model.
        device: a torch device; None for CUDA where there is one, else the CPU.
        dtype: one of `settings.DTYPES`; None for float16 on CUDA and float32 elsewhere.
    """

    model: str | None = None
    port: int = 7860
    device: str | None = None
    dtype: str | None = None
    browser: bool = True


def carry_out(settings: DebugSettings, told: Callable[[str], None]) -> None:
    """Serve the page until interrupted; `told` is given its address once it can be opened.

    Raises:
        UsageError: without gradio, on a port that is taken, or for a device or model that is not there.
    """
    resolved = _resolved(settings, settings.model)
    try:
        server.need_gradio()
        with server.listen(settings.port) as bound, server.quiet_gradio():
            address = f"http://{server.HOST}:{bound.getsockname()[1]}"
            _serve(settings, resolved.threads, bound, lambda: _opened(settings, address, told))
    except PageError as problem:
        raise UsageError(str(problem)) from problem


def _serve(settings: DebugSettings, threads: int | None, bound: Any, started: Callable[[], None]) -> None:
    from ..debug import page  # brings gradio, which must not be imported before it was quietened

    pipelines = Pipelines(_loader(settings))
    worker = Worker(lambda: torch.set_num_threads(threads or torch.get_num_threads()))
    try:
        first = worker.submit(lambda _: pipelines(settings.model))
        if settings.model is not None:
            first.result()  # a name that was typed wrongly shows here, and not in the page
        services = Services(pipelines, _explainer(settings), _seeing(settings), settings.model)
        server.serve(page.make_app(services, worker), bound, started)
    finally:
        worker.close()


def _opened(settings: DebugSettings, address: str, told: Callable[[str], None]) -> None:
    told(address)
    if settings.browser:
        webbrowser.open(address)


def _resolved(settings: DebugSettings, model: str | None) -> GenerateSettings:
    request = (Request("a prompt that is never drawn"),)
    return generate.resolve(
        GenerateSettings(request, model=model, device=settings.device, dtype=settings.dtype)
    )


def _loader(settings: DebugSettings) -> Callable[[str | None], Any]:
    def load(model: str | None) -> Any:
        try:
            return generate.load(_resolved(settings, model))
        except UsageError as problem:
            raise PageError(str(problem)) from problem

    return load


def _explainer(settings: DebugSettings) -> Callable[[Question], Answer]:
    def answer(asked: Question) -> Answer:
        try:
            return _answered(settings, asked)
        except UsageError as problem:
            raise PageError(str(problem)) from problem

    return answer


def _answered(settings: DebugSettings, asked: Question) -> Answer:
    """As `heedful explain` does; the point lies in what the model sees, which is known once it is loaded."""
    wanted = ExplainSettings(
        image=Path("image"),
        texts=asked.texts,
        labels=asked.labels,
        methods=(asked.method,),
        query=asked.point,
        layer=asked.layer,
        head=asked.head,
        model=asked.model,
        device=settings.device,
        dtype=settings.dtype,
    )
    question = explain.pose(wanted, _rgb(asked.image))
    if asked.point is not None:
        (x, y), (left, top), (width, height) = asked.point, question.corner, question.shown.size
        wanted = replace(wanted, query=(left + x * width, top + y * height))
    return Answer(next(iter(explain.answer(wanted, question))), question.shown)


def _seeing(settings: DebugSettings) -> Callable[[str], Seer]:
    def see(name: str) -> Seer:
        try:
            return _seer(settings, name)
        except UsageError as problem:
            raise PageError(str(problem)) from problem

    return see


def _seer(settings: DebugSettings, name: str) -> Seer:
    """A model of images; an embedded one by its name, which a folder of that name would hide."""
    device, dtype = choose(settings.device, settings.dtype)
    named = Path(name).is_dir() or name not in SEEN
    folder = name if named else embedded(name)
    model = load_model(folder, device, getattr(torch, dtype), named=named)
    processor = load_processor(folder, texts=False)

    def prepare(images: Sequence[Image.Image]) -> tuple[torch.Tensor, list[Image.Image]]:
        try:
            pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        except (ValueError, TypeError, KeyError) as problem:
            raise PageError(f"the image processor of {name} refused: {one_line(problem)}") from problem
        return pixels, [_seen(processor, image) for image in images]

    return Seer(model, prepare)


def _seen(processor: Any, image: Image.Image) -> Image.Image:
    left, top, right, bottom = (round(end) for end in seen_box(processor, image.size))
    return image.crop((left, top, right, bottom))


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
