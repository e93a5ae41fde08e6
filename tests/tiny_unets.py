"""Tiny pipelines of the UNet family with random weights: the real architectures, in a blink, without a hub.

Their heads, and their grids' heights and widths, are unequal, so that nothing fits by chance.
"""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionPipeline
from tiny import tiny_pipeline


def sd1(**unet: Any) -> StableDiffusionPipeline:
    """Stable Diffusion 1: two heads in the outer blocks, four in the inner ones."""
    return tiny_pipeline(attention_head_dim=(2, 4, 4), layers_per_block=2, **unet)
