"""The stages of judge, CLIP and classifier run, resume where they stopped, and leave folders that load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from heedful.emoji.tokenizer import build_tokenizer
from heedful.emoji.training.clip import contrastive_loss, distinct_groups, fits, tell
from heedful.emoji.training.degrade import degrade
from heedful.emoji.training.labelled import NOBODY, Labelled, draw_labelled, label_matrix, make_batch
from heedful.emoji.training.loop import Plan
from heedful.emoji.training.vision import Settings, run_stage
from heedful.emoji.training.vit import Shape
from heedful.emoji.vocabulary import LABELS
from transformers import CLIPModel, ViTForImageClassification

TINY = Settings(3, 4, 1, {2: 8}, 5, "any", Shape(hidden=32, layers=2, heads=2, patch=16), fresh={2: 8})


@pytest.fixture(scope="module")
def drawn() -> Labelled:
    return draw_labelled(3, {1: 6, 2: 10, 3: 6})


def train(stage: Literal["judge", "clip", "classifier"], folder: Path, steps: int) -> list[dict[str, float]]:
    own = replace(TINY, scenes={1: 8}, fresh={1: 8}) if stage == "classifier" else TINY
    plan = Plan(steps, folder / stage, warmup=1, save_every=2, show_every=1)
    if stage == "clip":
        own = replace(own, fresh={2: 160})
    run_stage(stage, plan, build_tokenizer(), folder / "models", own=own)
    return [json.loads(line) for line in (folder / stage / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["judge", "clip", "classifier"])
def test_a_stage_leaves_a_folder_that_loads_in_float32(
    stage: Literal["judge", "clip", "classifier"], tmp_path: Path
) -> None:
    train(stage, tmp_path, 2)
    kind = CLIPModel if stage == "clip" else ViTForImageClassification
    model = kind.from_pretrained(tmp_path / "models" / stage)
    assert model.dtype == torch.float32
    assert json.loads((tmp_path / "models" / stage / "config.json").read_text())["dtype"] == "float32"


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = train("judge", tmp_path / "whole", 4)
    plan = Plan(4, tmp_path / "parts" / "judge", warmup=1, save_every=2, show_every=1)
    run_stage("judge", replace(plan, stop_after=2), build_tokenizer(), tmp_path / "models", own=TINY)
    run_stage("judge", plan, build_tokenizer(), tmp_path / "models", own=TINY)
    parts = [json.loads(line) for line in (plan.folder / "log.jsonl").read_text().splitlines()]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_a_model_begins_as_another_or_says_that_it_is_missing(tmp_path: Path) -> None:
    own = replace(TINY, scenes={1: 8}, fresh={1: 8}, begin="judge", rate=1e-9)
    plan = Plan(1, tmp_path / "classifier", warmup=1)
    with pytest.raises(FileNotFoundError, match="run the stage judge first"):
        run_stage("classifier", plan, build_tokenizer(), tmp_path / "models", own=own)
    train("judge", tmp_path, 1)
    run_stage("classifier", plan, build_tokenizer(), tmp_path / "models", own=own)
    judge, made = (
        ViTForImageClassification.from_pretrained(tmp_path / "models" / name).vit.state_dict()
        for name in ("judge", "classifier")
    )
    assert all(torch.allclose(made[name], judge[name], atol=2e-3) for name in judge)


def test_labels_are_what_was_drawn(drawn: Labelled) -> None:
    labels = label_matrix(drawn, torch.arange(len(drawn)))
    counts = (drawn.names[:, 1:] != NOBODY).sum(1)
    assert torch.equal(labels[:, :NOBODY].sum(1).long(), counts)
    for row in range(len(drawn)):
        shown = {LABELS[index] for index in labels[row].nonzero()[:, 0].tolist()}
        assert all(
            any(name.endswith(word) for name in shown)
            for word in drawn.captions[row].split()
            if word in LABELS
        )


def test_patches_share_out_the_whole_image(drawn: Labelled) -> None:
    batch = make_batch(drawn, torch.arange(8), 8, torch.Generator().manual_seed(0))
    assert batch.patch_names.shape == (8, 64, NOBODY + 1)
    assert torch.allclose(batch.patch_names.sum(-1), torch.ones(8, 64))
    shown = batch.patch_names.sum(1)[:, :NOBODY] > 0
    assert torch.equal(shown, batch.labels[:, :NOBODY] > 0)


def test_degraded_pixels_stay_in_range_and_keep_their_order(drawn: Labelled) -> None:
    pixels = make_batch(drawn, torch.arange(8), 8, torch.Generator().manual_seed(0)).pixels
    soft = degrade(pixels, torch.Generator().manual_seed(1), share=1.0)
    assert soft.abs().max() <= 1.0
    assert (soft - pixels).abs().mean((1, 2, 3)).max() < 0.25
    assert torch.equal(degrade(pixels, torch.Generator(), share=0.0), pixels)


def test_a_caption_fits_its_own_scene_and_those_it_is_true_of() -> None:
    def labels(*names: str) -> torch.Tensor:
        return torch.tensor([[float(name in names) for name in LABELS]])

    shown = labels("cat", "bow", "red bow")
    assert fits(shown, labels("cat", "bow"))
    assert fits(shown, labels("cat", "bow", "red bow"))
    assert not fits(shown, labels("cat", "bow", "blue bow"))
    assert not fits(shown, labels("cat"))
    assert not fits(shown, labels("cat", "bow", "dog"))


def test_groups_hold_no_caption_that_is_true_of_two_images(drawn: Labelled) -> None:
    captions, told = tell(drawn, torch.arange(len(drawn)), 0)
    groups = distinct_groups(drawn, told, 6)
    assert groups
    for rows in groups:
        true = fits(label_matrix(drawn, rows), told[rows])
        assert torch.equal(true, torch.eye(6, dtype=torch.bool)), [captions[row] for row in rows]


def test_the_contrast_is_least_when_all_true_captions_share_the_mass() -> None:
    true = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    right, wrong = 20.0 * true.float(), 20.0 * torch.eye(3)
    assert contrastive_loss(right, true) == pytest.approx(
        2 / 3 * torch.log(torch.tensor(2.0)).item(), abs=1e-4
    )
    assert contrastive_loss(wrong, true) > contrastive_loss(right, true) + 1
