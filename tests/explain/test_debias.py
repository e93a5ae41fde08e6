"""Debiasing lowers its loss, keeps the best epoch, stops early, leaves what came alone, is saved whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import explain_tiny
import pytest
import torch
from heedful.emoji import load_cheater
from heedful.emoji.cheating import marked_scenes
from heedful.emoji.samples_vision import labels, masks, pixels
from heedful.explain import InputError, UnsupportedMethodError
from heedful.explain.debias import (
    DebiasSettings,
    Epoch,
    MaskedImages,
    debias,
    sight,
    with_random_masks,
)
from heedful.explain.debiasing import training
from heedful.explain.debiasing.objective import validation_loss
from heedful.explain.errors import TrainingError
from torch import nn
from transformers import ViTForImageClassification

OPTIONS = {"interpolate_pos_encoding": True}
QUICK = DebiasSettings(rate=1e-3, epochs=3, batch=4)


def images(count: int = 6, seed: int = 0) -> MaskedImages:
    found = torch.zeros(count, 24, 40)
    found[:, 4:17, 9:30] = 1
    return MaskedImages(explain_tiny.images(batch=count, seed=seed), found, torch.arange(count) % 5)


def vit() -> nn.Module:
    return explain_tiny.tiny("vit")[0]


def run(model: nn.Module, settings: DebiasSettings = QUICK, **other: Any) -> Any:
    return debias(model, images(), images(4, 9), settings, options=OPTIONS, device="cpu", **other)


def test_the_loss_falls_and_the_model_that_came_is_left_alone() -> None:
    model = vit()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    made = run(model)
    losses = [epoch.validation for epoch in made.history]
    assert min(losses[1:]) < losses[0]
    assert made.best.validation == min(losses)
    assert validation_loss(made.model, images(4, 9), QUICK, OPTIONS) == pytest.approx(min(losses))
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not made.model.training
    assert all(each.requires_grad for each in made.model.parameters())
    assert (made.images, made.validation, made.origin) == (6, 4, "ViTForImageClassification")


def test_the_same_seed_makes_the_same_model_and_another_another() -> None:
    one, two, three = (run(vit(), DebiasSettings(rate=1e-3, epochs=1, seed=seed)) for seed in (0, 0, 1))
    weights = [each.model.get_parameter("classifier.weight") for each in (one, two, three)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_stops_when_it_gets_no_better_and_the_best_epoch_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = iter([1.0, 0.5, 0.7, 0.6, 0.1])
    monkeypatch.setattr(training, "validation_loss", lambda *_: next(told))
    seen: list[Epoch] = []
    made = run(vit(), DebiasSettings(rate=1e-3, epochs=9, patience=2), progress=seen.append)
    assert [epoch.validation for epoch in made.history] == [1.0, 0.5, 0.7, 0.6]
    assert made.best.number == 1
    assert [epoch.number for epoch in seen] == [1, 2, 3]
    monkeypatch.undo()
    again = run(vit(), DebiasSettings(rate=1e-3, epochs=1))
    for name, each in again.model.state_dict().items():
        assert torch.equal(each, made.model.state_dict()[name])


def test_a_model_that_nothing_improves_comes_back_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([0.1, 0.5])
    monkeypatch.setattr(training, "validation_loss", lambda *_: next(told))
    model = vit()
    made = run(model, DebiasSettings(rate=1e-3, epochs=1))
    assert made.best.number == 0
    weights = made.model.state_dict()
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())


def test_rates_fall_as_published() -> None:
    settings = DebiasSettings()
    found = [settings.rate_at(epoch) for epoch in (0, 1, 2, 5)]
    assert found == pytest.approx([3e-6, 3e-6, 3e-6 * 0.85, 3e-6 * 0.85**2])


def test_what_is_saved_loads_as_any_other_model(tmp_path: Path) -> None:
    made = run(vit(), DebiasSettings(rate=1e-3, epochs=1))
    made.save(tmp_path)
    loaded = ViTForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.classifier.weight, made.model.get_parameter("classifier.weight"))
    told = json.loads((tmp_path / "debias.json").read_text(encoding="utf-8"))
    assert told["settings"]["rate"] == 1e-3
    assert told["history"][0]["training"] is None
    assert told["best"] == made.best.number
    assert set(told["versions"]) == {"heedful", "torch", "transformers"}


@pytest.mark.parametrize("name", ["deit_teacher", "dinov2_registers"])
@pytest.mark.parametrize("method", ["relevance", "gradmask", "rrr"])
def test_other_families_and_baselines_learn_too(name: str, method: str) -> None:
    model, _ = explain_tiny.tiny(name)
    settings = DebiasSettings(method=method, rate=1e-3, epochs=1)  # type: ignore[arg-type]
    options = {} if name.startswith("dino") else OPTIONS
    made = debias(model, images(), images(4, 9), settings, options=options, device="cpu")
    assert all(math.isfinite(epoch.validation) for epoch in made.history)


def test_without_labels_the_baselines_say_what_they_miss() -> None:
    plain = MaskedImages(images().pixels, images().masks)
    with pytest.raises(InputError, match='the method "rrr" learns from labels'):
        debias(vit(), plain, plain, DebiasSettings(method="rrr"), options=OPTIONS)
    made = debias(vit(), plain, plain, DebiasSettings(epochs=1), options=OPTIONS, device="cpu")
    with pytest.raises(InputError, match="accuracy needs labels"):
        _ = sight(made.model, plain, options=OPTIONS).accuracy


def test_what_cannot_be_debiased_is_refused() -> None:
    clip, _ = explain_tiny.tiny("clip")
    with pytest.raises(UnsupportedMethodError, match="such as ViTForImageClassification"):
        debias(clip, images(), images())
    with pytest.raises(InputError, match="pass interpolate_pos_encoding=True"):
        debias(vit(), images(), images())
    wrong = MaskedImages(images().pixels, images().masks, torch.full((6,), 5))
    with pytest.raises(InputError, match="classes of the model, 0 to 4"):
        debias(vit(), wrong, images(), options=OPTIONS)


@pytest.mark.parametrize(("changes", "message"), [
    ({"method": "gradmask", "second_order": True}, 'is for the method "relevance"'),
    ({"rate": 0.0}, "rate must be above 0"),
    ({"background_weight": -1.0}, "background_weight must not be negative"),
    ({"keep": 1.5}, "keep is a share"),
    ({"patience": 0}, "patience must be above 0"),
])  # fmt: skip
def test_settings_outside_their_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DebiasSettings(**changes)


def test_a_loss_that_is_no_number_ends_it_with_advice() -> None:
    with pytest.raises(TrainingError, match="lower the learning rate"):
        training._checked(float("nan"))


def marked(seed: int, count: int, kind: str) -> MaskedImages:
    drawn = list(marked_scenes(seed, count, kind))  # type: ignore[arg-type]
    subjects = [each.subject for each in drawn]
    return MaskedImages(pixels([each.scene for each in drawn]), masks(subjects), labels(subjects))


def test_what_is_right_and_where_it_looks_is_told_image_by_image() -> None:
    seen = sight(load_cheater("cpu"), marked(9_998, 12, "conflict"), batch=5)
    assert seen.relevance.shape == (12, 64, 64)
    assert seen.right is not None
    assert seen.accuracy == pytest.approx(float(seen.right.float().mean()))
    assert seen.accuracy < 0.6
    assert (seen.inside >= 0).all()
    assert (seen.inside <= 1).all()
    everywhere = MaskedImages(marked(9_998, 12, "conflict").pixels, torch.ones(12, 64, 64))
    torch.testing.assert_close(sight(load_cheater("cpu"), everywhere).inside, torch.ones(12))


@pytest.mark.gpu
def test_on_cuda_it_learns_in_float16() -> None:
    made = debias(vit(), images(), images(4, 9), QUICK, options=OPTIONS)
    assert next(made.model.parameters()).dtype == torch.float32
    assert next(made.model.parameters()).device.type == "cuda"
    assert made.best.validation <= made.history[0].validation


def test_random_masks_are_a_control_that_learns_something_else() -> None:
    plain, random = images(), with_random_masks(images(), 1)
    settings = DebiasSettings(rate=1e-3, epochs=1)
    weights = [
        debias(vit(), each, images(4, 9), settings, options=OPTIONS, device="cpu").model.state_dict()
        for each in (plain, random)
    ]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
