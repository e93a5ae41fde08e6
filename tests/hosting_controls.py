"""Pipelines with ControlNets, adapters, perturbed attention or guiders as cases of `hosting`."""

from __future__ import annotations

from functools import partial
from typing import Any

from hosting import Case
from hosting_unets import FROM_AN_IMAGE, SIZE, image, images, masked
from tiny_controls import PERTURBED, adapted, controlled, modular, perturbed
from tiny_unets import xl

TWO = {**SIZE, "num_inference_steps": 2}
THREE = {
    "parts": ("unconditional", "conditional", "perturbed"),
    "parts_off": ("conditional", "perturbed"),
}
ALONE = {"parts": ("conditional",), "off": None}


def control(count: int) -> dict[str, Any]:
    """A control image for each image, upside down."""
    return {"control_image": image().flip(2).repeat(count, 1, 1, 1)}


def controls(count: int) -> dict[str, Any]:
    """An image to begin with, and two for two ControlNets."""
    found = control(count)["control_image"]
    return {**images(count), "control_image": [found, found.flip(3)]}


def control_within(count: int) -> dict[str, Any]:
    """An image, a mask and a control image."""
    return {**masked(count), **control(count)}


def control_from(count: int) -> dict[str, Any]:
    """An image to begin with, and a control image."""
    return {**images(count), **control(count)}


def united(count: int) -> dict[str, Any]:
    """A control image for the second of a union's modes."""
    return {"control_image": [control(count)["control_image"]], "control_mode": [1]}


CASES = [
    Case(
        "StableDiffusionControlNetPipeline",
        partial(controlled, "StableDiffusionControlNetPipeline"),
        arguments=images,
        settings=TWO,
    ),
    Case(
        "StableDiffusionXLControlNetPipeline, guess mode",
        partial(controlled, "StableDiffusionXLControlNetPipeline", xl),
        arguments=images,
        settings={**TWO, "guess_mode": True},
    ),
    Case(
        "StableDiffusionPAGPipeline",
        partial(perturbed, "StableDiffusionPAGPipeline"),
        **THREE,
    ),
    Case("StableDiffusionXLModularPipeline", modular, **ALONE, settings=TWO, calls=2),
]
"""Those that all tests of `hosting` are for."""

FURTHER = [
    Case(
        "StableDiffusionControlNetImg2ImgPipeline, two ControlNets",
        partial(controlled, "StableDiffusionControlNetImg2ImgPipeline", nets=2),
        arguments=controls,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionXLControlNetImg2ImgPipeline",
        partial(controlled, "StableDiffusionXLControlNetImg2ImgPipeline", xl),
        arguments=control_from,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionControlNetInpaintPipeline, 9 channels",
        partial(controlled, "StableDiffusionControlNetInpaintPipeline", in_channels=9),
        arguments=control_within,
        settings=TWO,
    ),
    Case(
        "StableDiffusionControlNetInpaintPipeline, 4 channels",
        partial(controlled, "StableDiffusionControlNetInpaintPipeline"),
        arguments=control_within,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionXLControlNetInpaintPipeline, 4 channels",
        partial(controlled, "StableDiffusionXLControlNetInpaintPipeline", xl),
        arguments=control_within,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionXLControlNetUnionPipeline",
        partial(controlled, "StableDiffusionXLControlNetUnionPipeline", xl, union=True),
        arguments=united,
        settings=TWO,
    ),
    Case(
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        partial(controlled, "StableDiffusionXLControlNetUnionImg2ImgPipeline", xl, union=True),
        arguments=lambda count: {**images(count), **united(count)},
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        partial(controlled, "StableDiffusionXLControlNetUnionInpaintPipeline", xl, union=True),
        arguments=lambda count: {**masked(count), **united(count)},
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionPAGImg2ImgPipeline",
        partial(perturbed, "StableDiffusionPAGImg2ImgPipeline"),
        **THREE,
        arguments=images,
        settings=FROM_AN_IMAGE,
    ),
    Case(
        "StableDiffusionPAGInpaintPipeline",
        partial(perturbed, "StableDiffusionPAGInpaintPipeline", in_channels=9),
        **THREE,
        arguments=masked,
        settings={**SIZE, "num_inference_steps": 2, "strength": 1.0},
    ),
    Case(
        "StableDiffusionXLPAGInpaintPipeline",
        partial(perturbed, "StableDiffusionXLPAGInpaintPipeline", xl),
        **THREE,
        arguments=masked,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionXLPAGPipeline",
        partial(perturbed, "StableDiffusionXLPAGPipeline", xl),
        **THREE,
        settings=TWO,
    ),
    Case(
        "StableDiffusionXLPAGImg2ImgPipeline",
        partial(perturbed, "StableDiffusionXLPAGImg2ImgPipeline", xl),
        **THREE,
        arguments=images,
        settings=FROM_AN_IMAGE,
    ),
    Case(
        "StableDiffusionControlNetPAGPipeline",
        partial(controlled, "StableDiffusionControlNetPAGPipeline", pag_applied_layers=PERTURBED),
        **THREE,
        arguments=images,
        settings=TWO,
    ),
    Case(
        "StableDiffusionXLControlNetPAGPipeline",
        partial(controlled, "StableDiffusionXLControlNetPAGPipeline", xl, pag_applied_layers=PERTURBED),
        **THREE,
        arguments=images,
        settings=TWO,
    ),
    Case(
        "StableDiffusionControlNetPAGInpaintPipeline",
        partial(controlled, "StableDiffusionControlNetPAGInpaintPipeline", pag_applied_layers=PERTURBED),
        **THREE,
        arguments=control_within,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case(
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
        partial(
            controlled, "StableDiffusionXLControlNetPAGImg2ImgPipeline", xl, pag_applied_layers=PERTURBED
        ),
        **THREE,
        arguments=control_from,
        settings={**SIZE, **FROM_AN_IMAGE},
    ),
    Case("StableDiffusionAdapterPipeline", adapted, arguments=images, settings=TWO),
    Case(
        "StableDiffusionXLAdapterPipeline",
        partial(adapted, "StableDiffusionXLAdapterPipeline", xl),
        arguments=images,
        settings=TWO,
    ),
    Case(
        "StableDiffusionXLModularPipeline, from an image",
        modular,
        **ALONE,
        arguments=images,
        settings={**SIZE, **FROM_AN_IMAGE},
        calls=2,
    ),
    Case(
        "StableDiffusionXLModularPipeline, inpainting",
        modular,
        **ALONE,
        arguments=masked,
        settings={**SIZE, **FROM_AN_IMAGE},
        calls=2,
    ),
    Case(
        "StableDiffusionXLModularPipeline, inpainting with 9 channels",
        partial(modular, in_channels=9),
        **ALONE,
        arguments=masked,
        settings={**SIZE, **FROM_AN_IMAGE},
        calls=2,
    ),
    Case(
        "StableDiffusionXLModularPipeline, a ControlNet in guess mode",
        partial(modular, control=True),
        **ALONE,
        arguments=control,
        settings={**TWO, "guess_mode": True},
        calls=2,
    ),
]
"""Those that work as one of `CASES` or of the UNet family's does, of which a few things are asked."""
