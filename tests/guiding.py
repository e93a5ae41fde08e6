"""What the tests of `guide` share: a prompt, two objectives, a short run, all that guidance may touch."""

from __future__ import annotations

import dataclasses

import torch
from heedful.guidance import AttendAndExcite, Schedule

PROMPT = "a cat and a frog"
CAT_AND_FROG = AttendAndExcite(words=["cat", "frog"], schedule=Schedule(), reading="softmax", reduction="max")
"""With the paper's points of refinement, so that all that guidance can do is done."""
FEW_MOVES = dataclasses.replace(CAT_AND_FROG, max_refinements=2)
SIZE = {"height": 256, "width": 192}


def run(pipe, prompt=PROMPT, seed=0, count=1, **options):
    settings = {"num_inference_steps": 4, "output_type": "latent", **SIZE, **options}
    prompts = count if isinstance(prompt, str) else len(prompt)
    generators = [torch.Generator().manual_seed(seed + image) for image in range(prompts)]
    return pipe(prompt, generator=generators, num_images_per_prompt=count, **settings).images


def state(pipe):
    """All that guidance touches, by identity and class."""
    return (
        type(pipe),
        type(pipe.scheduler),
        [(name, id(found), type(found)) for name, found in pipe.unet.attn_processors.items()],
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in pipe.unet.modules()],
        [type(module) for module in pipe.unet.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in pipe.unet.parameters()],
        [module.training for module in pipe.unet.modules()],
    )
