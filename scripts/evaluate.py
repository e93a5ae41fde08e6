"""Carries out `heedful evaluate`: loads what draws and what looks, and hands both to the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL.Image import Image

from ..emoji import load_judge
from ..evaluation.comparison import compare
from ..evaluation.errors import EvaluationError
from ..evaluation.eyes import Checker, CheckEyes, DetectorEyes, Eyes, JudgeEyes
from ..evaluation.figures import Results
from ..evaluation.likeness import TEMPLATES, Captioner, Likeness, captioner, judge_features
from ..evaluation.methods import Method, Setting, named
from ..evaluation.objectives import OBJECTIVES
from ..evaluation.prompts import EMBEDDED, REAL, Prompt, read_prompts
from ..evaluation.rows import Evaluation, Watch
from ..explain import InputError, Verdict, check
from ..explain.check import embedded_comparer, speaks_like_embedded
from ..explain.comparing import Comparer
from ..guidance import find_spans
from ..pipelines.choices import host_for
from .evaluate_settings import EMBEDDED_DEFAULTS, REAL_DEFAULTS, EvaluateSettings
from .generate import load
from .loading import load_model, load_processor
from .machine import choose_here, one_line
from .settings import GenerateSettings, Request, UsageError


def objectives() -> dict[str, str]:
    """Every objective that --method takes, with what it is."""
    return {name: one.about for name, one in OBJECTIVES.items()}


def methods(settings: EvaluateSettings) -> tuple[Method, ...]:
    """The methods by their names.

    Raises:
        EvaluationError: a name that there is not.
    """
    return tuple(named(name) for name in settings.methods)


def resolve(settings: EvaluateSettings) -> EvaluateSettings:
    """The settings with a device and a type; of several processes on GPUs each takes its own.

    Raises:
        UsageError: a device that is not there, or float16 on a CPU.
    """
    device, dtype = choose_here(settings.device, settings.dtype)
    return replace(settings, device=device, dtype=dtype)


def prepare(settings: EvaluateSettings, out: Path) -> Evaluation:
    """Everything loaded and checked, nothing drawn yet.

    Args:
        settings: resolved ones.
        out: the folder for rows and images.

    Raises:
        UsageError: a model that is not there, sets of another world, or nothing that could look at images.
        EvaluationError, GuidanceError: prompts that cannot be used.
    """
    dtype = getattr(torch, settings.dtype or "float32")
    pipe = _pipeline(settings)
    embedded = settings.model is None or speaks_like_embedded(getattr(pipe, "tokenizer", None))
    if (embedded and settings.device == "cpu") or settings.threads:
        torch.set_num_threads(settings.threads or 1)  # small tensors: threads would wait more than they work
    settings = _with_defaults(settings, embedded)
    prompts = _prompts(settings, embedded)
    _check_words(pipe, prompts)
    _check_size(pipe, settings)
    checker, likeness = _comparing(settings, embedded, dtype)
    eyes, features = _eyes(settings, embedded, checker, dtype)
    if features is None and likeness is not None:
        features = likeness.features
    name = "embedded" if settings.model is None else Path(settings.model).name
    return Evaluation(
        pipe,
        f"{type(pipe).__name__} {name}",
        prompts,
        settings.seeds,
        Setting(settings.steps or 50, settings.guidance_scale, settings.size, settings.paper_step or 0.0),
        eyes,
        out,
        features,
        likeness,
        checker,
        settings.batch_size,
        settings.first_seed,
        settings.counted,
    )


def carry_out(
    settings: EvaluateSettings, evaluation: Evaluation, chosen: Sequence[Method], watch: Watch | None = None
) -> Results:
    """Draw and look at what the folder does not hold yet; all rows.

    Raises:
        UsageError: a folder with rows of other settings, or too little memory.
    """
    try:
        return compare(evaluation, chosen, most_candidates=settings.best_of, watch=watch)
    except InputError as problem:
        if "other settings" not in str(problem):
            raise
        raise UsageError(f"{problem}; --out takes another folder") from problem
    except torch.OutOfMemoryError as problem:
        raise UsageError("out of memory; take a smaller --batch-size or --size") from problem


def _pipeline(settings: EvaluateSettings) -> Any:
    wanted = GenerateSettings(
        (Request("a"),),
        settings.model,
        scheduler=settings.scheduler,
        device=settings.device,
        dtype=settings.dtype,
    )
    return load(wanted)


def _with_defaults(settings: EvaluateSettings, embedded: bool) -> EvaluateSettings:
    sets, steps, scale, paper = EMBEDDED_DEFAULTS if embedded else REAL_DEFAULTS
    asked = settings.sets or (() if settings.prompts_file else sets)
    return replace(
        settings,
        sets=tuple(asked),
        steps=steps if settings.steps is None else settings.steps,
        guidance_scale=scale if settings.guidance_scale is None else settings.guidance_scale,
        paper_step=paper if settings.paper_step is None else settings.paper_step,
    )


def _prompts(settings: EvaluateSettings, embedded: bool) -> tuple[Prompt, ...]:
    known: Mapping[str, Any] = EMBEDDED if embedded else REAL
    if strange := [name for name in settings.sets if name not in known]:
        raise UsageError(
            f"--prompts {', '.join(strange)} is of the embedded world, and this model is not; it takes "
            f"{', '.join(known)}, or your own by --prompts-file"
        )
    found = [known[name]()[: settings.limit] for name in settings.sets]
    if settings.prompts_file is not None:
        found.append(read_prompts(settings.prompts_file)[: settings.limit])
    return tuple(prompt for one in found for prompt in one)


def _check_words(pipe: Any, prompts: Sequence[Prompt]) -> None:
    """Find every word before anything is drawn, as the pipeline will read it."""
    for prompt in prompts:
        find_spans(host_for(pipe, prompt.text).tokenizer, prompt.text, prompt.subjects)


def _check_size(pipe: Any, settings: EvaluateSettings) -> None:
    """Draw one step of a size that was asked for, so that a pipeline refuses it before anything else."""
    if settings.size is None:
        return
    width, height = settings.size
    try:
        pipe("a cat", width=width, height=height, num_inference_steps=1, output_type="latent")
    except ValueError as problem:
        raise UsageError(f"--size: the pipeline refuses {width}x{height}: {one_line(problem)}") from problem


def _comparing(
    settings: EvaluateSettings, embedded: bool, dtype: torch.dtype
) -> tuple[Checker | None, Likeness | None]:
    """What checks images for words, and what compares them with prompts: the same CLIP."""
    device = settings.device or "cpu"
    if settings.check_model is not None:
        model = _loaded("--check-model", settings.check_model, device, dtype)
        processor = load_processor(settings.check_model, texts=True)
        comparer, name = Comparer(model, processor), Path(settings.check_model).name
        asked: dict[str, Any] = {"model": model, "processor": processor}
    elif embedded:
        comparer, name = embedded_comparer(device, dtype), "the embedded CLIP"
        asked = {"device": device, "dtype": dtype}
    else:
        if settings.captioner is not None or settings.templates is not None:
            raise UsageError("--captioner and --templates need --check-model, the CLIP that compares texts")
        return None, None

    def checker(images: list[Image], words: list[list[str]], *, prompt: list[str]) -> list[Verdict]:
        return check(images, words, prompt=prompt, relevance=False, **asked)

    return checker, Likeness(comparer, name, _templates(settings), _captioner(settings, dtype))


def _eyes(
    settings: EvaluateSettings, embedded: bool, checker: Checker | None, dtype: torch.dtype
) -> tuple[Eyes, Any]:
    """What says which subjects are there, and its view of images where it has one of its own."""
    device = settings.device or "cpu"
    if settings.detector is not None:
        return _detector(settings, device, dtype), None
    if embedded:
        judge = load_judge(device, dtype)
        return JudgeEyes(judge), judge_features(judge)
    if checker is not None:
        return CheckEyes(checker, Path(settings.check_model or "").name), None
    raise UsageError(
        "nothing says what this model's images show: give --check-model, a CLIP or SigLIP, or --detector, a "
        "zero-shot object detector such as google/owlvit-base-patch32 (or both); folders or hub ids"
    )


def _detector(settings: EvaluateSettings, device: str, dtype: torch.dtype) -> DetectorEyes:
    name = settings.detector or ""
    model = _loaded("--detector", name, device, dtype)
    processor = load_processor(name, texts=True)
    try:
        detect = transformers.pipeline(
            "zero-shot-object-detection",
            model=model,
            tokenizer=processor.tokenizer,
            image_processor=processor.image_processor,
        )
    except (AttributeError, KeyError, ValueError) as problem:
        raise UsageError(
            f'"{name}" ({type(model).__name__}) is no zero-shot object detector; --detector takes one such '
            "as google/owlvit-base-patch32"
        ) from problem
    return DetectorEyes(detect, Path(name).name, settings.threshold or 0.1)


def _captioner(settings: EvaluateSettings, dtype: torch.dtype) -> Captioner | None:
    if settings.captioner is None:
        return None
    model = _loaded("--captioner", settings.captioner, settings.device or "cpu", dtype)
    if not hasattr(model, "generate"):
        raise UsageError(f"{type(model).__name__} writes no captions; --captioner takes one such as BLIP")
    return captioner(model, load_processor(settings.captioner, texts=True))


def _templates(settings: EvaluateSettings) -> tuple[str, ...]:
    if settings.templates is None:
        return TEMPLATES
    try:
        lines = settings.templates.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"cannot read the templates {settings.templates}: {problem}") from problem
    return tuple(line.strip() for line in lines if line.strip())


def _loaded(option: str, name: str, device: str, dtype: torch.dtype) -> Any:
    try:
        return load_model(name, device, dtype)
    except UsageError as problem:
        raise UsageError(str(problem).replace("--model takes", f"{option} takes")) from problem


__all__ = ["EvaluationError", "carry_out", "methods", "objectives", "prepare", "resolve"]
