"""What a caller may leave open or name in a word: the scheduler, the model's own size and guidance scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import diffusers

SCHEDULERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),  # as Stable Diffusion uses it
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "heun": ("HeunDiscreteScheduler", {}),
}
"""Schedulers by their short names: diffusers' class, and options besides those of the model's own."""


def scheduler(pipe: Any, name: str) -> Any:
    """A scheduler of `SCHEDULERS` for this pipeline, with the noise schedule of the one it has.

    Raises:
        ValueError: for another name.
    """
    if name not in SCHEDULERS:
        raise ValueError(f'scheduler must be one of {", ".join(SCHEDULERS)}; got "{name}"')
    kind, options = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)


def own_size(pipe: Any) -> tuple[int, int]:
    """The (width, height) in pixels that the pipeline's model was made for."""
    sides = pipe.unet.config.sample_size
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return width * pipe.vae_scale_factor, height * pipe.vae_scale_factor


def default_guidance_scale(model: str | None) -> float:
    """The scale of classifier-free guidance: 5 for the embedded model (None), 7.5 for others."""
    return 5.0 if model is None else 7.5
