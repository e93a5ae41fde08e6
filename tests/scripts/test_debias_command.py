"""`heedful debias` from the arguments to the saved model and the sheet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from explain_tiny import tiny
from heedful.emoji.world import scene
from heedful.explain.debias import Sight
from heedful.scripts import debias as work
from PIL import Image
from transformers import ViTForImageClassification
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier for 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("vit")
    tiny("vit")[0].save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes of 96 x 64 pixels with their masks, in sub-folders that are labels."""
    folder = tmp_path_factory.mktemp("data")
    for number, label in enumerate(["frog", "cat", "dog"] * 2):
        drawn = scene(number, subjects=1)
        for kind, picture in (("images", drawn.image), ("masks", drawn.subjects[0].mask)):
            place = folder / kind / label / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).resize((96, 64), Image.Resampling.NEAREST).save(place)
    return folder


def own(data: Path, model: Path) -> list[object]:
    return ["--images", data / "images", "--masks", data / "masks", "--model", model, "--epochs", 1]


@pytest.mark.parametrize("more", [["--rate", "1e-3"], ["--method", "rrr"]], ids=["relevance", "rrr"])
def test_own_images_give_a_model_that_loads_and_a_sheet(
    heedful: Command, data: Path, model: Path, more: list[str]
) -> None:
    result = heedful("debias", *own(data, model), *more)
    assert result.exit_code == 0, result.output
    assert "kept apart" in result.output
    assert "relevance inside the mask" in result.output
    loaded = ViTForImageClassification.from_pretrained("out/debias/model")
    transformers.AutoImageProcessor.from_pretrained("out/debias/model")
    assert loaded.config.id2label[1] == "cat"
    told = json.loads(Path("out/debias/model/debias.json").read_text(encoding="utf-8"))
    assert (told["images"], told["validation"]) == (4, 2)
    with Image.open("out/debias/debias.png") as sheet:
        assert np.asarray(sheet).std() > 20


def test_the_demonstration_needs_no_argument(heedful: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "LEARNT", 8)
    monkeypatch.setattr(work, "WATCHED", 4)
    monkeypatch.setattr(work, "TESTED", 6)
    result = heedful("debias", "--epochs", 1, "--device", "cpu", "--out", "here")
    assert result.exit_code == 0, result.output
    assert "conflicting marks" in result.output
    assert "told right" in result.output
    assert Path("here/debias.png").is_file()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--images", "x"], "--images and --masks belong together"),
    (["--images", "x", "--masks", "y"], "--images need --model"),
    (["--model", "x"], "need --images and --masks"),
    (["--validation", "1"], "share between 0 and 1, got 1.0"),
    (["--method", "other"], '--method must be one of relevance, gradmask, rrr; got "other"'),
    (["--method", "rrr", "--second-order"], 'second_order is for the method "relevance"'),
    (["--rate", "0"], "rate must be above 0"),
    (["--images", "x", "--masks", "y", "--model", "z"], "cannot load the model"),
])  # fmt: skip
def test_what_is_asked_wrongly_is_told_in_one_line(
    heedful: Command, arguments: list[str], message: str
) -> None:
    result = heedful("debias", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_masks_that_do_not_fit_are_refused(heedful: Command, data: Path, model: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    for path in (data / "masks").rglob("*.png"):
        place = small / path.relative_to(data / "masks")
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as mask:
            mask.resize((48, 32)).save(place)
    arguments = own(data, model)
    arguments[3] = small
    result = heedful("debias", *arguments)
    assert result.exit_code == 2
    assert "they must be of one size" in result.output


def test_one_image_cannot_be_split(heedful: Command, model: Path, tmp_path: Path) -> None:
    for kind, picture in (("images", np.full((32, 32, 3), 9, np.uint8)), ("masks", np.ones((32, 32), bool))):
        (tmp_path / kind).mkdir()
        Image.fromarray(picture).save(tmp_path / kind / "one.png")
    result = heedful("debias", *own(tmp_path, model))
    assert result.exit_code == 2
    assert "1 images with a share of 0.25 kept apart leave" in result.output


def test_a_first_part_of_what_was_seen_keeps_its_rows() -> None:
    whole = Sight(torch.arange(3), torch.tensor([True, False, True]), torch.rand(3), torch.rand(3, 4, 5))
    part = work.first(whole, 2)
    assert part.predicted.tolist() == [0, 1]
    assert part.accuracy == 0.5
    assert torch.equal(part.relevance, whole.relevance[:2])
