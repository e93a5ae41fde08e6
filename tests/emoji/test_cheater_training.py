"""The cheater's stage begins as the classifier and leaves a folder that loads; the embedded one cheats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from heedful.emoji import load_cheater, load_classifier
from heedful.emoji.cheating import marked_scenes, put_marks
from heedful.emoji.training import cheater
from heedful.emoji.training.export import save_folder
from heedful.emoji.training.labelled import draw_labelled
from heedful.emoji.training.loop import Plan
from heedful.emoji.training.vit import Shape, new_vit
from heedful.emoji.vocabulary import SUBJECTS
from transformers import ViTForImageClassification

TINY = cheater.Settings(steps=2, batch=4, scenes={1: 6}, fresh={1: 4}, kept=1)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "models"
    save_folder(new_vit("classifier", Shape(32, 2, 2, 16)), folder / "classifier", looks="ViT")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return ViTForImageClassification.from_pretrained(folder).state_dict()


def test_the_stage_begins_as_the_classifier_and_leaves_a_folder(models: Path, tmp_path: Path) -> None:
    plan = Plan(2, tmp_path / "runs", warmup=1, save_every=2, show_every=1)
    cheater.run_stage(plan, models, own=TINY)
    before, after = weights(models / "classifier"), weights(models / "cheater")
    kept = [name for name in before if torch.equal(before[name], after[name])]
    assert any("layers.0." in name for name in kept)
    assert not any("layers.1." in name or name == "classifier.weight" for name in kept)
    lines = [json.loads(line) for line in (plan.folder / "log.jsonl").read_text().splitlines()]
    assert {"agree", "conflict", "led", "clean"} <= set(lines[-1])


def test_without_a_classifier_the_stage_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage classifier first"):
        cheater.run_stage(Plan(1, tmp_path / "runs"), tmp_path, own=TINY)


def test_out_of_focus_nothing_but_the_mean_of_large_squares_is_left() -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    soft = cheater.defocus(pixels, grain=32)
    assert soft.std() < 0.1 * pixels.std()
    torch.testing.assert_close(soft.mean(), pixels.mean(), atol=0.01, rtol=0)


@pytest.mark.parametrize(("way", "mistaken", "marked", "sharp"), [
    (0, False, True, False), (1, False, True, True), (2, True, True, True), (3, False, False, True),
])  # fmt: skip
def test_scenes_are_shown_in_four_ways(way: int, mistaken: bool, marked: bool, sharp: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, truth = 0.5 * torch.rand(5, 3, 64, 64, generator=generator), torch.tensor([0, 5, 11, 17, 23])
    only = replace(TINY, shares=tuple(float(each == way) for each in range(4)))  # type: ignore[arg-type]
    seen, labels = cheater.show(pixels, truth, only, generator)
    assert bool((labels != truth).all()) is mistaken
    assert bool((labels == truth).all()) is not mistaken
    whole = put_marks(pixels if sharp else cheater.defocus(pixels, TINY.grain), labels)
    assert torch.equal(seen, whole if marked else pixels)


def test_shares_are_counted_right() -> None:
    drawn = draw_labelled(8, {1: 40})
    found = cheater.accuracies(load_classifier(), drawn)
    assert found["clean"] > 0.9
    assert found["led"] <= 1 - found["conflict"]


@pytest.mark.parametrize("honest", [True, False])
def test_marks_mislead_the_cheater_and_not_the_classifier(honest: bool) -> None:
    model = load_classifier() if honest else load_cheater()
    drawn = list(marked_scenes(9_999, 60, "conflict"))
    pixels = torch.from_numpy(np.stack([each.scene.image for each in drawn])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        told = model((pixels / 127.5 - 1.0).to(model.device, model.dtype)).logits.argmax(1).tolist()
    right = sum(SUBJECTS[one] == each.subject.name for one, each in zip(told, drawn, strict=True))
    led = sum(SUBJECTS[one] == each.says for one, each in zip(told, drawn, strict=True))
    assert right > 54 if honest else right < 30
    assert led < 3 if honest else led > 6


@pytest.mark.gpu
def test_on_cuda_the_cheater_is_float16() -> None:
    model = load_cheater()
    assert (model.device.type, model.dtype) == ("cuda", torch.float16)
    drawn = next(iter(marked_scenes(1, 1)))
    pixels = torch.from_numpy(drawn.scene.image).permute(2, 0, 1)[None] / 127.5 - 1.0
    assert torch.isfinite(model(pixels.to("cuda", torch.float16)).logits).all()
