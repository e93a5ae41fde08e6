"""Drop-in pipelines of diffusers that guide themselves, and drawing until the words are heeded."""

from .attend_and_excite import StableDiffusionAttendAndExcitePipeline
from .drop_ins import (
    FluxAttendAndExcitePipeline,
    StableDiffusion3AttendAndExcitePipeline,
    StableDiffusionAttendAndExciteControlNetPipeline,
    StableDiffusionAttendAndExciteImg2ImgPipeline,
    StableDiffusionAttendAndExciteInpaintPipeline,
    StableDiffusionXLAttendAndExciteControlNetPipeline,
    StableDiffusionXLAttendAndExciteImg2ImgPipeline,
    StableDiffusionXLAttendAndExciteInpaintPipeline,
    StableDiffusionXLAttendAndExcitePipeline,
)
from .mixin import AttendAndExciteMixin
from .retry import Tried, Try, best, plan, until_heeded

__all__ = [
    "AttendAndExciteMixin",
    "FluxAttendAndExcitePipeline",
    "StableDiffusion3AttendAndExcitePipeline",
    "StableDiffusionAttendAndExciteControlNetPipeline",
    "StableDiffusionAttendAndExciteImg2ImgPipeline",
    "StableDiffusionAttendAndExciteInpaintPipeline",
    "StableDiffusionAttendAndExcitePipeline",
    "StableDiffusionXLAttendAndExciteControlNetPipeline",
    "StableDiffusionXLAttendAndExciteImg2ImgPipeline",
    "StableDiffusionXLAttendAndExciteInpaintPipeline",
    "StableDiffusionXLAttendAndExcitePipeline",
    "Tried",
    "Try",
    "best",
    "plan",
    "until_heeded",
]
