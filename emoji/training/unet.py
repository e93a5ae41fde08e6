"""The stage that trains the UNet and its text encoder, and shows whether attention follows the words."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from rich.console import Console
from torch import nn
from transformers import CLIPTokenizer

from ..world import scenes
from . import attention
from .diffusion import TAIL_SHARE, DiffusionStep, Generator, build_scheduler
from .export import assemble, export_pipeline, sample_sheet
from .latents import Drawn, Latents, draw, encode
from .loop import Plan, run

SCENES = 26_000
NOISY_SHARE = 0.30
SCENES_SEED = 1
REPORT_SEED = 501
_console = Console()


def load_scenes(
    tokenizer: CLIPTokenizer, folder: Path, *, count: int = SCENES, seed: int = SCENES_SEED
) -> Drawn:
    """The training scenes kept in `folder/scenes.pt`; drawn now if they are not there."""
    kept = folder / "scenes.pt"
    if kept.is_file():
        return Drawn.load(kept)
    drawn = draw(tokenizer, seed, count, noisy=NOISY_SHARE)
    drawn.save(kept)
    return drawn


def make_latents(vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path) -> Latents:
    """Encode the training scenes into `folder/latents.pt`."""
    latents = encode(vae, load_scenes(tokenizer, folder))
    latents.save(folder / "latents.pt")
    return latents


def train_unet(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    latents: Latents,
    plan: Plan,
    *,
    batch_size: int = 32,
    sheet_every: int = 500,
    init: Path | None = None,
    text: Path | None = None,
) -> Generator:
    """Train, resuming from `plan.folder`; reports measure attention and write a sheet and a pipeline.

    `init` is the folder of a pipeline to start from instead of random weights: the words are attended there
    already, so that no end token is taken away. `text` is that of a CLIP whose text tower the text encoder
    starts as; its words have yet to be attended.
    """
    torch.manual_seed(plan.seed)
    model = Generator(tokenizer)
    model.start_from(init, text)
    alphas = build_scheduler().alphas_cumprod
    tails = TAIL_SHARE if init is None or text is not None else 0.0
    step = DiffusionStep(latents, vae.config.scaling_factor, plan.steps, batch_size, alphas, tails)
    known = list(scenes(REPORT_SEED, 48, subjects=2))

    def report(trained: nn.Module, number: int) -> dict[str, float]:
        if number % sheet_every and number != plan.steps:
            return {}
        average = trained.average.float().eval()
        found = attention.measure(average["unet"], average["text_encoder"], vae, tokenizer, alphas, known)
        pipe = assemble(average["unet"], average["text_encoder"], vae, tokenizer)
        sample_sheet(pipe, plan.folder / f"sheet-{number:06d}.png")
        export_pipeline(pipe, plan.folder / "pipeline")
        return {
            f"{name}_{side}": getattr(seen, name)
            for side, seen in found.items()
            for name in ("in_box", "peak", "start")
        }

    run(model, [model.optimizer()], step, plan, report=report)
    return model
