"""What `heedful generate` was asked for, as one frozen value: read from the command line or from a record.

Light on purpose: it imports neither torch nor diffusers, so that `--help` and mistakes in the arguments
answer at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

SCHEDULERS = ("ddim", "pndm", "euler", "euler-a", "dpm++", "heun")
DTYPES = ("float32", "float16", "bfloat16")
RECORD_FORMAT = 1
LARGEST_SEED = 2**63 - 1
_SINCE = {"negative_prompt": "", "strength": 1.0, "until_heeded": None, "check_model": None}
"""Settings that the first records do not have, with what they meant."""


class UsageError(Exception):
    """What was asked for cannot be done; the message says, on one line, what can."""


@dataclass(frozen=True)
class Request:
    """One prompt and the words of it that must be heeded; None for every content word."""

    prompt: str
    words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class GenerateSettings:
    """All that decides which images come out.

    Attributes:
        requests: the prompts, at least one.
        model: a folder or a hub id; None for the embedded model.
        seeds: each makes one image a prompt, plain and guided from the same noise.
        steps: denoising steps.
        guidance_scale: of classifier-free guidance; None for the model's default (5 embedded).
        scheduler: one of `SCHEDULERS`, or None for the model's own.
        size: (width, height) in pixels, or None for the model's own.
        compare: make the plain image, too.
        negative_prompt: what the images should not show; empty for nothing.
        strength: of the guidance: multiplies its step; 0 only looks.
        until_heeded: draw again, at most so many times with the first, while a word is not in the image; None
            for no check.
        check_model: the CLIP or SigLIP that checks, a folder or a hub id; None for the embedded one.
        device: a torch device; None for CUDA where there is one, else the CPU.
        dtype: one of `DTYPES`; None for float16 on CUDA and float32 elsewhere.
        threads: of the CPU, on whose number the last bit of a sum can depend; None for one with the embedded
            model, else for torch's own choice.

    Raises:
        UsageError: a value outside its range.
    """

    requests: tuple[Request, ...]
    model: str | None = None
    seeds: tuple[int, ...] = (0,)
    steps: int = 30
    guidance_scale: float | None = None
    scheduler: str | None = None
    size: tuple[int, int] | None = None
    compare: bool = True
    negative_prompt: str = ""
    strength: float = 1.0
    until_heeded: int | None = None
    check_model: str | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.requests:
            raise UsageError('nothing to draw: give a prompt, such as "a cat and a frog", or --prompts-file')
        for request in self.requests:
            if not request.prompt.strip():
                raise UsageError("a prompt is empty; give a description of the image, in quotes")
            if self.requests.count(request) > 1:
                raise UsageError(
                    f'the prompt "{request.prompt}" is given twice; repeat --seed for more images'
                )
        _check_choice("--scheduler", self.scheduler, SCHEDULERS)
        _check_choice("--dtype", self.dtype, DTYPES)
        _check_numbers(self)


def _check_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise UsageError(f'{option} must be one of {", ".join(choices)}; got "{value}"')


def _check_numbers(settings: GenerateSettings) -> None:
    if settings.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {settings.steps}")
    if settings.threads is not None and settings.threads < 1:
        raise UsageError(f"threads must be at least 1, got {settings.threads}")
    if settings.guidance_scale is not None and not 0 <= settings.guidance_scale <= 100:
        raise UsageError(f"--guidance-scale must lie in 0..100, got {settings.guidance_scale}")
    if not 0 <= settings.strength <= 20:
        raise UsageError(f"--strength must lie in 0..20, got {settings.strength}")
    _check_retries(settings)
    if not settings.seeds:
        raise UsageError("at least one --seed is needed")
    for seed in settings.seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise UsageError(f"--seed must lie in 0..{LARGEST_SEED}, got {seed}")
    if len(set(settings.seeds)) != len(settings.seeds):
        raise UsageError(f"each --seed may be given once, got {', '.join(map(str, settings.seeds))}")


def _check_retries(settings: GenerateSettings) -> None:
    if settings.until_heeded is None:
        if settings.check_model is not None:
            raise UsageError("--check-model goes with --until-heeded")
        return
    if settings.until_heeded < 1:
        raise UsageError(
            f"--until-heeded counts the first try and is at least 1, got {settings.until_heeded}"
        )
    if (settings.model is None) != (settings.check_model is None):
        raise UsageError(
            "the embedded CLIP checks images of the embedded model, and no others: leave out --check-model"
            if settings.model is None
            else "--until-heeded needs --check-model with this --model: the folder or the hub id of a CLIP "
            "or SigLIP; the embedded one knows the embedded model's images alone"
        )


def parse_size(text: str) -> tuple[int, int]:
    """`"768x512"` to (768, 512): width, then height, in pixels."""
    match = re.fullmatch(r"\s*([1-9]\d{0,4})\s*[xX]\s*([1-9]\d{0,4})\s*", text)
    if not match:
        raise UsageError(f'--size must be WIDTHxHEIGHT in pixels, such as 768x512; got "{text}"')
    return int(match[1]), int(match[2])


def parse_words(given: Sequence[str]) -> tuple[str, ...] | None:
    """Words from repeated or comma-separated options; None when none was given."""
    words = [word.strip() for text in given for word in text.split(",")]
    if not all(words):
        raise UsageError('--words has an empty word; write them like --words "cat, red bow"')
    return tuple(words) or None


def read_prompts(path: Path) -> list[Request]:
    """Requests from a text file: one prompt a line, its words, if any, after a tab; # begins a comment.

    Raises:
        UsageError: a file that cannot be read, or without a prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"cannot read the prompts file {path}: {_reason(problem)}") from problem
    requests = []
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            prompt, _, words = line.partition("\t")
            requests.append(Request(prompt.strip(), parse_words([words]) if words.strip() else None))
    if not requests:
        raise UsageError(f"the prompts file {path} holds no prompt; write one a line")
    return requests


