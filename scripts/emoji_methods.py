"""The methods that are compared on the emoji world: each draws a batch of prompts, counted in operations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline
from heedful.emoji import load_pipeline
from heedful.emoji.models import default_dtype
from heedful.emoji.prompts import Prompt
from heedful.evaluation.objectives import OBJECTIVES, objective
from heedful.guidance import AttendAndExcite, Objective, guide
from heedful.guidance.tokens import find_spans
from PIL.Image import Image

RESOLUTION: Final = (8, 8)
"""The grid that diffusers' Attend-and-Excite is told to read; here the one that follows the words."""


@dataclass(frozen=True)
class Setting:
    """All that decides an image, but the prompt and the seed.

    steps: denoising steps.
    guidance_scale: of classifier-free guidance.
    step_size: `scale_factor` of the two Attend-and-Excite of the paper.
    refine: whether those two refine; their thresholds, 0, 10 and 20 of 50 steps, keep their place in the
    trajectory.
    """

    steps: int = 25
    guidance_scale: float = 5.0
    step_size: float = 2.0
    refine: bool = True

    @property
    def paper(self) -> dict[str, Any]:
        """The paper's arguments for 50 steps, at the same fractions of these."""
        thresholds = {0: 0.05, self.steps // 5: 0.5, 2 * self.steps // 5: 0.8} if self.refine else {}
        return {
            "max_iter_to_alter": self.steps // 2,
            "thresholds": thresholds,
            "scale_factor": self.step_size,
        }


Draw = Callable[[StableDiffusionPipeline, Setting, Sequence[Prompt], list[torch.Generator]], list[Image]]


def plain(
    pipe: StableDiffusionPipeline, setting: Setting, prompts: Sequence[Prompt], noise: list[torch.Generator]
) -> list[Image]:
    """Diffusion as it is."""
    return pipe([prompt.text for prompt in prompts], generator=noise, **_common(setting)).images


def diffusers_attend_and_excite(
    pipe: StableDiffusionPipeline, setting: Setting, prompts: Sequence[Prompt], noise: list[torch.Generator]
) -> list[Image]:
    """The deprecated pipeline of diffusers, told the subjects' tokens and the grid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import StableDiffusionAttendAndExcitePipeline as Deprecated

        names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        parts = {name: getattr(pipe, name) for name in names}
        theirs = Deprecated(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        theirs.set_progress_bar_config(disable=True)
        before = pipe.unet.attn_processors
        try:
            return theirs(
                [prompt.text for prompt in prompts],
                token_indices=[_indices(pipe, prompt) for prompt in prompts],
                generator=noise,
                attn_res=RESOLUTION,
                **_common(setting),
                **setting.paper,
            ).images
        finally:  # it puts them back itself, but not when it fails
            pipe.unet.set_attn_processor(before)


def paper(
    pipe: StableDiffusionPipeline, setting: Setting, prompts: Sequence[Prompt], noise: list[torch.Generator]
) -> list[Image]:
    """Our parity preset: the same tokens and arguments as diffusers' own."""
    indices = [_indices(pipe, prompt) for prompt in prompts]
    return _guided(pipe, AttendAndExcite.paper(indices, **setting.paper), setting, prompts, noise)


def default(
    pipe: StableDiffusionPipeline, setting: Setting, prompts: Sequence[Prompt], noise: list[torch.Generator]
) -> list[Image]:
    """Our default, told the subjects' names and nothing else."""
    wanted = AttendAndExcite(words=[list(prompt.subjects) for prompt in prompts])
    return _guided(pipe, wanted, setting, prompts, noise)


METHODS: Final[Mapping[str, Draw]] = {
    "plain": plain,
    "diffusers": diffusers_attend_and_excite,
    "paper": paper,
    "default": default,
}
TITLES: Final = {
    "plain": "plain sampling",
    "diffusers": "diffusers' Attend-and-Excite",
    "paper": "heedful, parity preset",
    "default": "heedful, default",
}


def drawer(method: str) -> Draw:
    """How a method draws: one of `METHODS`, or guidance by an objective of that name."""
    return METHODS[method] if method in METHODS else partial(_by_objective, method)


def title(method: str) -> str:
    """What a method is, for a table."""
    return TITLES[method] if method in TITLES else OBJECTIVES[method].about


def load(model: Path | None, device: str) -> StableDiffusionPipeline:
    """The embedded pipeline, or the one in a folder."""
    if model is None:
        return load_pipeline(device)
    pipe = StableDiffusionPipeline.from_pretrained(
        model,
        dtype=default_dtype(device),
        safety_checker=None,
        local_files_only=True,
        use_safetensors=True,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator an image, so that no image depends on its batch; on the CPU, the same for any device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _common(setting: Setting) -> dict[str, Any]:
    return {"num_inference_steps": setting.steps, "guidance_scale": setting.guidance_scale}


def _by_objective(
    name: str,
    pipe: StableDiffusionPipeline,
    setting: Setting,
    prompts: Sequence[Prompt],
    noise: list[torch.Generator],
) -> list[Image]:
    return _guided(pipe, objective(name, prompts), setting, prompts, noise)


def _guided(
    pipe: StableDiffusionPipeline,
    wanted: Objective,
    setting: Setting,
    prompts: Sequence[Prompt],
    noise: list[torch.Generator],
) -> list[Image]:
    with guide(pipe, wanted):
        return plain(pipe, setting, prompts, noise)


def _indices(pipe: StableDiffusionPipeline, prompt: Prompt) -> list[int]:
    """One token a subject, as the paper has it: the last of a word of several."""
    return [span.indices[-1] for span in find_spans(pipe.tokenizer, prompt.text, prompt.subjects)]
