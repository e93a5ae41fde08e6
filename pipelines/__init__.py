"""Drop-in pipelines of diffusers that guide themselves."""

from .attend_and_excite import StableDiffusionAttendAndExcitePipeline

__all__ = ["StableDiffusionAttendAndExcitePipeline"]
