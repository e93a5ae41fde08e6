"""Trains the embedded models: `python scripts/train_emoji.py STAGE`, or under `accelerate launch`.

In order: tokenizer, vae, latents, unet, decoder, export; clip, judge and classifier at any time after the
tokenizer; resnet and bert at any time, detr after resnet, visual-bert, lxmert and cheater after classifier.
An interrupted stage goes on from its checkpoint.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from diffusers import AutoencoderKL, UNet2DConditionModel
from heedful.emoji.models import MODELS
from heedful.emoji.tokenizer import build_tokenizer, write_tokenizer
from heedful.emoji.training import cheater, families, unet, vae, vision
from heedful.emoji.training.export import assemble, export_pipeline
from heedful.emoji.training.latents import Latents, draw
from heedful.emoji.training.loop import Plan
from transformers import CLIPTextModel

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
FRESH_SEED: Final = 900


class Stage(StrEnum):
    """What can be trained, and what goes before and after it."""

    TOKENIZER = "tokenizer"
    VAE = "vae"
    LATENTS = "latents"
    UNET = "unet"
    DECODER = "decoder"
    EXPORT = "export"
    CLIP = "clip"
    JUDGE = "judge"
    CLASSIFIER = "classifier"
    CHEATER = "cheater"
    RESNET = "resnet"
    DETR = "detr"
    VISUAL_BERT = "visual-bert"
    LXMERT = "lxmert"
    BERT = "bert"


STEPS: Final = {Stage.VAE: 4000, Stage.UNET: 5000, Stage.DECODER: 2000}
"""Optimiser steps where none are asked for; the stages of `vision` and `families` keep theirs there."""


@app.command()
def main(
    stage: Annotated[Stage, typer.Argument(help="what to do")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="optimiser steps; each stage has its own number")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="samples a step and process")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of weights, order and noise")] = 0,
    out: Annotated[Path, typer.Option(help="folder of scenes, checkpoints, sheets")] = Path("runs"),
    models: Annotated[Path, typer.Option(help="where finished models go")] = MODELS,
    init: Annotated[
        Path | None, typer.Option(help="to start from: a VAE (vae, latents, decoder), a pipeline (unet)")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="unet: a CLIP, as whose text tower the text encoder starts")
    ] = None,
    resume: Annotated[bool, typer.Option(help="go on from the checkpoint; --no-resume refuses to")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice else")] = None,
) -> None:
    """Train one stage. Checkpoints, log and sheets lie in OUT/STAGE."""
    if threads:
        torch.set_num_threads(threads)
    folder = out / stage.value
    if not resume and (folder / "checkpoint").exists():
        raise typer.BadParameter(
            f"{folder} holds a checkpoint; remove it, or choose another --out, to start anew"
        )
    plan = Plan(steps=steps or _default_steps(stage), folder=folder, seed=seed, precision=_precision())
    if stage is Stage.TOKENIZER:
        write_tokenizer(build_tokenizer(), models / "pipeline" / "tokenizer")
    elif stage in (Stage.VAE, Stage.DECODER):
        _train_vae(plan, batch_size or 16, out, init, decoder_only=stage is Stage.DECODER)
    elif stage is Stage.LATENTS:
        unet.make_latents(_load_vae(init or out / "vae" / "model"), build_tokenizer(), folder)
    elif stage is Stage.UNET:
        latents = Latents.load(out / "latents" / "latents.pt")
        start = _load_vae(init / "vae" if init else out / "vae" / "model")
        tokenizer, size = build_tokenizer(), batch_size or 32
        unet.train_unet(start, tokenizer, latents, plan, batch_size=size, init=init, text=text)
    elif stage is Stage.EXPORT:
        export(out, models / "pipeline")
    elif stage.value in families.SETTINGS:
        families.run_stage(_family_stage(stage), plan, models, batch=batch_size)
    elif stage is Stage.CHEATER:
        cheater.run_stage(plan, models, batch=batch_size)
    else:
        vision.run_stage(_vision_stage(stage), plan, build_tokenizer(), models, batch=batch_size)


def export(out: Path, folder: Path) -> None:
    """The average weights of the UNet stage with the latest VAE, as the pipeline that is shipped."""
    trained = out / "unet" / "pipeline"
    decoder = out / "decoder" / "model"
    pipe = assemble(
        UNet2DConditionModel.from_pretrained(trained / "unet", local_files_only=True),
        CLIPTextModel.from_pretrained(trained / "text_encoder", local_files_only=True),
        _load_vae(decoder if decoder.is_dir() else out / "vae" / "model"),
        build_tokenizer(),
    )
    export_pipeline(pipe, folder)


def _train_vae(plan: Plan, batch_size: int, out: Path, init: Path | None, *, decoder_only: bool) -> None:
    """The whole VAE, or its decoder alone from the VAE stage's result."""
    images = unet.load_scenes(build_tokenizer(), out / "latents").images
    fresh = draw(build_tokenizer(), FRESH_SEED, 128, noisy=0.0, pairs="any").images
    if decoder_only:
        init = init or out / "vae" / "model"
    start = _load_vae(init) if init else vae.build_vae()
    vae.train_vae(start, images, fresh, plan, batch_size=batch_size, encoder_frozen=decoder_only)
    if not decoder_only:
        vae.set_scaling(start, images[:1000])
        start.save_pretrained(plan.folder / "model")


def _precision() -> str:
    """bfloat16 where there is no GPU: a third faster on a CPU that knows it, and as good here."""
    return "fp16" if torch.cuda.is_available() else "bf16"


def _default_steps(stage: Stage) -> int:
    if stage in (Stage.CLIP, Stage.JUDGE, Stage.CLASSIFIER):
        return vision.SETTINGS[_vision_stage(stage)].steps
    if stage.value in families.SETTINGS:
        return families.SETTINGS[_family_stage(stage)].steps
    if stage is Stage.CHEATER:
        return cheater.SETTINGS.steps
    return STEPS.get(stage, 1)


def _vision_stage(stage: Stage) -> vision.Stage:
    return stage.value  # type: ignore[return-value]


def _family_stage(stage: Stage) -> families.Stage:
    return stage.value  # type: ignore[return-value]


def _load_vae(folder: Path) -> AutoencoderKL:
    if not (folder / "config.json").is_file():
        raise typer.BadParameter(f'no VAE in {folder}; run the stage "vae" first')
    return AutoencoderKL.from_pretrained(folder, local_files_only=True).eval()


if __name__ == "__main__":
    app()
