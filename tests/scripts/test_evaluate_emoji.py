"""The comparison from end to end on the tiny pipeline: counts, kept rows, written tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import heedful.emoji
import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from heedful.emoji import Sighting
from heedful.emoji.prompts import Prompt, single_prompts
from heedful.emoji.vocabulary import LABELS
from heedful.evaluation import Operations, Prices
from heedful.scripts import emoji_figures, emoji_methods
from heedful.scripts.emoji_methods import METHODS, Setting, drawer, seeded, title
from heedful.scripts.evaluate_emoji import METHODS as NAMES
from heedful.scripts.evaluate_emoji import app
from heedful.scripts.losses_table import MARKS
from PIL.Image import Image
from tiny import tiny_pipeline as build_tiny_pipeline
from typer.testing import CliRunner

CAT = next(prompt for prompt in single_prompts() if prompt.text == "a cat")
PAIR = Prompt("a cat and a red bow", (("cat", None), ("bow", "red")), "animal-object")
SETTING = Setting(steps=5, step_size=3000.0, refine=False)  # random weights hardly feel a small one


def judged(images: Sequence[Image]) -> list[Sighting]:
    """Sees a cat, and a bow that is not red, in every image."""
    return [Sighting({label: float(label in ("cat", "bow")) for label in LABELS}) for _ in images]


@pytest.fixture
def tiny_pipeline() -> StableDiffusionPipeline:
    """Layers of 16x16 and 8x8, as in the embedded pipeline."""
    return build_tiny_pipeline(sample_size=16)


@pytest.fixture
def offline(
    monkeypatch: pytest.MonkeyPatch, tiny_pipeline: StableDiffusionPipeline
) -> StableDiffusionPipeline:
    tiny_pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(heedful.emoji, "load_judge", lambda device: judged)
    monkeypatch.setattr(emoji_methods, "load", lambda model, device: tiny_pipeline)
    return tiny_pipeline


def test_the_methods_of_the_command_are_those_that_there_are():
    assert NAMES == METHODS


def test_plain_sampling_costs_two_forwards_a_step_whatever_the_batch(tiny_pipeline: StableDiffusionPipeline):
    prices = Prices.measure(tiny_pipeline, guidance_scale=5.0, output_type="np")
    for batch in ([PAIR], [PAIR, CAT, CAT]):
        with Operations() as counted:
            drawer("plain")(tiny_pipeline, SETTING, batch, seeded(range(len(batch))))

        assert prices.forwards(counted.total, len(batch)) == pytest.approx(10, rel=1e-6)


def test_the_parity_preset_draws_what_diffusers_draws_for_less(tiny_pipeline: StableDiffusionPipeline):
    prices = Prices.measure(tiny_pipeline, guidance_scale=5.0, output_type="np")
    drawn, cost = {}, {}
    for method in ("plain", "diffusers", "paper"):
        with Operations() as counted:
            images = drawer(method)(tiny_pipeline, SETTING, [PAIR], seeded([3]))
        drawn[method] = np.asarray(images[0], dtype=int)
        cost[method] = prices.forwards(counted.total, 1)

    assert abs(drawn["paper"] - drawn["diffusers"]).max() <= 1
    assert abs(drawn["paper"] - drawn["plain"]).max() > 1, "this comparison could not fail"
    assert cost["plain"] == pytest.approx(10)
    assert 10 < cost["paper"] < cost["diffusers"]


def test_rows_are_kept_and_only_what_is_missing_is_drawn(offline: StableDiffusionPipeline, tmp_path: Path):
    arguments = [*"run --limit 1 --seeds 1 --steps 5 --method plain".split(), "--out", str(tmp_path)]
    document = tmp_path / "benchmarks.md"
    document.write_text("\n".join(emoji_figures.MARKS))

    first = CliRunner().invoke(app, arguments)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    offline.unet = None  # whatever is drawn anew fails
    again = CliRunner().invoke(app, [*arguments, "--write", str(document)])

    assert (first.exit_code, again.exit_code) == (0, 0), first.output + again.output
    assert [row["set"] for row in rows] == ["held-out", "seen", "single"]
    assert all(row["forwards"] == pytest.approx(10, rel=1e-6) for row in rows)
    assert len(list((tmp_path / "images" / "plain").iterdir())) == 3
    assert "plain sampling" in document.read_text()
    with pytest.raises(AttributeError):
        CliRunner().invoke(app, [*arguments, "--redo", "plain"], catch_exceptions=False)


def test_a_row_that_two_processes_wrote_counts_once(offline: StableDiffusionPipeline, tmp_path: Path):
    arguments = [*"run --limit 1 --seeds 1 --steps 5 --method plain".split(), "--out", str(tmp_path)]
    CliRunner().invoke(app, arguments)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text() * 2)

    CliRunner().invoke(app, arguments)

    assert "n 1 |" in (tmp_path / "tables.md").read_text()
    assert "n 2" in (tmp_path / "tables.md").read_text(), "all pairs: one held out, one seen"
    assert "n 4" not in (tmp_path / "tables.md").read_text()


def test_rows_of_other_settings_are_not_mixed(offline: StableDiffusionPipeline, tmp_path: Path):
    arguments = [*"run --limit 1 --seeds 1 --method plain".split(), "--out", str(tmp_path), "--steps"]
    CliRunner().invoke(app, [*arguments, "5"])

    other = CliRunner().invoke(app, [*arguments, "6"])

    assert other.exit_code == 2
    assert "give another --out" in " ".join(other.output.replace("│", " ").split())


def test_tuning_draws_other_prompts_with_other_seeds(offline: StableDiffusionPipeline, tmp_path: Path):
    arguments = [
        *"tune --no-refine --step-size 2 --prompts 1 --seeds 1 --steps 5".split(),
        "--out",
        str(tmp_path),
    ]

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 0, result.output
    (line,) = (tmp_path / "paper-2-unrefined" / "rows.jsonl").read_text().splitlines()
    assert (json.loads(line)["seed"], json.loads(line)["set"]) == (1000, "tuning")


def test_an_unknown_method_is_refused_with_the_choices():
    result = CliRunner().invoke(app, ["run", "--method", "magic"])

    assert result.exit_code == 2
    assert "no method magic; there are: plain, diffusers, paper, at-once" in " ".join(
        result.output.replace("│", " ").split()
    )


def test_losses_are_compared_and_the_best_drawn_on_further_prompts(
    offline: StableDiffusionPipeline, tmp_path: Path
):
    document, picture = tmp_path / "losses.md", tmp_path / "plot.png"
    document.write_text("\n".join(MARKS))
    few = "losses --limit 1 --seeds 1 --three 1 --coloured 1 --steps 5"
    arguments = [*few.split(), "--method", "plain", "--method", "attention_peak"]

    result = CliRunner().invoke(
        app, [*arguments, "--out", str(tmp_path), "--write", str(document), "--plot", str(picture)]
    )

    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert result.exit_code == 0, result.output
    assert [(row["method"], row["set"]) for row in rows] == [
        ("plain", "held-out"), ("attention_peak", "held-out"), ("plain", "three"), ("plain", "coloured"),
        ("attention_peak", "three"), ("attention_peak", "coloured"),
    ]  # fmt: skip
    assert rows[1]["forwards"] > rows[0]["forwards"] == pytest.approx(10, rel=1e-6)
    assert rows[1]["settings"]["objective"] == title("attention_peak") != "attention_peak"
    assert "`attention_peak`" in document.read_text()
    assert picture.exists()


def test_an_unknown_objective_is_refused_with_the_choices():
    result = CliRunner().invoke(app, ["losses", "--method", "magic"])

    assert result.exit_code == 2
    assert "no method magic; there are: plain, diffusers, paper, at-once, " in " ".join(
        result.output.replace("│", " ").split()
    )
