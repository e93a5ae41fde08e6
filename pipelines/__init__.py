"""Drop-in pipelines of diffusers that guide themselves, and drawing until the words are heeded."""

from .attend_and_excite import StableDiffusionAttendAndExcitePipeline
from .retry import Tried, Try, best, plan, until_heeded

__all__ = ["StableDiffusionAttendAndExcitePipeline", "Tried", "Try", "best", "plan", "until_heeded"]
