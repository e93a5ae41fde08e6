"""The masked attack counts steps rightly, keeps its bounds, censors, and tells planted maps from others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from explain_planted import CELL, GRID, BrightestPatch, enlarged, random_maps, scenes
from heedful.explain import InputError
from heedful.explain.evaluation import MaskedAttack, Patches, drawn_targets
from torch import Tensor

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
STEP, CAP = 1 / 32, 24


def attack(**changed: object) -> MaskedAttack:
    settings = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "step": STEP, "cap": CAP, **changed}
    return MaskedAttack(Patches(GRID), **settings)


def others(labels: Tensor) -> Tensor:
    return 3 - labels


def test_steps_are_those_that_the_gap_asks_for() -> None:
    inputs, labels, truth = scenes(6)
    area = enlarged(truth)[:, None]
    found = attack().steps(BrightestPatch(), inputs, others(labels), area)

    # The bright channel falls from .9 while the other one rises from .3, both a step at a time, on all pixels
    # of the patch; the classes change when they have crossed.
    assert found.tolist() == [math.floor(0.6 / 2 / STEP) + 1] * 6
    assert inputs["pixel_values"].requires_grad is False


def test_steps_are_the_same_in_the_units_of_a_normalised_model() -> None:
    inputs, labels, truth = scenes(6)
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    model, area = BrightestPatch(), enlarged(truth)[:, None]

    def ask(given: dict[str, Tensor]) -> Tensor:
        return model({"pixel_values": given["pixel_values"] * std + mean})

    normalised = {"pixel_values": (inputs["pixel_values"] - mean) / std}
    found = attack(mean=MEAN, std=STD).steps(ask, normalised, others(labels), area)

    assert torch.equal(found, attack().steps(model, inputs, others(labels), area))


def test_only_the_area_moves_and_pixels_stay_in_their_range() -> None:
    inputs, labels, truth = scenes(2)
    seen = []

    def ask(given: dict[str, Tensor]) -> Tensor:
        seen.append(given["pixel_values"].detach().clone())
        logits = BrightestPatch()(given)
        return torch.cat([logits * 1e-3, torch.ones(len(logits), 1)], 1)  # the fourth class always wins

    area = enlarged(truth)[:, None]
    found = attack(step=0.3).steps(ask, inputs, labels, area)

    assert found.isinf().all()
    assert len(seen) == CAP + 1
    moved = (seen[-1] != inputs["pixel_values"]).any(1)
    assert not (moved & ~area[:, 0]).any()
    assert (seen[-1] >= 0).all()
    assert (seen[-1] <= 1).all()
    assert float(seen[-1].max()) == 1


def test_planted_is_sooner_inside_random_alike_inverted_sooner_outside() -> None:
    inputs, labels, truth = scenes()
    test = attack(shares=(0.25,))
    planted, chance, inverted = (
        {
            name: each.value
            for name, each in test.summary(
                {
                    name: steps.double().numpy()
                    for name, steps in test.measure(BrightestPatch(), inputs, others(labels), maps).items()
                }
            ).items()
        }
        for maps in (truth.float(), random_maps(), -truth.float())
    )

    # Beside the bright patch another can be made bright in the target's channel: from .3 over .9.
    assert planted["inside 25%, median steps"] == 10
    assert planted["outside 25%, median steps"] == math.floor(0.6 / STEP) + 1
    assert planted["inside sooner 25%"] == 1
    assert abs(chance["difference 25%"]) < 0.5 * planted["difference 25%"]
    assert inverted["outside sooner 25%"] == 1
    assert inverted["difference 25%"] == -planted["difference 25%"]


def test_what_never_turns_is_censored_and_counts() -> None:
    inputs, labels, truth = scenes()
    test = attack(shares=(0.25,), cap=12)
    measured = test.measure(BrightestPatch(), inputs, others(labels), truth.float())
    columns = {name: steps.double().numpy() for name, steps in measured.items()}
    found = test.summary(columns)

    assert found["outside 25%, median steps"].value == math.inf
    assert found["outside 25%, mean steps"].value == 12
    assert (found["outside 25%, never"].value, found["outside 25%, never"].n) == (1, 24)
    assert found["inside 25%, never"].value == 0
    assert found["difference 25%"].value == 2
    assert test.points(columns)["difference 25%, quantile 0.5"].value == 2
    assert test.told["cap"] == 12


def test_both_areas_are_equally_large() -> None:
    inputs, labels, _ = scenes(3)
    sizes = []
    for share in (0.25, 0.5):
        test = attack(shares=(share,))
        areas: list[Tensor] = []

        def steps(_ask: object, _inputs: object, _targets: Tensor, area: Tensor, kept: Any = areas) -> Tensor:
            kept.append(area)
            return torch.ones(3)

        object.__setattr__(test, "steps", steps)
        test.measure(BrightestPatch(), inputs, labels, random_maps(3))
        inside, outside = areas
        assert not (inside & outside).any()
        sizes.append((inside.sum((1, 2, 3)).tolist(), outside.sum((1, 2, 3)).tolist()))

    assert sizes == [([5 * CELL**2] * 3,) * 2, ([10 * CELL**2] * 3,) * 2]


def test_targets_are_drawn_by_item_and_never_the_answer() -> None:
    predicted = torch.arange(40) % 5
    found = drawn_targets(predicted, 5, list(range(40)))

    assert (found != predicted).all()
    assert found.unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(drawn_targets(predicted[7:9], 5, [7, 8]), found[7:9])


def test_what_cannot_be_attacked_is_refused() -> None:
    inputs, labels, truth = scenes(3)

    with pytest.raises(InputError, match="target as answer before"):
        attack().measure(BrightestPatch(), inputs, labels, truth.float())
    with pytest.raises(InputError, match=r"shares must lie in 0\.\.0\.5"):
        attack(shares=(0.6,))
    with pytest.raises(InputError, match="a cap of at least 1"):
        attack(cap=0)
    with pytest.raises(InputError, match="two or more labels"):
        drawn_targets(labels, 1, [0, 1, 2])
