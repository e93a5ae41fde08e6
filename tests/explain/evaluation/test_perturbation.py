"""Perturbation, deletion and insertion can fail: planted, random and inverted maps of all modalities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explain_planted import GRID, BrightestPatch, Phrasing, questions, random_maps, scenes
from heedful.explain import InputError
from heedful.explain.evaluation import (
    VQA_STEPS,
    Blur,
    Colour,
    DeletionInsertion,
    Patches,
    Perturbation,
    Regions,
    Words,
)
from heedful.explain.evaluation.perturbation import area
from torch import Tensor

BLACK = Patches(GRID, Colour())


def figures(experiment: Perturbation | DeletionInsertion, measured: dict[str, Tensor]) -> dict[str, float]:
    columns = {name: values.double().numpy() for name, values in measured.items()}
    return {name: each.value for name, each in experiment.summary(columns).items()}


def of_images(maps: Tensor) -> dict[str, float]:
    inputs, labels, _ = scenes()
    test = Perturbation((BLACK,))
    return figures(test, test.measure(BrightestPatch(), inputs, labels, [maps]))


def test_images_planted_is_near_the_best_random_at_chance_inverted_below() -> None:
    truth = scenes()[2].float()
    planted, chance, inverted = of_images(truth), of_images(random_maps()), of_images(-truth)

    assert planted["positive AUC"] == pytest.approx(0.05 / 0.9)  # right at 0, wrong from 10 % on
    assert planted["negative AUC"] == 1
    assert chance["positive AUC"] == pytest.approx(0.5, abs=0.15)
    assert chance["negative AUC"] == pytest.approx(0.5, abs=0.15)
    assert inverted["positive AUC"] == 1
    assert inverted["negative AUC"] < 0.1
    assert planted["negative - positive"] > 0.9 > chance["negative - positive"] > -0.4
    assert inverted["negative - positive"] < -0.9


def test_a_constant_map_is_at_chance_and_not_at_a_corner() -> None:
    assert of_images(torch.zeros(24, *GRID))["positive AUC"] == pytest.approx(0.5, abs=0.2)


def of_questions(words: Tensor, regions: Tensor, *, joint: bool = False) -> list[dict[str, float]]:
    inputs, labels, _, _ = questions()
    parts, maps = (Words(), Regions()), (words, regions)
    if joint:
        test = Perturbation(parts, VQA_STEPS)
        return [figures(test, test.measure(Phrasing(), inputs, labels, maps))]
    tests = [Perturbation((part,), VQA_STEPS) for part in parts]
    return [
        figures(test, test.measure(Phrasing(), inputs, labels, [each]))
        for test, each in zip(tests, maps, strict=True)
    ]


@pytest.mark.parametrize("joint", [False, True])
def test_words_and_regions_planted_random_inverted(joint: bool) -> None:
    _, _, words, regions = questions()
    noise = torch.rand(words.shape), torch.rand(regions.shape)
    planted = of_questions(words, regions, joint=joint)
    chance = of_questions(*noise, joint=joint)
    inverted = of_questions(-words, -regions, joint=joint)

    for good, blind, bad in zip(planted, chance, inverted, strict=True):
        assert good["positive AUC"] == pytest.approx(0.125)  # wrong from 25 % on
        assert good["negative AUC"] > 0.8
        assert -0.5 < blind["negative - positive"] < 0.5
        assert bad["negative - positive"] < -0.65
        assert good["negative - positive"] > 0.65


def test_soft_answers_count_by_how_right_they_are() -> None:
    inputs, labels, words, _ = questions()
    soft = torch.nn.functional.one_hot(labels, 4).float() * 0.6
    test = Perturbation((Words(),), (0.0, 1.0))

    found = test.measure(Phrasing(), inputs, soft, [words])

    assert found["positive"].unique(dim=0).tolist() == [pytest.approx([0.6, 0.0])]


def test_what_opens_and_closes_a_text_stays_and_words_keep_their_order() -> None:
    inputs = {
        "input_ids": torch.tensor([[1, 7, 8, 9, 2, 0], [1, 5, 2, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]),
        "token_type_ids": torch.tensor([[0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]),
    }
    movable = Words().movable(inputs)
    gone = torch.zeros(2, 6, dtype=torch.bool)
    gone[0, 2] = True
    found = Words(padding=0).without(inputs, gone)

    assert movable.tolist() == [[False, True, True, True, False, False], [False, True] + [False] * 4]
    assert found["input_ids"].tolist() == [[1, 7, 9, 2, 0, 0], [1, 5, 2, 0, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert found["token_type_ids"].tolist() == [[0, 0, 1, 1, 0, 0], [0] * 6]
    assert Words("mask", 3).without(inputs, gone)["input_ids"][0].tolist() == [1, 7, 3, 9, 2, 0]


def test_tokens_that_are_to_stay_are_no_words() -> None:
    inputs = {
        "input_ids": torch.tensor([[1, 7, 8, 9, 2, 0]]),
        "attention_mask": torch.tensor([[1] * 5 + [0]]),
    }

    assert Words().movable(inputs).tolist() == [[False, True, True, True, False, False]]
    assert Words(stay=(9, 5)).movable(inputs).tolist() == [[False, True, True, False, False, False]]
    assert "so do tokens 9, 5" in Words(stay=(9, 5)).told["words"]
    assert inputs["input_ids"][0].tolist() == [1, 7, 8, 9, 2, 0]


@pytest.mark.parametrize(
    ("maps", "low", "high"), [("planted", 0.0, 0.45), ("random", 0.35, 0.75), ("inverted", 0.85, 1.0)]
)
def test_deletion_is_low_and_insertion_high_where_maps_are_right(maps: str, low: float, high: float) -> None:
    inputs, labels, truth = scenes()
    values = {"planted": truth.float(), "random": random_maps(), "inverted": -truth.float()}[maps]
    test = DeletionInsertion(BLACK, BLACK)
    found = figures(test, test.measure(BrightestPatch(gain=5), inputs, labels, values))
    whole = float(torch.softmax(5 * torch.tensor([0.9, 0.3, 0.3]), 0)[0])

    assert low <= found["deletion AUC"] / whole <= high
    assert low <= 1.33 - found["insertion AUC"] / whole <= high + 0.1


def test_insertion_on_one_baseline_is_negative_perturbation_backwards() -> None:
    inputs, labels, _ = scenes()
    test, steps = DeletionInsertion(BLACK, BLACK), [step / 10 for step in range(11)]
    values = random_maps()

    forth = test.measure(BrightestPatch(), inputs, labels, values)["insertion"]
    back = test.measure(BrightestPatch(), inputs, labels, -values)["deletion"].flip(1)

    torch.testing.assert_close(forth, back)
    assert area(forth.numpy(), steps) == pytest.approx(area(back.numpy(), steps))


def test_rows_do_not_depend_on_their_batch() -> None:
    inputs, labels, _ = scenes()
    test, values = Perturbation((BLACK,)), random_maps()
    whole = test.measure(BrightestPatch(), inputs, labels, [values])
    alone = test.measure(
        BrightestPatch(), {"pixel_values": inputs["pixel_values"][5:6]}, labels[5:6], [values[5:6]]
    )

    assert all(torch.equal(alone[name], whole[name][5:6]) for name in whole)


def test_fills_are_what_they_say() -> None:
    pixels = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)

    black = Colour(mean=mean, std=std)(pixels)
    assert black.flatten().tolist() == pytest.approx([-2.5, -1.6, -0.6])
    assert "before" in Colour(mean=mean, std=std).told
    assert "after" in Colour().told
    blurred = Blur(1.5)(pixels)
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    line = np.pad(pixels[0, 0].double().numpy(), 4, mode="edge")
    kernel /= kernel.sum()
    hand = sum(kernel[i] * kernel[j] * line[i : i + 9, j : j + 8] for i in range(9) for j in range(9))
    np.testing.assert_allclose(blurred[0, 0].numpy(), hand, atol=1e-6)


def test_patches_of_an_image_that_they_do_not_divide() -> None:
    inputs = {"pixel_values": torch.ones(1, 3, 7, 5)}
    gone = torch.zeros(1, 6, dtype=torch.bool)
    gone[0, 4] = True  # second row of three, second column of two, of a 3 x 2 grid: row 2, column 0

    found = Patches((3, 2)).without(inputs, gone)["pixel_values"]

    assert (found[0, 0] == 0).nonzero().tolist() == [[5, 0], [5, 1], [5, 2], [6, 0], [6, 1], [6, 2]]


def test_points_are_the_mean_curves_and_the_protocol_is_told() -> None:
    inputs, labels, truth = scenes()
    test = Perturbation((BLACK,), (0.0, 0.5))
    measured = test.measure(BrightestPatch(), inputs, labels, [truth.float()])

    found = test.points({name: values.numpy() for name, values in measured.items()})

    assert {name: each.value for name, each in found.items()} == {
        "positive at 0": 1, "positive at 0.5": 0, "negative at 0": 1, "negative at 0.5": 1,
    }  # fmt: skip
    assert test.told["baseline"] == "colour (0, 0, 0) after normalisation"
    assert test.told["steps"] == "0, 0.5"


def test_what_cannot_be_measured_is_refused() -> None:
    inputs, labels, truth = scenes()
    test = Perturbation((BLACK,))

    with pytest.raises(InputError, match="growing shares"):
        Perturbation((BLACK,), (0.5, 0.2))
    with pytest.raises(InputError, match="20 pieces"):
        test.measure(BrightestPatch(), inputs, labels, [truth[:, :2].float()])
    with pytest.raises(InputError, match="NaN"):
        test.measure(BrightestPatch(), inputs, labels, [truth / 0.0])
    with pytest.raises(InputError, match="one map for each of 1 parts"):
        test.measure(BrightestPatch(), inputs, labels, [])
    with pytest.raises(InputError, match="no tensor input_ids"):
        Words().movable(inputs)
    with pytest.raises(InputError, match="cannot be cut"):
        Patches((100, 2)).movable(inputs)
    with pytest.raises(InputError, match="mask_id"):
        Words("mask")
    with pytest.raises(InputError, match="both mean and std"):
        Colour(mean=(0.5, 0.5, 0.5))
