"""What `heedful evaluate` was asked for, as one frozen value; light, so that mistakes answer at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from .settings import DTYPES, LARGEST_SEED, SCHEDULERS, UsageError

SETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "held-out": "embedded world: 36 pairs of subjects that its diffusion model was never trained on",
        "seen": "embedded world: 64 of the other pairs",
        "tuning": "embedded world: 64 others still, to choose settings on",
        "coloured": "embedded world: the held-out pairs with an object, every object in a colour",
        "three": "embedded world: the held-out pairs with a third subject",
        "single": "24 subjects alone, which need no help: the guard of quality",
        "benchmark": "the 276 prompts of the Attend-and-Excite benchmark, in the words of the model's world",
    }
)
"""The sets of prompts, each with what it is; `heedful.evaluation.prompts` makes them."""
REAL_SETS: Final = ("benchmark", "single")
"""Those for models of photographs."""
METHODS: Final = ("plain", "diffusers", "paper", "default")
"""What is compared where --method does not say; objectives have names besides."""
EMBEDDED_DEFAULTS: Final = (("held-out", "single"), 25, 5.0, 2.0)
"""Of the embedded world: sets, steps, guidance scale, and the paper's step, tuned on other prompts."""
REAL_DEFAULTS: Final = (REAL_SETS, 50, None, 20.0)


@dataclass(frozen=True)
class EvaluateSettings:
    """All that decides what is compared on which prompts.

    Attributes:
        sets: of `SETS`; none for the world's own, or for the file alone where there is one.
        prompts_file: a text file or JSON lines, see `heedful.evaluation.prompts.read_prompts`.
        methods: of `METHODS`, or names of objectives.
        model: a folder or a hub id; None for the embedded pipeline.
        seeds: images a prompt, from `first_seed` on.
        limit: at most so many prompts a set.
        steps, guidance_scale, paper_step: None for the world's own.
        scheduler: one of `SCHEDULERS`, or None for the model's own.
        size: (width, height) in pixels, or None for the model's own.
        check_model: a CLIP or SigLIP, which compares, and chooses for best-of-N; None for the embedded one
            in the embedded world, else for none.
        detector: a zero-shot object detector, which then says what is seen; `threshold` is its own.
        captioner: a model such as BLIP that captions images; None for no captions.
        templates: a file with a template a line, each with {} where the text stands.
        best_of: candidates that best-of-N may draw at most; 1 for no best-of-N.
        batch_size: images at once.
        counted: count operations; else cost is seconds.
        device, dtype, threads: as for `heedful generate`.

    Raises:
        UsageError: values outside their range, or that do not go together.
    """

    sets: tuple[str, ...] = ()
    prompts_file: Path | None = None
    methods: tuple[str, ...] = METHODS
    model: str | None = None
    seeds: int = 2
    first_seed: int = 0
    limit: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    paper_step: float | None = None
    scheduler: str | None = None
    size: tuple[int, int] | None = None
    check_model: str | None = None
    detector: str | None = None
    threshold: float | None = None
    captioner: str | None = None
    templates: Path | None = None
    best_of: int = 4
    batch_size: int = 8
    counted: bool = True
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in self.sets:
            if name not in SETS:
                raise UsageError(f'there is no set of prompts "{name}"; choose of {", ".join(SETS)}')
        _check_once("--prompts", self.sets)
        _check_once("--method", self.methods)
        if not self.methods:
            raise UsageError(f"--method is empty; name one, such as {', '.join(METHODS)}")
        for option, value, choices in (
            ("--dtype", self.dtype, DTYPES),
            ("--scheduler", self.scheduler, SCHEDULERS),
        ):
            if value is not None and value not in choices:
                raise UsageError(f'{option} must be one of {", ".join(choices)}; got "{value}"')
        self._check_numbers()
        if self.threshold is not None and self.detector is None:
            raise UsageError("--detector-threshold goes with --detector")

    def _check_numbers(self) -> None:
        counts = {
            "--seeds": self.seeds, "--limit": self.limit, "--steps": self.steps, "--best-of": self.best_of,
            "--batch-size": self.batch_size, "--threads": self.threads,
        }  # fmt: skip
        for option, count in counts.items():
            if count is not None and count < 1:
                raise UsageError(f"{option} must be at least 1, got {count}")
        if not 0 <= self.first_seed <= LARGEST_SEED:
            raise UsageError(f"--first-seed must lie in 0..{LARGEST_SEED}, got {self.first_seed}")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= 100:
            raise UsageError(f"--guidance-scale must lie in 0..100, got {self.guidance_scale}")
        if self.paper_step is not None and self.paper_step < 0:
            raise UsageError(f"--paper-step must be at least 0, got {self.paper_step}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(f"--detector-threshold must lie between 0 and 1, got {self.threshold}")


def parse_list(given: Sequence[str]) -> tuple[str, ...]:
    """Names from repeated or comma-separated options."""
    return tuple(part.strip() for one in given for part in one.split(",") if part.strip())


def _check_once(option: str, values: Sequence[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f'{option} "{value}" is given twice')
