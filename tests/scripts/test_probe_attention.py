"""`heedful probe attention-distance` from the arguments to the table, the numbers and the pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from explain_tiny import tiny
from heedful.emoji.world import scene
from heedful.explain.probing.head_statistics import HeadStatistics
from heedful.scripts.machine import choose
from heedful.scripts.probe_attention import random_twin
from heedful.scripts.probe_images import pixels_of, probe_images, seen_images
from heedful.scripts.settings import UsageError
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture(scope="session")
def registers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DINOv2 with registers whose processor makes 24 x 40 pixels of any image."""
    folder = tmp_path_factory.mktemp("registers")
    tiny("dinov2_registers")[0].save_pretrained(folder)
    size = {"height": 24, "width": 40}
    processor = transformers.ViTImageProcessorPil(size=size, do_center_crop=False)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two images of unequal sizes."""
    (tmp_path / "photos").mkdir()
    for seed, size in ((1, (64, 64)), (2, (90, 50))):
        Image.fromarray(scene(seed).image).resize(size).save(tmp_path / "photos" / f"{seed}.png")
    return tmp_path / "photos"


def test_by_default_it_probes_the_embedded_classifier_on_scenes(heedful: Command) -> None:
    result = heedful("probe", "attention-distance", "--count", "3", "--device", "cpu", "--out", "o", "--twin")
    told = json.loads(Path("o/attention-distance.json").read_text())
    found = HeadStatistics.load("o/attention-distance.safetensors")

    assert result.exit_code == 0, result.output
    assert found.distance.shape == (3, 6, 4)
    assert len(told["layers"]) == 6
    assert told["layers"][2]["distance"]["value"] == pytest.approx(float(found.distance[:, 2].mean()))
    assert told["layers"][2]["nearest"] == pytest.approx(float(found.distance[:, 2].mean(0).min()))
    assert told["even_distance"] == pytest.approx(found.uniform)
    assert told["settings"]["images"] == 3
    for name in ("heads", "positions", "filters", "distance", "norms"):
        with Image.open(f"o/attention-{name}.png") as picture:
            assert min(picture.size) > 100
    assert f"{told['layers'][5]['entropy']['value']:.2f}" in result.stdout


def test_images_of_ones_own_on_a_model_with_registers_and_another_shape(
    heedful: Command, photos: Path, registers_folder: Path
) -> None:
    result = heedful(
        "probe", "attention-distance", photos, "--model", registers_folder, "--patch", "2,4", "--out", "o",
        "--device", "cpu",
    )  # fmt: skip
    told = json.loads(Path("o/attention-distance.json").read_text())

    assert result.exit_code == 0, result.output
    assert (told["grid"], told["settings"]["special_tokens"], told["settings"]["images"]) == ([3, 5], 5, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--patch", "3"], "ROW,COLUMN"),
        (["--patch", "8,0"], "rows 0 to 7"),
        (["--count", "0"], "--count must be at least 1"),
        (["--local", "0"], "--local must be positive"),
        (["--seed", "-1"], "--seed must lie in"),
        (["--dtype", "int8"], "--dtype must be one of"),
        (["none.png"], "cannot read the image none.png"),
        (["--model", "nowhere"], "cannot load"),
    ],
)
def test_mistakes_answer_on_one_line(heedful: Command, arguments: list[str], words: str) -> None:
    result = heedful("probe", "attention-distance", "--device", "cpu", *arguments)

    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_folders_are_looked_through(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert [image.size for image in probe_images([photos, photos / "2.png"], 3, 0)] == [
        (64, 64), (90, 50), (90, 50),
    ]  # fmt: skip
    assert [image.size for image in probe_images([], 2, 0)] == [(64, 64)] * 2
    with pytest.raises(UsageError, match=r"no image in the folder .*empty.*\.png"):
        probe_images([tmp_path / "empty"], 3, 0)
    with pytest.raises(UsageError, match="3 images are more than --count 2"):
        probe_images([photos, photos / "1.png"], 2, 0)


def test_images_are_shown_as_the_model_sees_them() -> None:
    processor = transformers.ViTImageProcessorPil(size={"height": 24, "width": 40})
    pixels = pixels_of(processor, [Image.new("RGB", (80, 48), (250, 128, 10))])
    (seen,) = seen_images(processor, pixels)

    assert seen.size == (40, 24)
    assert seen.getpixel((3, 5)) == (250, 128, 10)
    as_they_are = transformers.ViTImageProcessorPil(do_resize=False)
    with pytest.raises(UsageError, match=r"refused these images.*one size"):
        pixels_of(as_they_are, [Image.new("RGB", (8, 4)), Image.new("RGB", (4, 8))])


def test_a_twin_is_random_by_its_seed_and_leaves_the_dice_alone() -> None:
    model, _ = tiny("vit")
    before = torch.get_rng_state()
    one, same, other = (random_twin(model, seed) for seed in (0, 0, 1))
    weights = [twin.vit.layers[0].mlp.fc1.weight for twin in (one, same, other)]

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not one.training


@pytest.mark.gpu
def test_it_runs_in_half_precision_on_cuda(heedful: Command) -> None:
    result = heedful("probe", "attention-distance", "--count", "2", "--out", "o")

    assert choose(None, None) == ("cuda", "float16")
    assert result.exit_code == 0, result.output
