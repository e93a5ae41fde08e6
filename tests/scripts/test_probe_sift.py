"""`heedful probe sift` from the arguments to the table, the numbers and the pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from explain_tiny import tiny
from heedful.emoji.world import scene
from heedful.explain.probing.sift_attention import SiftAttention
from heedful.scripts.probe_sift import SiftSettings
from heedful.scripts.settings import UsageError
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two images of unequal sizes, and one with their masks."""
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for seed, size in ((1, (64, 64)), (2, (90, 50))):
        image = Image.fromarray(scene(seed).image).resize(size)
        image.save(tmp_path / "photos" / f"{seed}.png")
        mask = Image.new("L", size, 0)
        mask.paste(255, (10, 10, 40, 40))
        mask.save(tmp_path / "masks" / f"{seed}.png")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DINOv2 with registers whose processor makes 24 x 40 pixels of any image."""
    folder = tmp_path_factory.mktemp("wide")
    tiny("dinov2_registers")[0].save_pretrained(folder)
    size = {"height": 24, "width": 40}
    transformers.ViTImageProcessorPil(size=size, do_center_crop=False).save_pretrained(folder)
    return folder


def test_the_cheat_is_shown(heedful: Command) -> None:
    result = heedful(
        "probe", "sift", "--model", "cheater", "--scenes", "conflict", "--count", "8", "--draws", "20",
        "--device", "cpu", "--out", "o",
    )  # fmt: skip
    told = json.loads(Path("o/sift.json").read_text())
    found = SiftAttention.load("o/sift-attention.safetensors")

    assert result.exit_code == 0, result.output
    assert told["spurious"]["rule"] == "apart"
    assert told["spurious"]["flagged"] >= 4
    assert told["spurious"]["drop"] > told["spurious"]["random_drop"] + 0.1
    assert f"{told['spurious']['flagged']} of {told['spurious']['images']} images" in result.stdout
    assert len(told["layers"]) == 6
    assert told["layers"][3]["between"]["ratio"] == pytest.approx(float(found.ratio()[3].mean()))
    assert told["versions"]["opencv"]
    for name in ("keypoints", "spurious", "heads", "entropy"):
        with Image.open(f"o/sift-{name}.png") as picture:
            assert min(picture.size) > 100


def test_own_images_and_masks_on_a_grid_that_is_not_square(
    heedful: Command, photos: Path, wide_folder: Path
) -> None:
    result = heedful(
        "probe", "sift", str(photos), "--masks", str(photos.parent / "masks"), "--model", str(wide_folder),
        "--contrast", "0.005", "--above", "1.5", "--draws", "20", "--device", "cpu", "--out", "o",
    )  # fmt: skip
    told = json.loads(Path("o/sift.json").read_text())

    assert result.exit_code == 0, result.output
    assert told["spurious"]["rule"] == "off"
    assert SiftAttention.load("o/sift-attention.safetensors").grid == (3, 5)


def test_a_model_without_classes_shows_its_heads_alone(heedful: Command) -> None:
    result = heedful(
        "probe", "sift", "--model", "clip", "--count", "3", "--draws", "20", "--device", "cpu", "--out", "o"
    )

    assert result.exit_code == 0, result.output
    assert "only the heads were looked at" in result.stdout
    assert not Path("o/sift-spurious.png").exists()


def test_what_is_asked_wrongly_is_one_line(heedful: Command, photos: Path) -> None:
    smooth = photos.parent / "smooth.png"
    Image.new("RGB", (64, 64), (120, 130, 140)).save(smooth)

    for arguments, message in (
        ([str(smooth)], "no keypoint in image 0"),
        (["--model", "resnet", "--count", "2"], "has no patches"),
        ([str(photos), "--masks", str(photos / "1.png")], "1 --masks for 2 images"),
        ([str(photos / "1.png"), "--masks", str(photos / "2.png")], "make them alike"),
        (["--masks", str(photos)], "--masks belong to images"),
        ([str(photos), "--scenes", "agree"], "--scenes chooses emoji scenes"),
        ([str(photos), "--rule", "off"], "--rule off needs --masks"),
        (["--rule", "odd"], "--rule must be one of apart, little, off"),
        (["--draws", "3"], "--draws at least 20"),
    ):
        result = heedful("probe", "sift", *arguments, "--device", "cpu", "--out", "o")
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.output.split())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="--above must be positive"):
        SiftSettings(above=0)
    with pytest.raises(UsageError, match="--null must be one of shift, permutation"):
        SiftSettings(null="no")
    with pytest.raises(UsageError, match="--dtype"):
        SiftSettings(dtype="int8")
    with pytest.raises(UsageError, match="--seed"):
        SiftSettings(seed=-1)
