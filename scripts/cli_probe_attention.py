"""The command `heedful probe attention-distance`: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from .probe_options import Device, Dtype, Out, tell_written, watched
from .terminal import clear_errors, quieten

if TYPE_CHECKING:
    from .probe_attention import AttentionSettings, Probed


def attention_distance(
    image: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Images, files or folders. Default: fresh scenes of the emoji world.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A ViT, DeiT, DINOv2, CLIP or SigLIP of transformers: folder, hub id (in safetensors), or "
            "one of the embedded classifier, cheater, judge, clip. Default: classifier."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="How many scenes; of your own images, the most.")] = 64,
    patch: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,COLUMN",
            help="The patch of the first image whose attention is drawn. Default: [CLS], or the middle one.",
        ),
    ] = None,
    local: Annotated[
        float, typer.Option(help="A head is local below this share of the distance of even attention.")
    ] = 0.5,
    twin: Annotated[
        bool, typer.Option("--twin", help="Draw the same model with random weights beside, in gray.")
    ] = False,
    out: Out = Path("out"),
    seed: Annotated[int, typer.Option(help="Of the scenes and of the twin's weights.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure how far every head of a vision transformer looks, how sharply, and at what.

    Examples:

    `heedful probe attention-distance --twin`

    `heedful probe attention-distance photos --model google/vit-base-patch16-224 --out out/vit`

    `heedful probe attention-distance photo.png --patch 5,3 --model facebook/dinov2-with-registers-base`

    Distances are means over the attention from patches to patches, in pixels of the image as the model sees
    it; [CLS] and registers are taken out first and rows divided by what is left. In the table: the mean
    distance of a layer's heads in pixels, that of the head that looks least and most far, how many are local,
    the entropy in bits, the share of attention on patches, and how much larger what passes by the attention
    and the feed-forward part is than what they add.

    Into the folder go plots of all heads and of the norms, the maps of the first image head by head, the
    similarity of the positions, the filters of the patches; attention-distance.json with the table, and a
    safetensors file that `HeadStatistics.load` reads.
    """
    with clear_errors():
        quieten()
        from .probe_attention import AttentionSettings, parse_patch

        settings = AttentionSettings(
            images=tuple(image or ()),
            count=count,
            model=model,
            patch=None if patch is None else parse_patch(patch),
            local=local,
            twin=twin,
            seed=seed,
            device=device,
            dtype=dtype,
        )
        _carry_out(settings, out)


def _carry_out(settings: AttentionSettings, out: Path) -> None:
    from .probe_attention import measure, save
    from .results import make_folder

    make_folder(out)
    with watched() as watch:
        found = measure(settings, watch)
    _print(found, settings)
    tell_written(save(out, settings, found))


def _print(found: Probed, settings: AttentionSettings) -> None:
    """A line a layer; distances in pixels."""
    from .probe_attention import rows

    heads = found.heads
    title = (
        f"{heads.model}, {len(heads.distance)} images; even attention: {heads.uniform:.1f} pixels, local: "
        f"below {settings.local * heads.uniform:.1f}"
    )
    table = Table(title=title, title_justify="left")
    for name in ("layer", "pixels", "least", "most", "local", "bits", "patches", "skip/att", "skip/ff"):
        table.add_column(name, justify="right")
    for place, row in enumerate(rows(found, settings.local)):
        numbers = [f"{row['distance']['value']:.1f}", f"{row['nearest']:.1f}", f"{row['farthest']:.1f}"]
        numbers += [f"{row['local']} of {row['heads']}", f"{row['entropy']['value']:.2f}"]
        numbers += [
            f"{row[name]:.2f}" for name in ("on_patches", "skip_over_attention", "skip_over_feed_forward")
        ]
        table.add_row(str(place), *numbers)
    Console().print(table)
