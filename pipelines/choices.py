"""What a caller may leave open or name in a word: the scheduler, the model's own size and guidance scale."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

import diffusers

from ..guidance.hosts import Host, host_of

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
        ValueError: for another name, or a model made for another kind of scheduler, as flow matching is.
    """
    if name not in SCHEDULERS:
        raise ValueError(f'scheduler must be one of {", ".join(SCHEDULERS)}; got "{name}"')
    kind, options = SCHEDULERS[name]
    found = type(pipe.scheduler)
    if kind not in {found.__name__, *(other.__name__ for other in pipe.scheduler.compatibles)}:
        raise ValueError(
            f"this model was made for {found.__name__}, in whose place {name} ({kind}) cannot be; leave the "
            "scheduler out"
        )
    return getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)


def own_size(pipe: Any) -> tuple[int, int]:
    """The (width, height) in pixels that the pipeline's model was made for."""
    unet = getattr(pipe, "unet", None)
    sides = pipe.default_sample_size if unet is None else unet.config.sample_size
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return width * pipe.vae_scale_factor, height * pipe.vae_scale_factor


def own_guidance_scale(pipe: Any, model: str | None) -> float:
    """The scale of classifier-free guidance: 5 for the embedded model (None), else the pipeline's default."""
    default = inspect.signature(pipe.__call__).parameters["guidance_scale"].default
    return 5.0 if model is None else float(default)


def heeds_negative_prompt(pipe: Any) -> bool:
    """Whether the pipeline takes a negative prompt, and heeds it as it is: Flux asks for `true_cfg_scale`."""
    takes = inspect.signature(pipe.__call__).parameters
    return "negative_prompt" in takes and "true_cfg_scale" not in takes


def host_for(pipe: Any, prompt: str) -> Host:
    """A call of the pipeline with this prompt, nothing else said: whose tokens, whose denoiser.

    Raises:
        UnsupportedError: a pipeline that guidance does not know.
    """
    arguments = inspect.signature(pipe.__call__).bind(prompt=prompt)
    arguments.apply_defaults()
    return host_of(pipe, arguments.arguments)
