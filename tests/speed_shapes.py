"""A shape so small that the tests of what guidance costs need no time."""

from __future__ import annotations

from heedful.evaluation.speed_shapes import Shape

TINY = Shape(
    "tiny",
    "a tiny Stable Diffusion, 256 x 256",
    256,
    {
        "sample_size": 32,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    },
)
