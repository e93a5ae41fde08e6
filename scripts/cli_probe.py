"""The command `heedful probe`: what the layers of a model see, a subcommand for each way of asking."""

from __future__ import annotations

import typer

from .cli_probe_attention import attention_distance
from .cli_probe_features import features
from .cli_probe_sift import sift
from .cli_probe_similarity import similarity

probe = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Ask the layers of a vision transformer what they see.",
)

probe.command("features")(features)
probe.command("attention-distance")(attention_distance)
probe.command("similarity")(similarity)
probe.command("sift")(sift)
