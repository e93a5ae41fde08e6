"""The pipelines of the UNet family as cases of `hosting`."""

from __future__ import annotations

from hosting import Case
from tiny_unets import sd1

CASES = [
    Case("StableDiffusionPipeline", sd1),
]
