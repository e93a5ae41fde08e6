"""Localisation and class specificity can fail, and their figures are those of slow twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explain_planted import CELL, GRID, enlarged, random_maps, scenes
from heedful.explain import InputError
from heedful.explain.evaluation import ClassSpecificity, MaskFromRelevance, PointingGame, Segmentation
from heedful.explain.evaluation.localisation import box_iou, box_of, mask_iou, otsu
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

ROWS = 200


def blocks(seed: int = 5) -> Tensor:
    """Masks on the grid: a block of 2 x 2 patches anywhere."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(ROWS, *GRID, dtype=torch.bool)
    for row in range(ROWS):
        top, left = (int(torch.randint(0, size - 1, (), generator=generator)) for size in GRID)
        found[row, top : top + 2, left : left + 2] = True
    return found


def figures(experiment: object, measured: dict[str, Tensor]) -> dict[str, float]:
    columns = {name: values.double().numpy() for name, values in measured.items()}
    return {name: each.value for name, each in experiment.summary(columns).items()}  # type: ignore[attr-defined]


def test_pointing_planted_random_inverted() -> None:
    truth, test = blocks(), PointingGame()
    noise = random_maps(ROWS)
    planted, chance, inverted = (
        figures(test, test.measure(maps, enlarged(truth)))
        for maps in (truth + 0.1 * noise, noise, -truth.float() + 0.1 * noise)
    )

    assert planted["pointing"] == 1
    assert planted["relevance inside"] > 0.8
    assert chance["pointing"] == pytest.approx(4 / 20, abs=0.08)
    assert chance["relevance inside"] == pytest.approx(4 / 20, abs=0.03)
    assert abs(chance["pointing - chance"]) < 0.08
    assert inverted["pointing"] == 0
    assert inverted["pointing - chance"] == pytest.approx(-0.2)


def test_a_constant_map_points_everywhere_by_chance() -> None:
    truth = blocks()

    assert figures(PointingGame(), PointingGame().measure(torch.ones(ROWS, *GRID), enlarged(truth)))[
        "pointing"
    ] == pytest.approx(4 / 20)


def test_tolerance_lets_a_neighbour_hit() -> None:
    maps, mask = torch.zeros(1, *GRID), torch.zeros(1, 12, 15, dtype=torch.bool)
    maps[0, 1, 1], mask[0, 4, 6] = 1, True  # the centre of that patch is (4, 4)

    assert [float(PointingGame(by).measure(maps, mask)["hit"]) for by in (0, 1, 2)] == [0, 0, 1]


def test_segmentation_planted_random_inverted() -> None:
    truth, test = blocks(), Segmentation()
    planted, chance, inverted = (
        figures(test, test.measure(maps, enlarged(truth)))
        for maps in (truth.float(), random_maps(ROWS), -truth.float())
    )

    assert planted["mIoU"] > 0.75  # enlarged bilinearly, even true patches spill over their edges
    assert planted["pixel accuracy"] > 0.9
    assert planted["mAP"] > 0.99
    assert chance["pixel accuracy"] == pytest.approx(0.5, abs=0.03)
    assert chance["mIoU"] == pytest.approx(0.3, abs=0.05)
    assert inverted["mIoU"] < 0.1
    assert inverted["pixel accuracy"] < 0.1
    assert inverted["mAP"] < chance["mAP"] < planted["mAP"]


def test_segmentation_counts_are_those_of_a_loop() -> None:
    maps, masks = random_maps(3), enlarged(blocks()[:3])
    found = Segmentation().measure(maps, masks)

    for row in range(3):
        large = torch.nn.functional.interpolate(maps[row : row + 1, None], (12, 15), mode="bilinear")[0, 0]
        over = large.numpy() > large.numpy().mean()
        truth = masks[row].numpy()
        assert float(found["right"][row]) == pytest.approx((over == truth).mean())
        assert found["shared"][row].tolist() == [(~over & ~truth).sum(), (over & truth).sum()]
        assert found["joined"][row].tolist() == [(~over | ~truth).sum(), (over | truth).sum()]


