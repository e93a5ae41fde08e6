"""The command `heedful probe similarity`: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .probe_options import Device, Dtype, Out, tell_written, watched
from .terminal import clear_errors, quieten

if TYPE_CHECKING:
    from .probe_similarity import Found, SimilaritySettings


def similarity(
    image: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Images to see, files or folders; at least 4. Default: scenes of the emoji world.",
            show_default=False,
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option(
            help="A model of images: folder, hub id (in safetensors), or one of the embedded judge, resnet, "
            "classifier, clip. Default: judge, a ViT."
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Option(
            help="The other model. Default: resnet, of the judge's task; beside your own --first that itself."
        ),
    ] = None,
    first_layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers by the names of model.named_modules(); * is any one part between dots. Repeat it "
            "for several. Default: what enters the first layer, and all layers."
        ),
    ] = None,
    second_layers: Annotated[list[str] | None, typer.Option(help="The same of the other model.")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="Of each model beside: receptive-field (how far layers look), localisation (does a token "
            "hold its patch), probes (what is read off layers; needs a sub-folder for each label, or the "
            "emoji scenes). Comma-separated or repeated."
        ),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Compare twins with random weights as well.")
    ] = False,
    count: Annotated[int, typer.Option(help="How many emoji scenes.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Images at once; CKA of larger ones varies less.")] = 16,
    out: Out = Path("out"),
    seed: Annotated[int, typer.Option(help="Of the scenes, the twins and the probes.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """See which layers of two models tell images apart in the same way (linear CKA).

    Examples:

    `heedful probe similarity --control`

    `heedful probe similarity photos/ --first google/vit-base-patch16-224 --second microsoft/resnet-50`

    `heedful probe similarity photos/ --first my-vit --first-layers "vit.layers.*" --also localisation`

    CKA is 1 where two layers tell the same images apart in the same way, up to rotation and scale, and 0
    where they are unrelated. Untrained models can be much alike, since all still look like the pixels:
    compare with --control before you believe in a high value.

    Into the folder go the matrix as a picture, the numbers in safetensors files that `Similarity.load` (and
    its kin) read, similarity.json, and the pictures of what was asked --also. The table names for every layer
    of the first model the one of the second that is most like it, with a 95 % interval over minibatches
    where there are at least five.
    """
    with clear_errors():
        quieten()
        from .probe_similarity import SimilaritySettings

        settings = SimilaritySettings(
            images=tuple(image or ()),
            first=first,
            second=second,
            first_layers=tuple(first_layers or ()),
            second_layers=tuple(second_layers or ()),
            also=tuple(part.strip() for one in also or [] for part in one.split(",")),
            control=control,
            count=count,
            batch_size=batch_size,
            seed=seed,
            device=device,
            dtype=dtype,
        )
        _carry_out(settings, out)


def _carry_out(settings: SimilaritySettings, out: Path) -> None:
    from .probe_similarity import find, save
    from .results import make_folder

    make_folder(out)
    with watched() as watch:
        found = find(settings, watch)
    _print(found)
    tell_written(save(out, found))


def _print(found: Found) -> None:
    """A table: for every layer of the first model the most similar one of the second."""
    one, other = found.trained, found.random
    low, high = one.interval
    title = f"{one.models[0]} and {one.models[1]}, {one.images} images"
    table = Table(title=escape(title), title_justify="left")
    names = ("layer", "most like", "CKA", "95 % interval", *(["random twins"] if other else []))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place > 1 else "left", overflow="fold")
    for row, (name, nearest, value) in enumerate(one.nearest()):
        column = one.layers[1].index(nearest)
        known = low[row, column].isfinite()
        ends = f"{low[row, column]:.2f} to {high[row, column]:.2f}" if known else "-"
        twins = [f"{other.cka[row, column]:.2f}"] if other else []
        table.add_row(escape(name), escape(nearest), f"{value:.2f}", ends, *twins)
    Console().print(table)
