"""A saved tiny pipeline, and the command line run inside the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from heedful.scripts.cli import app
from tiny import tiny_pipeline
from typer.testing import CliRunner, Result


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the standard layout with a random Stable Diffusion of 64x64 pixels."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipeline(sample_size=8).save_pretrained(folder)
    return folder


@pytest.fixture
def heedful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `heedful` with arguments, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
