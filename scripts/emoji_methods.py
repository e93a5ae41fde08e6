"""The methods compared on the emoji world: those of `heedful.evaluation`, by this world's settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from heedful.emoji.models import default_dtype
from heedful.evaluation import methods
from heedful.evaluation.methods import PLAIN, Method, named
from heedful.evaluation.objectives import Asked
from heedful.scripts.loading_pipelines import load_pipeline
from PIL.Image import Image

METHODS: Final = (PLAIN, "diffusers", "paper", "at-once")
seeded = methods.generators


@dataclass(frozen=True)
class Setting:
    """All that decides an image, but the prompt and the seed; rows are kept with these names.

    steps: denoising steps.
    guidance_scale: of classifier-free guidance.
    step_size: `scale_factor` of the two Attend-and-Excite of the paper.
    refine: whether those two refine.
    """

    steps: int = 25
    guidance_scale: float = 5.0
    step_size: float = 2.0
    refine: bool = True

    @property
    def whole(self) -> methods.Setting:
        """As every method takes it."""
        return methods.Setting(self.steps, self.guidance_scale, None, self.step_size, self.refine)


Draw = Callable[[Any, Setting, Sequence[Asked], list[torch.Generator]], list[Image]]
"""Draws a batch: pipeline, setting, prompts, and the noise of each."""


def drawer(method: str) -> Draw:
    """How a method draws: one of `METHODS`, or guidance by an objective of that name."""
    return partial(_draw, named(method))


def plain(pipe: Any, setting: Setting, prompts: Sequence[Asked], noise: list[torch.Generator]) -> list[Image]:
    """Diffusion as it is."""
    return drawer(PLAIN)(pipe, setting, prompts, noise)


def title(method: str) -> str:
    """What a method is, for a table."""
    return named(method).about


def load(model: Path | None, device: str) -> Any:
    """The embedded pipeline, or the one in a folder."""
    pipe = load_pipeline(None if model is None else str(model), device, default_dtype(device))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _draw(
    method: Method, pipe: Any, setting: Setting, prompts: Sequence[Asked], noise: list[torch.Generator]
) -> list[Image]:
    return method.draw(pipe, setting.whole, prompts, noise).images
