"""`heedful probe similarity` from the arguments to the pictures and the numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from explain_tiny import tiny
from heedful.emoji.world import scenes
from heedful.explain.probing.localisation import Localisation
from heedful.explain.probing.receptive_field import ReceptiveField
from heedful.explain.probing.similarity import Similarity
from heedful.scripts.probe_similarity import SimilaritySettings, find
from heedful.scripts.settings import UsageError
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    tiny("vit")[0].save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in two folders, of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for number, drawn in enumerate(scenes(77, 12, subjects=1)):
        own = folder / ("odd" if number % 2 else "even")
        own.mkdir(exist_ok=True)
        Image.fromarray(drawn.image).resize((60 + number, 50)).save(own / f"{number}.png")
    return folder


def test_the_embedded_models_by_default(heedful: Command, tmp_path: Path) -> None:
    result = heedful("probe", "similarity", "--count", 10, "--batch-size", 5, "--control", "--device", "cpu")
    assert result.exit_code == 0, result.output
    found = Similarity.load(tmp_path / "out" / "similarity.safetensors")
    assert found.cka.shape == (7, 6)
    assert found.images == 10
    assert "random twin of judge" in Similarity.load(
        tmp_path / "out" / "similarity-twins.safetensors"
    ).models[0]  # fmt: skip
    told = json.loads((tmp_path / "out" / "similarity.json").read_text())
    assert told["cka"][2][3] == pytest.approx(float(found.cka[2, 3]))
    assert told["settings"]["seed"] == 0
    with Image.open(tmp_path / "out" / "similarity.png") as drawn:
        assert drawn.width > drawn.height
    assert "vit.layers.5" in result.output


def test_own_images_and_models_with_all_that_can_be_asked(
    heedful: Command, tmp_path: Path, vit_folder: Path, photos: Path
) -> None:
    result = heedful(
        "probe", "similarity", photos, "--first", vit_folder, "--second", "resnet", "--batch-size", 6,
        "--first-layers", "vit.layers.*", "--also", "receptive-field,localisation", "--also", "probes",
        "--device", "cpu", "--out", "own",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    out = tmp_path / "own"
    found = Similarity.load(out / "similarity.safetensors")
    assert found.layers[0] == ("vit.layers.0", "vit.layers.1", "vit.layers.2")
    assert len(found.layers[1]) == 6
    name = vit_folder.name
    assert list(ReceptiveField.load(out / f"receptive-field-{name}.safetensors").maps) == list(
        found.layers[0]
    )
    assert Localisation.load(out / "localisation-resnet.safetensors").images == 12
    told = json.loads((out / "similarity.json").read_text())
    assert set(told["probes"]["resnet"]) == {"mean", "patch"}
    assert (out / "probes.png").exists()


def test_a_model_of_ones_own_is_compared_with_itself(photos: Path, vit_folder: Path) -> None:
    settings = SimilaritySettings(images=(photos,), first=str(vit_folder), device="cpu")
    found = find(settings, lambda doing, done, total: None)
    torch.testing.assert_close(found.trained.cka.diagonal(), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--also", "dreams"), "--also must be of receptive-field"),
        (("--count", 3), "--count must lie in 4"),
        (("--batch-size", 2), "--batch-size must be at least 4"),
        (("--first-layers", "vit.blocks.*", "--count", 4), "no module of ViTForImageClassification"),
        (("nowhere",), "there is no nowhere"),
        (("--first", "bert", "--count", 4), "image processor"),
    ],
)
def test_what_is_asked_wrongly_gets_one_line(
    heedful: Command, arguments: tuple[object, ...], message: str
) -> None:
    result = heedful("probe", "similarity", "--device", "cpu", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_one_image_and_images_without_labels_are_refused(photos: Path, tmp_path: Path) -> None:
    def ignore(doing: str, done: int, total: int) -> None:
        pass

    with pytest.raises(UsageError, match="at least 4 images, got 1"):
        find(SimilaritySettings(images=(photos / "even" / "0.png",), device="cpu"), ignore)
    with pytest.raises(UsageError, match="sub-folder of images for each label"):
        find(SimilaritySettings(images=(photos / "even",), also=("probes",), device="cpu"), ignore)
    with pytest.raises(UsageError, match="no image in the folder"):
        find(SimilaritySettings(images=(tmp_path,), device="cpu"), ignore)


@pytest.mark.gpu
def test_by_itself_in_float16_on_cuda(heedful: Command, tmp_path: Path) -> None:
    result = heedful("probe", "similarity", "--count", 8, "--also", "receptive-field,localisation,probes")
    assert result.exit_code == 0, result.output
    assert Similarity.load(tmp_path / "out" / "similarity.safetensors").cka.isfinite().all()
