"""The pipelines of the UNet family as cases of `hosting`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from hosting import Case
from tiny_unets import adapted, depth, gligen, lcm, sd1, sd2, turbo, xl, xl_adapted

SIZE = {"height": 160, "width": 128}
FROM_AN_IMAGE = {"strength": 0.5, "num_inference_steps": 4}
ALONE = {"parts": ("conditional",), "off": None}


def image() -> torch.Tensor:
    """(1, 3, height, width), 0 to 1."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 160), torch.linspace(0, 1, 128), indexing="ij")
    return torch.stack([rows, columns, rows * columns])[None]


def mask() -> torch.Tensor:
    """(1, 1, height, width), 1 where something new is drawn: an off-centre part, the top left left alone."""
    drawn = torch.zeros(1, 1, 160, 128)
    drawn[:, :, 48:, 32:] = 1
    return drawn


def images(count: int) -> dict[str, Any]:
    """An image for each prompt."""
    return {"image": image().repeat(count, 1, 1, 1)}


def masked(count: int) -> dict[str, Any]:
    """An image and a mask for each prompt."""
    return {**images(count), "mask_image": mask().repeat(count, 1, 1, 1)}


def deep(count: int) -> dict[str, Any]:
    """An image and a depth map for each prompt."""
    return {**images(count), "depth_map": image()[:, 2].repeat(count, 1, 1)}


BOXES = {"gligen_phrases": ["a cat"], "gligen_boxes": [[0.1, 0.2, 0.6, 0.9]]}

CASES = [
    Case("StableDiffusionPipeline", sd1),
    Case("StableDiffusionPipeline, version 2", sd2),
    Case("StableDiffusionXLPipeline", xl),
    Case(
        "StableDiffusionXLPipeline, Turbo",
        turbo,
        parts=("conditional",),
        off=None,
        settings={**SIZE, "num_inference_steps": 2, "guidance_scale": 0.0},
    ),
    Case("LatentConsistencyModelPipeline", lcm, **ALONE, schedulers={"LCMScheduler": {}}),
    Case(
        "LatentConsistencyModelImg2ImgPipeline",
        partial(lcm, "LatentConsistencyModelImg2ImgPipeline"),
        **ALONE,
        arguments=images,
        settings=FROM_AN_IMAGE,
        schedulers={"LCMScheduler": {}},
    ),
    Case(
        "StableDiffusionImg2ImgPipeline",
        partial(sd1, "StableDiffusionImg2ImgPipeline"),
        arguments=images,
        settings=FROM_AN_IMAGE,
    ),
    Case(
        "StableDiffusionXLImg2ImgPipeline",
        partial(xl, "StableDiffusionXLImg2ImgPipeline"),
        arguments=images,
        settings=FROM_AN_IMAGE,
    ),
    Case(
        "StableDiffusionXLImg2ImgPipeline, the refiner",
        partial(xl, "StableDiffusionXLImg2ImgPipeline", refiner=True),
        arguments=images,
        settings=FROM_AN_IMAGE,
    ),
    Case(
        "StableDiffusionInpaintPipeline, 9 channels",
        partial(sd1, "StableDiffusionInpaintPipeline", in_channels=9),
        arguments=masked,
        settings={**SIZE, "num_inference_steps": 2, "strength": 1.0},
    ),
    Case(
        "StableDiffusionInpaintPipeline, 4 channels",
        partial(sd1, "StableDiffusionInpaintPipeline"),
        arguments=masked,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionXLInpaintPipeline, 9 channels",
        partial(xl, "StableDiffusionXLInpaintPipeline", in_channels=9),
        arguments=masked,
        settings={**SIZE, "num_inference_steps": 3, "strength": 0.99},
    ),
    Case(
        "StableDiffusionXLInpaintPipeline, 4 channels",
        partial(xl, "StableDiffusionXLInpaintPipeline"),
        arguments=masked,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionInstructPix2PixPipeline",
        partial(sd1, "StableDiffusionInstructPix2PixPipeline", in_channels=8),
        parts=("conditional", "image", "unconditional"),
        arguments=images,
        per_image=True,
        settings={"num_inference_steps": 2},
    ),
    Case(
        "StableDiffusionXLInstructPix2PixPipeline",
        partial(xl, "StableDiffusionXLInstructPix2PixPipeline", in_channels=8),
        parts=("conditional", "image", "unconditional"),
        arguments=images,
        per_image=True,
        settings={**SIZE, "num_inference_steps": 2},
    ),
    Case("StableDiffusionDepth2ImgPipeline", depth, arguments=deep, settings=FROM_AN_IMAGE),
    Case("StableDiffusionAdapterPipeline", adapted, arguments=images),
    Case("StableDiffusionXLAdapterPipeline", xl_adapted, arguments=images),
    Case("StableDiffusionGLIGENPipeline", gligen, arguments=lambda count: BOXES),
]
