"""Pipelines of diffusers that guide themselves: the host's class, and what there is to say of each."""

from __future__ import annotations

from diffusers import (
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

from .mixin import AttendAndExciteMixin


class StableDiffusionXLAttendAndExcitePipeline(AttendAndExciteMixin, StableDiffusionXLPipeline):
    """Stable Diffusion XL, Turbo too, in which no subject of the prompt is neglected."""


class StableDiffusionAttendAndExciteImg2ImgPipeline(AttendAndExciteMixin, StableDiffusionImg2ImgPipeline):
    """Makes an image out of another and a prompt, no subject of which is neglected.

    Points of time of an objective are fractions of the steps that are run, `strength` of them all.
    """


class StableDiffusionXLAttendAndExciteImg2ImgPipeline(AttendAndExciteMixin, StableDiffusionXLImg2ImgPipeline):
    """Image to image with Stable Diffusion XL; also its refiner, which has one tokenizer only."""


class StableDiffusionAttendAndExciteInpaintPipeline(AttendAndExciteMixin, StableDiffusionInpaintPipeline):
    """Fills what a mask covers, so that no subject of the prompt is neglected; moves no latents outside."""


class StableDiffusionXLAttendAndExciteInpaintPipeline(AttendAndExciteMixin, StableDiffusionXLInpaintPipeline):
    """Fills what a mask covers, with Stable Diffusion XL."""


class StableDiffusionAttendAndExciteControlNetPipeline(
    AttendAndExciteMixin, StableDiffusionControlNetPipeline
):
    """Stable Diffusion under one ControlNet or several, which are asked again after each nudge."""


class StableDiffusionXLAttendAndExciteControlNetPipeline(
    AttendAndExciteMixin, StableDiffusionXLControlNetPipeline
):
    """Stable Diffusion XL under one ControlNet or several, which are asked again after each nudge."""


class StableDiffusion3AttendAndExcitePipeline(AttendAndExciteMixin, StableDiffusion3Pipeline):
    """Stable Diffusion 3 and 3.5, in which no subject of the prompt is neglected."""


class FluxAttendAndExcitePipeline(AttendAndExciteMixin, FluxPipeline):
    """Flux, in which no subject of the prompt is neglected."""
