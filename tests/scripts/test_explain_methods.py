"""`heedful explain-methods` from the arguments to rows, tables, pictures and the page."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from explain_tiny import tiny
from heedful.emoji.models import model_folder
from heedful.emoji.world import scene
from heedful.explain.evaluation.study import Study
from heedful.scripts.explain_methods import resolve
from heedful.scripts.methods_settings import MethodsSettings
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]
SMALL = ("--method", "generic,raw_attention", "--batch-size", "4", "--device", "cpu")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier for 32 x 32 pixels whose processor resizes to 40 and crops the middle."""
    folder = tmp_path_factory.mktemp("vit")
    model, _ = tiny("vit")
    model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(
        size={"shortest_edge": 40}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of 50 x 40 pixels in two sub-folders, and their masks."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(6):
        name = f"{('cat', 'dog')[number % 2]}/{number}.png"
        mask = np.zeros((40, 50), dtype=np.uint8)
        # The last one lies where the model does not look.
        mask[10:30, 0:2] = 255 * (number == 5)
        mask[10:30, 15:30] = 255 * (number < 5)
        for kind, values in (("images", random.integers(0, 255, (40, 50, 3), np.uint8)), ("masks", mask)):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / kind / name)
    return folder


@pytest.fixture
def own(photos: Path, vit: Path) -> list[Any]:
    return ["explain-methods", "--images", photos / "images", "--masks", photos / "masks", "--model", vit]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_own_images_give_rows_tables_pictures_and_a_page(
    heedful: Command, own: list[Any], tmp_path: Path
) -> None:
    result = heedful(*own, *SMALL, "--out", "o")

    assert result.exit_code == 0, result.output
    assert "left out: dog/5.png: its mask is empty in what the model sees" in result.output
    assert "own-images: ViTForImageClassification vit" in result.stdout
    rows = lines(tmp_path / "o" / "own-images.jsonl")
    assert [row["item"] for row in rows] == [0, 1, 2, 3, 4]
    told = json.loads((tmp_path / "o" / "tables.json").read_text())["studies"]["own-images"]
    assert set(told["tests"]) == {"perturbation", "agreement", "pointing", "segmentation"}
    protocol = told["tests"]["perturbation"]["protocol"]
    assert protocol["patches"] == "4 x 4"
    assert protocol["baseline"] == "colour (0, 0, 0) before normalisation"
    assert protocol["target"] == "the label of the data"
    with (tmp_path / "o" / "tables.csv").open() as file:
        methods = {row["method"] for row in csv.DictReader(file) if row["test"] == "pointing"}
    assert {"generic", "raw_attention", "random", "edges", "random weights"} <= methods
    page = (tmp_path / "o" / "evidence.md").read_text()
    pictures = sorted(path.name for path in (tmp_path / "o" / "pictures").iterdir())
    assert pictures == [
        f"own-images-{name}.png" for name in ("agreement", "cases", "figures", "perturbation")
    ]
    assert all(f"](pictures/{name})" in page for name in pictures)
    for line in result.stdout.splitlines():
        if line.startswith("wrote "):
            assert (tmp_path / line.removeprefix("wrote ")).is_file()


