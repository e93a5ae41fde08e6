"""Trains the embedded models: `python scripts/train_emoji.py STAGE`, or under `accelerate launch`.

In order: tokenizer, vae, latents, unet, decoder, export; clip, judge and classifier when one likes.
An interrupted stage resumes from its checkpoint.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from heedful.emoji.models import MODELS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from heedful.emoji.training.loop import Plan
    from transformers import CLIPTokenizer

FRESH_SEED = 900

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Stage(StrEnum):
    """What can be trained."""

    TOKENIZER = "tokenizer"
    VAE = "vae"
    LATENTS = "latents"
    UNET = "unet"
    DECODER = "decoder"
    EXPORT = "export"


STEPS = {Stage.VAE: 3000, Stage.UNET: 5000, Stage.DECODER: 2500}


@app.command()
def main(
    stage: Annotated[Stage, typer.Argument(help="what to train")],
    steps: Annotated[int | None, typer.Option(help="optimiser steps; each stage has its own default")] = None,
    batch_size: Annotated[int | None, typer.Option(help="samples a step and process")] = None,
    seed: Annotated[int, typer.Option(help="of everything that is drawn")] = 0,
    out: Annotated[Path, typer.Option(help="folder of scenes, checkpoints, sheets")] = Path("runs"),
    init: Annotated[Path | None, typer.Option(help="a saved model of the same kind to start from")] = None,
    resume: Annotated[bool, typer.Option(help="go on from the checkpoint in the folder")] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
) -> None:
    """Train one stage; what it leaves lies in OUT/STAGE."""
    if threads:
        torch.set_num_threads(threads)
    folder = out / stage.value
    if not resume and (folder / "checkpoint").exists():
        raise typer.BadParameter(
            f"{folder} holds a checkpoint; remove it, or choose another --out, to start anew"
        )
    _run(stage, steps or STEPS.get(stage, 0), batch_size, seed, out, init)


def _run(stage: Stage, steps: int, batch_size: int | None, seed: int, out: Path, init: Path | None) -> None:
    from heedful.emoji.tokenizer import build_tokenizer, write_tokenizer
    from heedful.emoji.training import unet
    from heedful.emoji.training.latents import Latents
    from heedful.emoji.training.loop import Plan

    plan = Plan(
        steps=max(1, steps), folder=out / stage.value, seed=seed, save_every=250, precision=_precision()
    )
    if stage is Stage.TOKENIZER:
        write_tokenizer(build_tokenizer(), MODELS / "pipeline" / "tokenizer")
    elif stage is Stage.LATENTS:
        unet.make_latents(_vae(init or out / "vae" / "model"), _tokenizer(), out / "latents")
    elif stage in (Stage.VAE, Stage.DECODER):
        _run_vae(plan, batch_size or 16, out, init, decoder_only=stage is Stage.DECODER)
    elif stage is Stage.UNET:
        latents = Latents.load(out / "latents" / "latents.pt")
        unet.train_unet(_vae(out / "vae" / "model"), _tokenizer(), latents, plan, batch_size=batch_size or 32)
    else:
        raise typer.BadParameter(f"the stage {stage.value} is not written yet")


def _run_vae(plan: Plan, batch_size: int, out: Path, init: Path | None, *, decoder_only: bool) -> None:
    """The whole VAE, or its decoder alone from the VAE stage's result."""
    from heedful.emoji.training import unet, vae
    from heedful.emoji.training.latents import draw

    images = unet.load_scenes(_tokenizer(), out / "latents").images
    fresh = draw(_tokenizer(), FRESH_SEED, 128, noisy=0.0, pairs="any").images
    if decoder_only:
        init = init or out / "vae" / "model"
    start = _vae(init) if init else vae.build_vae()
    vae.train_vae(start, images, fresh, plan, batch_size=batch_size, encoder_frozen=decoder_only)
    if not decoder_only:
        vae.set_scaling(start, images[:1000])
        start.save_pretrained(plan.folder / "model")


def _precision() -> str:
    """bfloat16 where there is no GPU: a third faster on a CPU that knows it, and as good here."""
    return "fp16" if torch.cuda.is_available() else "bf16"


def _tokenizer() -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(MODELS / "pipeline" / "tokenizer", local_files_only=True)


def _vae(folder: Path) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True).eval()


if __name__ == "__main__":
    app()
