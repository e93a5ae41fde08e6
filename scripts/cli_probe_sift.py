"""The command `heedful probe sift`: parses, calls, prints."""

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
    from .probe_sift import Found, SiftSettings


def sift(
    image: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Images, files or folders. Default: scenes of the emoji world.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A vision transformer: folder, hub id (in safetensors), or one of the embedded classifier, "
            "cheater, judge, clip. Default: classifier."
        ),
    ] = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(help="Where the subjects are, white: files or a folder, one for each image in order."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Where high relevance is suspicious: apart (outside the largest cluster of keypoints), "
            "little (hardly any keypoint), off (outside the mask). Default: off with --masks, else apart."
        ),
    ] = None,
    above: Annotated[
        float, typer.Option(help="How many times the mean a suspicious patch's relevance is.")
    ] = 10.0,
    contrast: Annotated[
        float, typer.Option(help="The contrast that a keypoint needs; lower finds more of them.")
    ] = 0.02,
    null: Annotated[
        str, typer.Option(help="What chance is: shift (keypoints moved together) or permutation.")
    ] = "shift",
    draws: Annotated[
        int, typer.Option(help="How often chance is drawn; p is at least 1 / (draws + 1).")
    ] = 500,
    scenes: Annotated[
        str,
        typer.Option(help="Emoji scenes: plain, or with a mark that is right (agree) or not (conflict)."),
    ] = "plain",
    count: Annotated[int, typer.Option(help="How many emoji scenes, or the most images.")] = 64,
    out: Out = Path("out"),
    seed: Annotated[int, typer.Option(help="Of the scenes and of all draws.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """See attention beside SIFT keypoints, and what an answer rests on besides its subject.

    Examples:

    `heedful probe sift --model cheater --scenes conflict`

    `heedful probe sift photos/ --model google/vit-base-patch16-224 --contrast 0.04`

    `heedful probe sift photos/ --masks masks/ --model my-vit --above 5`

    Keypoints say where there is much to see. The table gives for each layer how much attention goes to
    patches with many of them, over chance (1): between such patches, from any patch, from [CLS]; and in
    brackets how many heads differ from chance, adjusted for looking at all of them.

    Patches with far more relevance than the mean that lie off the subject are suspicious. They are taken out,
    beside as many random ones, and what becomes of the answer is said. A suspicion is no proof: look at the
    picture. Needs the extra: pip install "heedful\\[sift]".

    Into the folder go sift.json, the numbers of the heads (`SiftAttention.load` reads them), and pictures of
    keypoints, heads, entropy and suspicious patches. The formulas are a reconstruction: docs/sift.md.
    """
    with clear_errors():
        quieten()
        from .probe_sift import SiftSettings

        settings = SiftSettings(
            images=tuple(image or ()),
            masks=tuple(masks or ()),
            scenes=scenes,
            count=count,
            model=model,
            rule=rule,
            above=above,
            contrast=contrast,
            null=null,
            draws=draws,
            seed=seed,
            device=device,
            dtype=dtype,
        )
        _carry_out(settings, out)


def _carry_out(settings: SiftSettings, out: Path) -> None:
    from .probe_sift import measure, save
    from .results import make_folder

    make_folder(out)
    with watched() as watch:
        found = measure(settings, watch)
    _print(found)
    tell_written(save(out, settings, found))


def _print(found: Found) -> None:
    """A table of the layers, and what was suspicious in words."""
    from .probe_sift import rows, summary

    table = Table(title=escape(f"{found.heads.model}, {len(found.images)} images"), title_justify="left")
    table.add_column("layer")
    for name in found.heads.ratios:
        table.add_column(escape(name), justify="right")
    for row in rows(found):
        cells = [
            f"{row[name]['ratio']:.2f} ({row[name]['heads_above']} up, {row[name]['heads_below']} down "
            f"of {row[name]['heads']})"
            for name in found.heads.ratios
        ]
        table.add_row(escape(row["layer"]), *cells)
    Console().print(table)
    if found.left_out:
        typer.echo(f"{found.left_out} images without a keypoint were left out; a lower --contrast finds more")
    told = summary(found)
    if told is None:
        typer.echo("no classes, so no answer to explain: only the heads were looked at")
        return
    typer.echo(f"suspicious ({told['meaning']}): {told['flagged']} of {told['images']} images")
    if told["flagged"]:
        typer.echo(
            f"without these patches the answer is another one in {told['changed']:.0%} of them "
            f"({told['random_changed']:.0%} without as many random ones), and the first answer less probable "
            f"by {told['drop']:.2f} ({told['random_drop']:.2f})"
        )
