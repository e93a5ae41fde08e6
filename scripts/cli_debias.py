"""The command `heedful debias`: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .settings import UsageError
from .terminal import clear_errors, quieten

METHODS = ("relevance", "gradmask", "rrr")
"""Those of heedful.explain.debias, which is not imported here for its weight."""

if TYPE_CHECKING:
    from ..explain.debias import DebiasSettings, Epoch
    from .debias import Task


def debias(
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of images; sub-folders are labels. Default: a demonstration."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="A folder with a mask of the same name for each; the subject is not black."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A CSV file with lines image,label. Only the baselines need labels.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a ViT, DeiT or DINOv2 classifier, in safetensors."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="relevance (RobustViT), or one of the baselines gradmask and rrr.")
    ] = "relevance",
    second_order: Annotated[
        bool, typer.Option(help="Differentiate the attention's gradient, too; twice the time.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(help="AdamW's learning rate. Default: 3e-6, for ViT-B; 1e-4 in the demonstration."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most. Default: 50; 8 in the demonstration.")] = None,
    patience: Annotated[int, typer.Option(help="Epochs without a lower loss after which it ends.")] = 10,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 8,
    augment: Annotated[
        bool | None,
        typer.Option(help="Crop and mirror at random. Default: yes, but not in the demonstration."),
    ] = None,
    validation: Annotated[
        float, typer.Option(help="The share of the images that is kept apart to stop by.")
    ] = 0.25,
    seed: Annotated[
        int, typer.Option(help="Of order, crops, what is kept apart, the demonstration's scenes.", min=0)
    ] = 0,
    out: Annotated[Path, typer.Option(help="The folder to write into; it is made.")] = Path("out/debias"),
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: cuda, in mixed float16, where there is one.")
    ] = None,
) -> None:
    """Make a classifier look at the subject: fine-tune it on where its relevance should be.

    Examples:

    `heedful debias`

    `heedful debias --images photos --masks masks --model google/vit-base-patch16-224`

    `heedful debias --images photos --masks masks --model my-deit --rate 1e-6 --second-order --out out/mine`

    A few images with masks are enough: three a class were published. Labels are not needed. Into the folder
    go the model with its processor, which `from_pretrained` loads, its record `debias.json`, and a sheet of
    what it looked at before and after. Without images the embedded model that reads marks in corners is
    cured of them. The demonstration neither crops nor mirrors: its marks mean something by their place.
    """
    with clear_errors():
        _check(images, masks, labels, model, validation)
        if method not in METHODS:
            raise UsageError(f'--method must be one of {", ".join(METHODS)}; got "{method}"')
        quieten()
        from ..explain.debias import DebiasSettings
        from . import debias as work
        from .machine import choose
        from .results import make_folder

        usual = work.DEMONSTRATION if images is None else DebiasSettings()
        settings = DebiasSettings(
            method=method,  # type: ignore[arg-type]
            second_order=second_order,
            rate=usual.rate if rate is None else rate,
            epochs=usual.epochs if epochs is None else epochs,
            patience=patience,
            batch=batch,
            augment=usual.augment if augment is None else augment,
            seed=seed,
        )
        chosen, _ = choose(device, None)
        make_folder(out)
        console = Console(stderr=True)
        with console.status("loading"):
            if images is None or masks is None or model is None:
                task = work.demonstration(seed, chosen)
            else:
                task = work.own_images(images, masks, labels, model, validation, seed, chosen)
        for name, reason in task.left_out.items():
            typer.echo(f"left out {name}: {reason}", err=True)
        _carry_out(task, settings, chosen, out, console)


def _check(
    images: Path | None, masks: Path | None, labels: Path | None, model: str | None, validation: float
) -> None:
    if (images is None) != (masks is None):
        raise UsageError("--images and --masks belong together: one mask of the same name for each image")
    if images is not None and model is None:
        raise UsageError("--images need --model, the folder or hub id of the model to debias")
    if images is None and (model is not None or labels is not None):
        raise UsageError("--model and --labels need --images and --masks; without them it is a demonstration")
    if not 0 < validation < 1:
        raise UsageError(f"--validation is a share between 0 and 1, got {validation}")


def _carry_out(task: Task, settings: DebiasSettings, device: str, out: Path, console: Console) -> None:
    from . import debias as work

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("epochs", total=settings.epochs)

        def tell(epoch: Epoch) -> None:
            words = f"epochs, validation loss {epoch.validation:.4f}"
            bar.update(shown, completed=epoch.number, description=words)

        outcome = work.carry_out(task, settings, device, tell)
    best, came = outcome.debiased.best, outcome.debiased.history[0]
    typer.echo(
        f"validation loss {came.validation:.4f} before, {best.validation:.4f} after epoch {best.number} of "
        f"{outcome.debiased.history[-1].number}"
    )
    table = Table("images", "figure", "before", "after")
    for name, figure, before, after in work.rows(outcome):
        table.add_row(name, figure, f"{before:.3f}", f"{after:.3f}")
    Console().print(table)
    for path in work.save(task, outcome, out):
        typer.echo(f"wrote {path}")
