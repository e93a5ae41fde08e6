"""`heedful generate --until-heeded`: tries in the record, the best image in the file, the same ones again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checking import Hasty
from heedful.emoji.models import model_folder
from heedful.pipelines.retry import SEED_STRIDE
from heedful.scripts.settings import GenerateSettings, Request, UsageError, read_record
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.scripts.generate.AttendAndExcite", Hasty)


def test_draws_until_heeded_and_again(heedful: Command, tiny_folder: Path, tmp_path: Path) -> None:
    result = heedful(
        "generate", "a cat and a frog", "--model", tiny_folder, "--steps", 2, "--seed", 4, "--no-compare",
        "--until-heeded", 3, "--check-model", model_folder("clip"), "--out", "o",
    )  # fmt: skip
    again = heedful("generate", "--again", "o/run.json", "--out", "p")

    assert (result.exit_code, again.exit_code) == (0, 0), result.output + again.output
    (image,) = json.loads((tmp_path / "o" / "run.json").read_text())["images"]
    tries = image["tried"]
    assert [(one["seed"], one["strength"]) for one in tries] == [
        (4, 1.0), (4, 2.0), (4 + SEED_STRIDE, 1.0),
    ][: len(tries)]  # fmt: skip
    assert len(tries) == 3 or tries[-1]["verdict"]["heeded"]
    assert result.stdout.count("kept") == 1
    assert result.stdout.count(", try ") == len(tries)
    assert "all 1 images are equal to the record's" in again.stdout


def test_strength_and_negative_prompt_change_the_image(
    heedful: Command, tiny_folder: Path, tmp_path: Path
) -> None:
    options = ["generate", "a cat and a frog", "--model", tiny_folder, "--steps", 2, "--no-compare"]
    for name, extra in (
        ("plain", []),
        ("strong", ["--strength", 3]),
        ("none", ["--strength", 0]),
        ("against", ["--negative-prompt", "a dog"]),
    ):
        result = heedful(*options, *extra, "--out", name)
        assert result.exit_code == 0, result.output

    shown = {
        name: np.array(Image.open(tmp_path / name / "a-cat-and-a-frog-seed-0-guided.png")).tobytes()
        for name in ("plain", "strong", "none", "against")
    }
    assert len(set(shown.values())) == 4


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"until_heeded": 0}, "counts the first try"),
        ({"until_heeded": 2, "model": "x"}, "needs --check-model"),
        ({"until_heeded": 2, "check_model": "x"}, "leave out --check-model"),
        ({"check_model": "x"}, "goes with --until-heeded"),
        ({"strength": -1.0}, "--strength must lie in 0..20"),
    ],
)
def test_refuses(given: dict, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        GenerateSettings((Request("a cat"),), **given)


def test_records_of_before_are_read(heedful: Command, tiny_folder: Path, tmp_path: Path) -> None:
    heedful("generate", "a cat", "--model", tiny_folder, "--steps", 2, "--no-compare", "--out", "o")
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    for name in ("negative_prompt", "strength", "until_heeded", "check_model"):
        del record["settings"][name]
    (tmp_path / "old.json").write_text(json.dumps(record))

    settings, _ = read_record(tmp_path / "old.json")

    assert (settings.strength, settings.until_heeded) == (1.0, None)