def test_masks_of_relevance_planted_random_inverted() -> None:
    truth, test = blocks(), MaskFromRelevance()
    planted, chance, inverted = (
        figures(test, test.measure(maps, enlarged(truth)))
        for maps in (truth.float(), random_maps(ROWS), -truth.float())
    )

    assert planted == {"mask IoU": 1, "box IoU": 1}
    assert 0.05 < chance["mask IoU"] < 0.25
    assert inverted["mask IoU"] == 0


@given(st.lists(st.integers(0, 255), min_size=6, max_size=6), st.integers(0, 3))
def test_otsu_parts_as_well_as_the_best_of_all_thresholds(levels: list[int], copies: int) -> None:
    values = torch.tensor([0, *levels, *levels[:1] * copies, 255]).float()
    over = otsu(values[None, None])[0, 0].numpy()
    array = values.numpy()

    def within(side: np.ndarray) -> float:
        return sum(part.var() * len(part) for part in (array[side], array[~side]) if len(part))

    best = min(within(array > threshold) for threshold in range(255))
    assert within(over) == pytest.approx(best, rel=1e-6, abs=1e-3)


def test_a_constant_map_has_no_mask() -> None:
    assert not otsu(torch.full((1, 3, 4), 0.7)).any()


def test_boxes_and_their_overlaps() -> None:
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 1:4, 2:7], masks[1, 2:6, 0:4] = True, True

    boxes = box_of(masks)

    assert boxes.tolist() == [[2, 1, 7, 4], [0, 2, 4, 6], [0, 0, 0, 0]]
    both = masks[[0]], masks[[1]]
    assert float(mask_iou(*both)) == pytest.approx(4 / (15 + 16 - 4))
    assert float(box_iou(boxes[[0]], boxes[[1]])) == pytest.approx(4 / (15 + 16 - 4))
    assert float(box_iou(boxes[[2]], boxes[[2]])) == float(mask_iou(masks[[2]], masks[[2]])) == 0


def two_subjects() -> tuple[Tensor, Tensor]:
    one = torch.zeros(ROWS, *GRID, dtype=torch.bool)
    other = one.clone()
    one[:, :2, :2], other[:, 2:, 2:] = True, True
    return one, other


def specificity(maps: tuple[Tensor, Tensor]) -> dict[str, float]:
    one, other = two_subjects()
    return figures(ClassSpecificity(), ClassSpecificity().measure(maps, (enlarged(one), enlarged(other))))


def test_specificity_planted_agnostic_confused() -> None:
    one, other = (each.float() for each in two_subjects())
    found = specificity((one, other))
    confused = specificity((other, one))

    assert found["own mask against the other's"] == found["pointing at the own"] == 1
    assert confused["own mask against the other's"] == confused["both lean to their own"] == 0
    both = one + other
    agnostic = specificity((both, both))
    assert agnostic["own mask against the other's"] == 0.5
    assert agnostic["Spearman between the two targets' maps"] == pytest.approx(1)
    finds_one = specificity((one, one))  # a map for one of them whatever is asked is no better
    assert finds_one["own mask against the other's"] == 0.5
    noise = random_maps(ROWS), random_maps(ROWS, seed=12)
    assert specificity(noise)["own mask against the other's"] == pytest.approx(0.5, abs=0.03)
    assert specificity((-one, -other))["own mask against the other's"] == 0.5  # nothing speaks for either
    assert specificity((0.1 * noise[0] + one, 0.1 * noise[1] + other))["both lean to their own"] == 1


def test_maps_and_masks_that_do_not_fit_are_refused() -> None:
    _, _, truth = scenes(2)
    maps, masks = random_maps(2), enlarged(truth)

    with pytest.raises(InputError, match="as many masks"):
        PointingGame().measure(maps, masks[:1])
    with pytest.raises(InputError, match="mask 1 is empty"):
        Segmentation().measure(maps, masks & torch.tensor([True, False])[:, None, None])
    with pytest.raises(InputError, match="smaller than maps"):
        Segmentation().measure(maps, masks[:, ::CELL, :2])
    with pytest.raises(InputError, match="NaN"):
        PointingGame().measure(maps * torch.nan, masks)
    with pytest.raises(InputError, match="overlap"):
        ClassSpecificity().measure((maps, maps), (masks, masks))
