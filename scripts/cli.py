"""The command `heedful`: parses, calls, prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import settings as asked
from .cli_benchmark import benchmark
from .cli_debias import debias
from .cli_debug import debug
from .cli_evaluate import evaluate
from .cli_explain import explain
from .cli_explain_methods import explain_methods
from .cli_probe import probe
from .settings import GenerateSettings, Request, UsageError
from .terminal import clear_errors, quieten

if TYPE_CHECKING:
    from .generate import Drawing, Watch

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"heedful {version('heedful')}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    """Diffusion that heeds every word of the prompt."""


app.command()(explain)
app.command()(explain_methods)
app.command()(evaluate)
app.command()(debug)
app.command()(debias)
app.command()(benchmark)
app.add_typer(probe, name="probe")


@app.command()
def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(help="What to draw, each prompt in quotes.", show_default=False)
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            help="A text file with a prompt a line; after a tab, its words: `cat, frog`. # comments."
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(
            help="Words or phrases of the prompt that must not be neglected, such as `frog`, `red bow`, "
            "`dog#2` (the second dog). Comma-separated or repeated. Default: every content word."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a Stable Diffusion (1, 2, XL, 3), a Flux or another pipeline that "
            "guidance knows, in safetensors. Default: the embedded one."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the noise; repeat it for several images. Default: 0.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: 30.")] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(help="Scale of classifier-free guidance. Default: 5 embedded, else the pipeline's own."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(asked.SCHEDULERS)}. Default: the model's own.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT in pixels, such as 768x512. Default: the model's own.")
    ] = None,
    compare: Annotated[
        bool | None, typer.Option(help="Draw the plain image of the same seed, too. Default: do.")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What the images should not show. Default: nothing.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How far guidance moves: multiplies its step. Default: 1.")
    ] = None,
    until_heeded: Annotated[
        int | None,
        typer.Option(
            help="Check each guided image, and while a word is not in it draw again, at most so many times "
            "with the first: more strongly, then from another seed. The best is kept."
        ),
    ] = None,
    check_model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the CLIP or SigLIP that checks. Default: the embedded one."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write into; it is made.")] = Path("out"),
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(asked.DTYPES)}. Default: float16 on cuda, else float32."),
    ] = None,
    again: Annotated[
        Path | None, typer.Option(help="Make the images of an earlier run again, from the run.json it wrote.")
    ] = None,
) -> None:
    """Draw prompts plain and guided, so that no subject is neglected, and say which words were attended.

    Examples:

    `heedful generate "a cat and a frog"`

    `heedful generate "a monkey with a red bow" --words "monkey, red bow" --seed 1 --seed 2 --out out/monkey`

    `heedful generate "a lion and a crown" --model ./my-stable-diffusion --scheduler euler --size 768x512`

    `heedful generate --prompts-file prompts.txt --no-compare`

    `heedful generate "a dog and a clock" --until-heeded 6`

    `heedful generate --again out/run.json --out out/same`

    Into the folder go a PNG an image, a contact sheet a prompt (plain above guided, and beside each image
    where its words' attention went), and run.json, from which `--again` makes the same pixels.

    A word is *attended* if its attention reached the height that guidance insists on, else *weak*. On the
    embedded model a judge looks at the image itself and says *heeded* or *neglected*.
    """
    chosen = {
        "model": model,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "scheduler": scheduler,
        "size": size,
        "compare": compare,
        "negative_prompt": negative_prompt,
        "strength": strength,
        "until_heeded": until_heeded,
        "check_model": check_model,
        "dtype": dtype,
    }
    with clear_errors():
        if again is None:
            requests = _requests(prompts or [], prompts_file, words or [])
            settings, record = _settings(requests, seed or [], chosen), None
        else:
            lists = {"prompts": prompts, "prompts-file": prompts_file, "words": words, "seed": seed}
            _check_alone({**lists, **chosen})
            settings, record = asked.read_record(again)
        if device is not None:
            settings = replace(settings, device=device)
        _carry_out(settings, out, record)


def _requests(prompts: Sequence[str], path: Path | None, words: Sequence[str]) -> tuple[Request, ...]:
    wanted = asked.parse_words(words)
    listed = asked.read_prompts(path) if path is not None else []
    given = [*(Request(prompt) for prompt in prompts), *listed]
    return tuple(request if request.words else Request(request.prompt, wanted) for request in given)


def _settings(
    requests: tuple[Request, ...], seeds: Sequence[int], chosen: dict[str, Any]
) -> GenerateSettings:
    given = {name: value for name, value in chosen.items() if value is not None}
    if "size" in given:
        given["size"] = asked.parse_size(given["size"])
    return GenerateSettings(requests, seeds=tuple(seeds) or (0,), **given)


def _check_alone(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value not in (None, []):
            option = "the prompts" if name == "prompts" else "--" + name.replace("_", "-")
            raise UsageError(
                f"--again takes everything from the record; leave out {option} "
                "(only --out and --device go with it)"
            )


def _carry_out(settings: GenerateSettings, out: Path, record: dict[str, Any] | None) -> None:
    quieten()
    from . import generate as work
    from . import results

    settings = work.resolve(settings)
    results.make_folder(out)
    with Console(stderr=True).status("loading the model"):
        pipe = work.load(settings)
    settings = work.fitted(pipe, settings)
    work.check_words(pipe, settings.requests)
    drawings = []
    with _progress(settings) as watch:
        for drawing in work.draw(pipe, settings, watch):
            results.save_image(out, settings, drawing)
            drawings.append(drawing)
    _print_words(drawings)
    for path in results.save_summary(out, settings, drawings):
        typer.echo(f"wrote {path}")
    if record is not None:
        _print_comparison(results.differences(record, settings, drawings), len(drawings))


@contextmanager
def _progress(settings: GenerateSettings) -> Iterator[Watch]:
    """Bars on the terminal for images and steps, with the loss of the latest guided step."""
    images = len(settings.requests) * len(settings.seeds) * (2 if settings.compare else 1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    from ..pictures.draw import printable

    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=Console(stderr=True)) as bars:
        total = images if settings.until_heeded is None else None  # nobody knows how many tries it takes
        whole = bars.add_task("images", total=total, loss="")
        steps = bars.add_task("steps", total=settings.steps, loss="")

        def watch(what: str, done: int, total: int, loss: float | None) -> None:
            shown = "" if loss is None else f"loss {loss:.3f}"
            bars.update(
                steps, description=escape(printable(what)[:60]), completed=done, total=total, loss=shown
            )
            if done == total:
                bars.advance(whole)

        yield watch


def _print_words(drawings: Sequence[Drawing]) -> None:
    """A table a prompt: each word's attention and, where there is a judge, its verdict."""
    from ..pictures.draw import printable
    from .results import word_reports

    console = Console()
    for request, own in groupby(drawings, key=lambda drawing: drawing.request):
        shown = list(own)
        judged = any(drawing.verdicts for drawing in shown)
        table = Table(title=escape(printable(request.prompt)), title_justify="left")
        checked = any(drawing.tried for drawing in shown)
        extra = [*(["check"] if checked else []), *(["judge"] if judged else [])]
        for name in ("seed", "image", "word", "attention", *extra):
            table.add_column(name)
        for drawing in shown:
            for report in word_reports(drawing):
                verdict = [report.checked or ""] if checked else []
                verdict += [report.verdict or "not known"] if judged else []
                table.add_row(
                    str(drawing.seed), drawing.kind, escape(printable(report.word)), str(report), *verdict
                )
        console.print(table)
        _print_tries(console, shown)


def _print_tries(console: Console, drawings: Sequence[Drawing]) -> None:
    """What was tried for each image that was checked, the one that was kept marked."""
    from ..pictures.draw import printable
    from ..pipelines.retry import best

    for drawing in (one for one in drawings if one.tried):
        kept = best(drawing.tried)
        for number, one in enumerate(drawing.tried, 1):
            words = ", ".join(f"{printable(word.word)} {word.verdict}" for word in one.verdict.words)
            mark = ", kept" if one is kept else ""
            how = f"strength {one.strength:g}, seed {one.seed}"
            console.print(
                escape(f"seed {drawing.seed}, try {number} ({how}): {words}{mark}"), highlight=False
            )


def _print_comparison(different: Sequence[str], count: int) -> None:
    if not different:
        typer.echo(f"all {count} images are equal to the record's, pixel by pixel")
        return
    typer.echo(
        f"{len(different)} of {count} images differ from the record's: {', '.join(different)}; other "
        "versions of the libraries or another device can be why (run.json names them)",
        err=True,
    )
    raise typer.Exit(1)
