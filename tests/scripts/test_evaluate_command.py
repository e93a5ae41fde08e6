"""`heedful evaluate` from the arguments to rows, tables, pictures and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import save_owl_vit, tiny_captioner
from heedful.emoji.models import model_folder
from heedful.evaluation.rows import Drawing
from heedful.scripts.evaluate import resolve
from heedful.scripts.evaluate_settings import SETS, EvaluateSettings
from typer.testing import Result

Command = Callable[..., Result]
SMALL = ("--limit", "1", "--seeds", "1", "--steps", "2", "--batch-size", "1", "--device", "cpu")


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with a random detector and a random captioner."""
    folder = tmp_path_factory.mktemp("eyes")
    save_owl_vit(folder / "owl")
    for part in tiny_captioner():
        part.save_pretrained(folder / "blip")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_embedded_model_is_evaluated_without_a_word(heedful: Command, tmp_path: Path) -> None:
    (tmp_path / "doc.md").write_text("a\n<!-- evaluation: begin -->\nbefore\n<!-- evaluation: end -->\nz\n")
    result = heedful(
        "evaluate", *SMALL, "--method", "excite-iou", "--best-of", "2", "--out", "o", "--write",
        "doc.md",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    names = ["excite-iou", "plain", "plain-2"]
    assert sorted(path.stem for path in (tmp_path / "o" / "rows").glob("*.jsonl")) == names
    rows = {name: lines(tmp_path / "o" / "rows" / f"{name}.jsonl") for name in names}
    assert [row["group"] for row in rows["plain"]] == ["held-out", "single"]
    assert all(row["forwards"] == pytest.approx(4, rel=0.02) for row in rows["plain"])
    assert rows["excite-iou"][0]["forwards"] > 4.5
    assert all((tmp_path / "o" / row["image"]).is_file() for own in rows.values() for row in own)
    assert rows["plain"][0]["likeness"].keys() == {"full", "minimum"}
    page = (tmp_path / "o" / "evaluation.md").read_text()
    for part in (
        "plain sampling",
        "best-of-N by check",
        "eyes: the embedded judge",
        "steps: 2",
        "compared by excite-iou",
    ):
        assert part in page
    for line in result.stdout.splitlines():
        if line.startswith("wrote "):
            assert (tmp_path / line.removeprefix("wrote ")).is_file()
    document = (tmp_path / "doc.md").read_text()
    assert document.startswith("a\n<!--")
    assert "### held-out: figures" in document
    assert "before" not in document


def test_a_stopped_run_goes_on_and_other_settings_are_refused(
    heedful: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    draw = Drawing.__call__

    def stops(self: Drawing, items: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.extend(items)
        return draw(self, items)

    arguments = ["evaluate", *SMALL, "--method", "plain", "--best-of", "1", "--no-count"]
    monkeypatch.setattr(Drawing, "__call__", stops)
    result = heedful(*arguments, "--out", "o")
    assert result.exit_code == 130
    assert "stopped; the same command goes on from the rows in o" in result.stderr

    monkeypatch.setattr(Drawing, "__call__", lambda self, items: made.extend(items) or draw(self, items))
    assert heedful(*arguments, "--out", "o").exit_code == 0
    assert made == [0, 1]
    rows = lines(tmp_path / "o" / "rows" / "plain.jsonl")
    assert [row["forwards"] for row in rows] == [None, None]

    result = heedful(*arguments, "--guidance-scale", "4", "--out", "o")
    assert result.exit_code == 2
    assert "holds records of other settings: guidance_scale differ" in result.stderr
    assert "--out takes another folder" in result.stderr


def test_a_model_of_ones_own_needs_eyes_of_ones_own(
    heedful: Command, tiny_folder: Path, eyes: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a [cat] and a [red bow]\na dog\n")
    (tmp_path / "templates.txt").write_text("{}\nan image of {}\n")
    result = heedful(
        "evaluate", "--model", tiny_folder, "--prompts-file", "prompts.txt", "--method", "plain",
        "--steps", 2, "--seeds", 1, "--size", "64x96", "--check-model", model_folder("clip"),
        "--detector", eyes / "owl", "--detector-threshold", 0.01, "--captioner", eyes / "blip",
        "--templates", "templates.txt", "--scheduler", "euler", "--best-of", 1, "--out", "o",
        "--device", "cpu",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    rows = lines(tmp_path / "o" / "rows" / "plain.jsonl")
    assert [row["prompt"] for row in rows] == ["a cat and a red bow", "a dog"]
    assert rows[0]["likeness"].keys() == {"full", "minimum", "caption", "by caption"}
    assert rows[0]["coloured"].keys() == {"red bow"}
    told = json.loads((tmp_path / "o" / "tables.json").read_text())["tables"]["own"]["protocol"]
    assert told["eyes"] == "detection by owl"
    assert told["threshold"] == 0.01
    assert told["scheduler"] == "EulerDiscreteScheduler"
    assert told["templates"] == "['{}', 'an image of {}']"


def test_a_clip_alone_can_be_the_eyes(heedful: Command, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a cat and a frog", "group": "mine"}\n')
    result = heedful(
        "evaluate", "--model", tiny_folder, "--prompts-file", "prompts.jsonl", "--method", "plain",
        "--steps", 1, "--seeds", 1, "--check-model", model_folder("clip"), "--best-of", 1, "--out", "o",
        "--device", "cpu",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "StableDiffusionPipeline" in result.stdout
    row = lines(tmp_path / "o" / "rows" / "plain.jsonl")[0]
    assert (row["group"], set(row["seen"])) == ("mine", {"cat", "frog"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "heldout"], 'no set of prompts "heldout"; choose of held-out'),
        (["--method", "defalt"], 'no method "defalt"; there are: plain, diffusers, paper, default'),
        (["--method", "plain,plain"], '--method "plain" is given twice'),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--detector-threshold", "0.2"], "--detector-threshold goes with --detector"),
        (["--dtype", "float16", "--device", "cpu"], "float16 on a CPU"),
        (["--model", "none"], 'cannot load the model "none"'),
        (["--model", "{tiny}"], "nothing says what this model's images show: give --check-model"),
        (["--model", "{tiny}", "--prompts", "three"], "--prompts three is of the embedded world"),
        (["--model", "{tiny}", "--captioner", "x"], "--captioner and --templates need --check-model"),
        (["--detector", "{bert}"], "is no zero-shot object detector"),
        (["--captioner", "{clip}"], "CLIPModel writes no captions"),
        (["--check-model", "{bert}"], "with a CLIPModel or SiglipModel; got BertForSequenceClassification"),
        (["--prompts-file", "{words}"], 'the embedded judge does not know "unicorn"'),
        (["--templates", "{words}"], "wanted templates with {{}}"),
        (["--size", "63x64"], "--size: the pipeline refuses 63x64: `height` and `width` have"),
        (["--write", "{words}"], "must hold the marks <!-- evaluation: begin -->"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(
    heedful: Command, tiny_folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "words.txt").write_text("a unicorn\n")
    places = {"tiny": tiny_folder, "words": "words.txt"} | {
        name: model_folder(name) for name in ("bert", "clip")
    }
    result = heedful("evaluate", *(each.format(**places) for each in arguments), "--device", "cpu")

    assert result.exit_code == 2, result.output
    assert message.format() in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_list_names_every_set_and_method(heedful: Command) -> None:
    result = heedful("evaluate", "--list")

    assert result.exit_code == 0
    for name in (*SETS, "diffusers", "paper", "divide_and_bind", "rectify"):
        assert name in result.stdout.replace("-", "_") or name in result.stdout


def test_where_there_is_no_gpu_it_is_a_float32_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = resolve(EvaluateSettings())

    assert (found.device, found.dtype) == ("cpu", "float32")


@pytest.mark.gpu
def test_on_a_gpu_it_is_float16_by_itself(heedful: Command, tmp_path: Path) -> None:
    found = resolve(EvaluateSettings())
    assert (found.device, found.dtype) == ("cuda", "float16")

    result = heedful("evaluate", *SMALL[:-2], "--method", "default,paper,diffusers", "--out", "o")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "o" / "rows" / "default.about.json").read_text())["dtype"] == "float16"
    assert len(lines(tmp_path / "o" / "rows" / "default.jsonl")) == 2
