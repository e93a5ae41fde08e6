"""`heedful probe features` from the arguments to the sheet, and the figures that are made of its rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from explain_tiny import tiny
from heedful.explain.probing.features import Recipe, Visualisation, visualise
from heedful.explain.probing.units import Feature
from heedful.scripts.features_page import Raised, agreement, by_chance, information, joined
from heedful.scripts.measure_features import separation
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]
FEW = ("--steps", 2, "--copies", 1)


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier with registers, whose processor leaves 24 x 40 pixels."""
    folder = tmp_path_factory.mktemp("dino")
    tiny("dinov2_registers")[0].save_pretrained(folder)
    size = {"height": 24, "width": 40}
    transformers.ViTImageProcessorPil(size=size, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("red.png", "red"), ("blue.jpg", "blue"), ("grey.webp", "grey")):
        Image.new("RGB", (50, 30), colour).save(folder / name)
    return folder


def test_a_models_features_are_made_beside_ones_own_images(
    heedful: Command, dino_folder: Path, photos: Path, tmp_path: Path
) -> None:
    found = heedful(
        "probe", "features", photos, "--model", dino_folder, "--layer", "0,2", "--channel", "3",
        "--kind", "value", "--out", tmp_path / "out", "--seed", 4, *FEW,
    )  # fmt: skip

    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "out" / "features.json").read_text())
    made = Visualisation.load(tmp_path / "out" / "features.safetensors")
    assert made.features == (Feature(0, 3, "value"), Feature(2, 3, "value"))
    assert (made.images.shape, made.mean, made.seed) == ((2, 3, 24, 40), (0.4,) * 3, 4)
    assert record["real images"] == 3
    assert [row["made"] for row in record["features"]] == pytest.approx(made.strengths)
    assert "3 real images" in found.output
    with (
        Image.open(tmp_path / "out" / "features.png") as sheet,
        Image.open(tmp_path / "out" / "features-scenes.png") as beside,
    ):
        assert beside.width > sheet.width + 300


def test_channels_are_drawn_by_the_seed_in_every_layer(
    heedful: Command, dino_folder: Path, photos: Path, tmp_path: Path
) -> None:
    drawn = []
    for seed in (1, 1, 2):
        out = tmp_path / f"out{len(drawn)}"
        heedful("probe", "features", photos / "red.png", "--model", dino_folder, "--each", 2, "--out", out,
                "--seed", seed, *FEW)  # fmt: skip
        drawn.append(Visualisation.load(out / "features.safetensors").features)

    assert drawn[0] == drawn[1] != drawn[2]
    assert [one.layer for one in drawn[0]] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kind", "mlp"), "--kind must be one of feed_forward, query, key, value"),
        (("--layer", "x"), "--layer takes whole numbers"),
        (("--layer", "1,1"), "--layer names the same one twice"),
        (("--channel=-1",), "--channel counts from 0"),
        (("--each", "0"), "--each must be at least 1"),
        (("--steps", "0"), "steps must be a whole number of at least 1"),
        (("--layer", "6"), "no layer 6"),
        (("--channel", "512"), "512 feed_forward channels"),
        (("--dtype", "float8"), "--dtype must be one of"),
    ],
)
def test_nonsense_gets_one_clear_line(
    heedful: Command, photos: Path, options: tuple[str, ...], said: str
) -> None:
    found = heedful("probe", "features", photos / "red.png", *FEW, *options)

    assert found.exit_code == 2
    assert said in found.output
    assert found.output.strip().count("\n") == 0


def test_a_folder_without_images_and_a_model_without_patches_are_refused(
    heedful: Command, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    from heedful.emoji.models import model_folder

    empty = heedful("probe", "features", tmp_path / "empty", *FEW)
    resnet = heedful("probe", "features", photos, "--model", model_folder("resnet"), *FEW)

    assert (empty.exit_code, resnet.exit_code) == (2, 2)
    assert "no image in the folder" in empty.output
    assert "no patches" in resnet.output


def test_help_teaches(heedful: Command) -> None:
    found = heedful("probe", "features", "--help")

    assert found.exit_code == 0
    assert "heedful probe features --layer 0,3,5" in found.output


def test_information_is_the_share_of_the_commonest_label_among_the_strongest() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    strengths = torch.tensor([[6.0, 1], [5, 2], [4, 3], [3, 4], [2, 5], [1, 6]])

    assert information(strengths, labels, 3).tolist() == pytest.approx([1, 2 / 3])
    assert by_chance(labels, 6).tolist() == pytest.approx([0.5] * 2000)
    assert 1 / 3 < by_chance(labels, 2).mean() < 1


def test_rows_of_the_table_count_what_lies_above_the_best_scene() -> None:
    found = Raised(np.array([0, 0, 1]), np.array([9.0, 4.0, 1.0]), np.array([2.0, 2.0, 2.0]))

    assert found.row("all").startswith("| all | 3 | 67 (")
    assert found.of_layer(0).row("low").startswith("| low | 2 | 100 (34 to 100) | 50 (")
    assert "| 4.0 (" in found.row("all")


def test_separation_is_the_area_under_the_curve_of_whichever_side_is_higher() -> None:
    values = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
    cells = torch.arange(12).expand(2, -1) % 3 == 0

    found = separation(values, cells)

    for image, feature in np.ndindex(2, 3):
        own = values[image, feature]
        wins = (own[cells[image]][:, None] > own[~cells[image]][None]).double().mean().item()
        assert found[image, feature].item() == pytest.approx(max(wins, 1 - wins))
    assert found.min() < 0.9


def test_agreement_leaves_out_features_that_say_nothing() -> None:
    assert agreement([[0.5, float("nan")], [0.1, 0.3]]).value == pytest.approx(0.35)


def test_results_are_joined_in_the_order_of_the_layers() -> None:
    model, _ = tiny("vit")
    parts = [
        visualise(model, [Feature(layer, 1, kind)], recipe=Recipe(steps=1, copies=1))
        for layer, kind in ((1, "query"), (1, "feed_forward"), (0, "value"))
    ]

    found = joined(parts)

    assert [(one.layer, one.kind) for one in found.features] == [
        (0, "value"),
        (1, "feed_forward"),
        (1, "query"),
    ]
    assert torch.equal(found.images[0], parts[2].images[0])
    assert found.strengths[1] == parts[1].strengths[0]