def to_record(settings: GenerateSettings) -> dict[str, Any]:
    """The settings in types that JSON knows."""
    return asdict(settings)


def read_record(path: Path) -> tuple[GenerateSettings, dict[str, Any]]:
    """The settings of an earlier run, and its whole record, from the JSON file that it wrote.

    Raises:
        UsageError: a file that cannot be read or is not such a record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UsageError(f"cannot read the record {path}: {_reason(problem)}") from problem
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT:
        raise UsageError(
            f"{path} is no record of heedful generate (format {RECORD_FORMAT}); it writes run.json"
        )
    try:
        return _settings_from(record["settings"]), record
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"the record {path} is damaged: {type(problem).__name__}: {problem}") from problem


def _settings_from(data: dict[str, Any]) -> GenerateSettings:
    known = {field.name for field in fields(GenerateSettings)}
    data = {**_SINCE, **data}
    if set(data) != known:
        raise ValueError(f"settings must be {', '.join(sorted(known))}; got {', '.join(sorted(data))}")
    requests = tuple(Request(str(one["prompt"]), _strings(one["words"])) for one in data["requests"])
    return GenerateSettings(
        requests=requests,
        model=_text(data["model"]),
        seeds=tuple(int(seed) for seed in data["seeds"]),
        steps=int(data["steps"]),
        guidance_scale=None if data["guidance_scale"] is None else float(data["guidance_scale"]),
        scheduler=_text(data["scheduler"]),
        size=None if data["size"] is None else (int(data["size"][0]), int(data["size"][1])),
        compare=bool(data["compare"]),
        negative_prompt=str(data["negative_prompt"]),
        strength=float(data["strength"]),
        until_heeded=None if data["until_heeded"] is None else int(data["until_heeded"]),
        check_model=_text(data["check_model"]),
        device=_text(data["device"]),
        dtype=_text(data["dtype"]),
        threads=None if data["threads"] is None else int(data["threads"]),
    )


def _strings(value: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(str(one) for one in value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _reason(problem: Exception) -> str:
    return problem.strerror or str(problem) if isinstance(problem, OSError) else str(problem)
