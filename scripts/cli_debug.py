"""The command `heedful debug`: parses, calls, prints."""

from __future__ import annotations

from typing import Annotated

import typer

from .settings import DTYPES, UsageError
from .terminal import clear_errors, quieten


def debug(
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a Stable Diffusion in safetensors. Default: the embedded one."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where the page is served; 0 is any free port.")
    ] = 7860,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(DTYPES)}. Default: float16 on cuda, else float32.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Open a page to debug prompts: see which word went where, check what came out, try again.

    Examples:

    `heedful debug`

    `heedful debug --model ./my-stable-diffusion --port 8000 --no-browser`

    The page draws a prompt plain and guided and shows, word by word and step by step, where the attention
    went, how the loss fell, and whether each word is in the image; it remembers what was tried, and saves it
    as one HTML file. A second tab explains any image.

    It is served to this machine alone (127.0.0.1), asks nothing of the internet, and ends with Ctrl-C. Needs
    gradio: `pip install 'heedful[app]'`.
    """
    with clear_errors():
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(f'--dtype must be one of {", ".join(DTYPES)}; got "{dtype}"')
        quieten()
        from . import debug as work

        typer.echo("starting ...", err=True)
        work.carry_out(
            work.DebugSettings(model, port, device, dtype, browser),
            lambda address: typer.echo(f"heedful debug is ready at {address} (Ctrl-C ends it)"),
        )