def test_a_stopped_run_says_how_to_go_on_and_does(
    heedful: Command, own: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, made = Study.measure, []

    def stops(self: Study, items: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.extend(items)
        return measure(self, items)

    arguments = [*own, *SMALL, "--batch-size", "2", "--protocol", "pointing"]
    monkeypatch.setattr(Study, "measure", stops)
    result = heedful(*arguments, "--out", "o")
    assert result.exit_code == 130
    assert "stopped; the same command goes on from the rows in o" in result.stderr

    monkeypatch.setattr(Study, "measure", lambda self, items: made.extend(items) or measure(self, items))
    assert heedful(*arguments, "--out", "o").exit_code == 0
    assert made == [0, 1, 2, 3, 4]
    assert heedful(*arguments, "--out", "whole").exit_code == 0
    for name in ("own-images.jsonl", "tables.csv", "tables.json"):
        assert (tmp_path / "o" / name).read_text() == (tmp_path / "whole" / name).read_text()

    result = heedful(*arguments, "--protocol", "agreement", "--out", "o")
    assert result.exit_code == 2
    assert "holds records of other settings: tests differ" in result.stderr
    assert "--out takes another folder" in result.stderr


def test_without_labels_and_masks_the_answer_is_explained(
    heedful: Command, photos: Path, vit: Path, tmp_path: Path
) -> None:
    result = heedful(
        "explain-methods", "--images", photos / "images" / "cat", "--model", vit, "--protocol", "all",
        "--method", "generic", "--count", 2, "--out", "o", "--device", "cpu",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "o" / "tables.json").read_text())["studies"]["own-images"]["tests"]
    assert set(told) == {"perturbation", "deletion-insertion", "blank-out", "agreement", "masked-attack"}
    assert told["perturbation"]["protocol"]["accuracy against"] == "the predicted label"
    assert (tmp_path / "o" / "pictures" / "own-images-masked-attack.png").is_file()


def test_a_clip_is_asked_by_the_labels_as_texts(heedful: Command, tmp_path: Path) -> None:
    for name in ("cat", "frog"):
        drawn = scene(5, named=((name, None),))
        for kind, values in (("images", drawn.image), ("masks", drawn.subjects[0].mask)):
            (tmp_path / kind / name).mkdir(parents=True)
            Image.fromarray(values).save(tmp_path / kind / name / "one.png")

    result = heedful(
        "explain-methods", "--images", "images", "--masks", "masks", "--model", model_folder("clip"),
        "--template", "a {}", "--protocol", "pointing,perturbation", "--method", "generic", "--out", "o",
        "--device", "cpu",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    rows = lines(tmp_path / "o" / "own-images.jsonl")
    assert [row["correct"] for row in rows] == [True, True]
    assert [row["tests"]["pointing"]["generic"]["hit"] for row in rows] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "clasifier"], 'no study "clasifier"; did you mean "classifier"'),
        (["--study", "judge-pairs", "--protocol", "masked-attack"], "has nothing to do in the study"),
        (["--images", "none"], "the folder of images none is not there"),
        (["--imagenet-seg", "none.mat"], "none.mat is no file of ImageNet-Segmentation"),
        (["--images", "{photos}", "--model", "none"], 'cannot load the model "none"'),
        (["--images", "{photos}", "--model", "{bert}"], "takes no images"),
        (
            ["--images", "{photos}", "--model", "{clip}"],
            "compares images with texts, which are",
        ),
        (["--images", "{photos}", "--protocol", "specificity"], "has nothing to measure here"),
        (["--images", "{photos}", "--device", "cpu", "--dtype", "float16"], "float16 on a CPU"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(
    heedful: Command, photos: Path, arguments: list[str], message: str
) -> None:
    places = {
        "photos": photos / "images" / "cat", "bert": model_folder("bert"), "clip": model_folder("clip"),
    }  # fmt: skip
    result = heedful("explain-methods", *(each.format(**places) for each in arguments))

    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_list_names_everything(heedful: Command) -> None:
    result = heedful("explain-methods", "--list")

    assert result.exit_code == 0
    for name in ("classifier-attack", "visual-bert", "smoothgrad", "no aggregation", "segmentation"):
        assert name in result.stdout


def test_labels_that_the_model_does_not_know_are_refused(
    heedful: Command, photos: Path, tmp_path: Path
) -> None:
    folder = photos / "images" / "cat"
    rows = [
        f"{path.name},{name}\n"
        for path, name in zip(sorted(folder.iterdir()), ("cat", "unicorn", "cat"), strict=True)
    ]
    (tmp_path / "labels.csv").write_text("".join(rows))

    result = heedful("explain-methods", "--images", folder, "--labels", "labels.csv")

    assert result.exit_code == 2
    assert '"unicorn" is no label of the model (1 of 2 labels do not fit)' in result.stderr


def test_two_processes_give_the_rows_of_one(heedful: Command, own: list[Any], tmp_path: Path) -> None:
    words = [str(word) for word in (*own, *SMALL, "--batch-size", 2, "--protocol", "pointing", "--out")]
    alone = heedful(*words, "one")
    assert alone.exit_code == 0, alone.output
    (tmp_path / "run.py").write_text("from heedful.scripts.cli import app; app()")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, "--num_processes", "2", "run.py", *words, "two"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    for file in ("own-images.jsonl", "tables.csv", "tables.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert done.stdout.count("own-images: ViT") == 1  # one process prints


def test_where_there_is_no_gpu_it_is_a_float32_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = resolve(MethodsSettings())

    assert (found.device, found.dtype) == ("cpu", "float32")


@pytest.mark.gpu
def test_on_a_gpu_it_is_float16_by_itself(heedful: Command, own: list[Any], tmp_path: Path) -> None:
    found = resolve(MethodsSettings())
    assert (found.device, found.dtype) == ("cuda", "float16")

    result = heedful(*own, "--method", "generic", "--out", "o")
    assert result.exit_code == 0, result.output
    assert len(lines(tmp_path / "o" / "own-images.jsonl")) == 5
