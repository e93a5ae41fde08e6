"""The command `heedful probe features`: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from .probe_options import Device, Dtype, Out, tell_written, watched
from .terminal import clear_errors, quieten

if TYPE_CHECKING:
    from .probe_features import FeatureSettings, Found


def features(
    image: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Real images to look through, files or folders. Default: 200 scenes of the emoji world.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A ViT, DeiT, DINOv2, CLIP or SigLIP of transformers: folder, hub id (in safetensors), or "
            "one of the embedded classifier, cheater, judge, clip. Default: classifier."
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="A layer, from 0; comma-separated or repeated for several. Default: all."),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            help="A channel, from 0, in each of the layers; as --layer. Default: drawn by the seed."
        ),
    ] = None,
    each: Annotated[int, typer.Option(help="How many channels are drawn in every layer.")] = 4,
    kind: Annotated[str, typer.Option(help="One of feed_forward, query, key, value.")] = "feed_forward",
    steps: Annotated[int, typer.Option(help="Steps of the search; published: 400.")] = 100,
    copies: Annotated[int, typer.Option(help="Changed copies of the image a step; published: 8.")] = 2,
    rate: Annotated[float, typer.Option(help="Adam's rate; published: 0.1, and 1 for CLIP.")] = 0.1,
    colour: Annotated[float, typer.Option(help="Strength of the colour shift; published: 1.")] = 0.3,
    noise: Annotated[float, typer.Option(help="Deviation of the noise at first; published: 0.5.")] = 0.3,
    jitter: Annotated[
        float, typer.Option(help="Longest move, as a share of the shorter side; published: 1/7.")
    ] = 0.143,
    variation: Annotated[float, typer.Option(help="Weight of smoothness; published: 0.09 to 0.9.")] = 0.09,
    out: Out = Path("out"),
    seed: Annotated[int, typer.Option(help="Of the channels drawn, the noise and the scenes.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make the image that a feature of a vision transformer answers to most.

    Examples:

    `heedful probe features`

    `heedful probe features --layer 0,3,5 --each 8 --out out/features`

    `heedful probe features photos/ --model google/vit-base-patch16-224 --layer 11 --steps 400 --copies 8`

    Into the folder go a sheet with a line a layer, a page with the real images that move each feature most
    (beside each, where in it), the numbers in a safetensors file that `Visualisation.load` reads, and
    features.json. A feature is a channel of a layer; what is made larger is its mean over the patches.

    The table compares what a feature answers to noise, to the best of the real images and to the image made
    for it.
    """
    with clear_errors():
        quieten()
        from ..explain.probing.features import Recipe
        from .probe_features import FeatureSettings, parse_numbers

        recipe = Recipe(
            steps=steps,
            rate=rate,
            copies=copies,
            colour=colour,
            noise=noise,
            jitter=jitter,
            variation=variation,
        )
        settings = FeatureSettings(
            model=model,
            layers=parse_numbers("--layer", layer or []),
            channels=parse_numbers("--channel", channel or []),
            each=each,
            kind=kind,
            images=tuple(image or ()),
            recipe=recipe,
            seed=seed,
            device=device,
            dtype=dtype,
        )
        _carry_out(settings, out)


def _carry_out(settings: FeatureSettings, out: Path) -> None:
    from .probe_features import find, save
    from .results import make_folder

    make_folder(out)
    with watched() as watch:
        found = find(settings, lambda done, total: watch("making images", done, total))
    _print(found)
    tell_written(save(out, found))


def _print(found: Found) -> None:
    """A table: what each feature answers to noise, to the best real image, to its own."""
    table = Table(title=f"mean over the patches, {found.real} real images", title_justify="left")
    for name in ("layer", "kind", "channel", "noise", "best real", "made for it"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    made = found.made
    for feature, begun, strength, best in zip(
        made.features, made.begun, made.strengths, found.best, strict=True
    ):
        numbers = [f"{value:.3f}" for value in (begun, best, strength)]
        table.add_row(str(feature.layer), feature.kind, str(feature.channel), *numbers)
    Console().print(table)
