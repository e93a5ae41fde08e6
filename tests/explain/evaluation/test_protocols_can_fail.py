"""Every test of a study: planted maps near its maximum, random ones at chance, inverted ones below."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_planted import (
    CELL,
    GRID,
    BrightestPatch,
    Phrasing,
    WeighedPatches,
    enlarged,
    questions,
    random_maps,
    scenes,
    seeded,
)
from heedful.explain import InputError
from heedful.explain.evaluation import (
    AgreementTest,
    AttackTest,
    Batch,
    BlankOut,
    BlankOutTest,
    Colour,
    DeletionInsertion,
    DeletionInsertionTest,
    MaskedAttack,
    MaskFromRelevance,
    Patches,
    Perturbation,
    PerturbationTest,
    PiecePointingTest,
    PointingAtPieces,
    PointingTest,
    Regions,
    SegmentationTest,
    SpecificityTest,
    Words,
)
from heedful.explain.evaluation.comparison import compare
from heedful.explain.evaluation.records import records
from heedful.explain.evaluation.study import Asked, Kind, Whose
from torch import Tensor, nn

PATCHES = Patches(GRID, Colour())
LIGHT = Patches(GRID, Colour((0.3,) * 3))
FOUND = ("planted", "chance", "inverted")


class Planted(Asked):
    """A batch with maps that no method made."""

    def __init__(self, ask: nn.Module, batch: Batch, **made: dict[str, Tensor]) -> None:
        """`made`: by kind; "other" are those for the second subject."""
        super().__init__(nn.Identity(), ask, batch, ())
        self.made = made

    def maps(self, kind: Kind, of: Whose = "own") -> dict[str, Tensor]:
        """Those that were given."""
        return self.made["other" if of == "other" else kind]


def three(truth: Tensor) -> dict[str, Tensor]:
    """A planted map, a random one, an inverted one; a little noise breaks ties."""
    noise = 0.01 * torch.rand(truth.shape, generator=seeded(21))
    chance = torch.rand(truth.shape, generator=seeded(22))
    return {"planted": truth + noise, "chance": chance, "inverted": 1 - truth + noise}


def of_images() -> Asked:
    inputs, labels, truth = scenes()
    batch = Batch(tuple(range(len(labels))), inputs, labels.tolist(), labels, labels, enlarged(truth))
    return Planted(BrightestPatch(), batch, image=three(truth.float()))


def of_worth() -> Asked:
    """Images of which every patch has a worth of its own."""
    pixels = torch.rand(24, 3, 12, 15, generator=seeded(2)) + 1
    labels = torch.ones(24, dtype=torch.long)
    worth = nn.functional.adaptive_avg_pool2d(pixels, GRID).mean(1) * WeighedPatches().weights.view(GRID)
    maps = {"planted": worth, "chance": random_maps(), "inverted": -worth}
    return Planted(WeighedPatches(), Batch(tuple(range(24)), {"pixel_values": pixels}, 1, labels), image=maps)


def of_questions(pieces: str) -> Asked:
    inputs, labels, words, regions = questions()
    deciding = {"text": words, "regions": regions}[pieces].bool()
    batch = Batch(tuple(range(len(labels))), inputs, None, labels, labels, pieces=deciding)
    return Planted(Phrasing(), batch, text=three(words), regions=three(regions))


def of_pairs() -> Asked:
    rows = 48
    places = torch.stack([torch.randperm(20, generator=seeded(seed))[:2] for seed in range(rows)])
    own, other = (nn.functional.one_hot(each, 20).unflatten(1, GRID).float() for each in places.T)
    inputs = {"pixel_values": torch.rand(rows, 3, GRID[0] * CELL, GRID[1] * CELL)}
    masks = {"masks": enlarged(own).bool(), "other_masks": enlarged(other).bool()}
    batch = Batch(tuple(range(rows)), inputs, 0, torch.zeros(rows, dtype=torch.long), **masks, other=1)
    maps = [
        {"planted": one, "chance": torch.rand(rows, *GRID, generator=seeded(seed)), "inverted": two}
        for one, two, seed in ((own, other, 5), (other, own, 6))
    ]
    return Planted(BrightestPatch(), batch, image=maps[0], other=maps[1])


ATTACK = MaskedAttack(Patches(GRID), (0.0,) * 3, (1.0,) * 3, shares=(0.25,), step=1 / 32, cap=24)
CASES: dict[str, tuple[Any, Asked, tuple[float, float, float], float]] = {
    "perturbation": (PerturbationTest(Perturbation((PATCHES,))), of_images(), (0.94, 0, -0.94), 0.15),
    "words": (
        PerturbationTest(Perturbation((Words(),)), ("text",)), of_questions("text"), (0.88, 0, -0.88), 0.2,
    ),
    "regions": (
        PerturbationTest(Perturbation((Regions(),)), ("regions",)), of_questions("regions"),
        (0.94, 0, -0.94), 0.2,
    ),
    "both": (
        PerturbationTest(Perturbation((Words(), Regions())), ("text", "regions")), of_questions("text"),
        (0.8, 0, -0.8), 0.3,
    ),
    "deletion": (DeletionInsertionTest(DeletionInsertion(LIGHT, LIGHT)), of_images(), (0.55, 0, -0.55), 0.15),
    "blank-out": (BlankOutTest(BlankOut(PATCHES)), of_worth(), (1, 0, -1), 0.15),
    "logit": (BlankOutTest(BlankOut(PATCHES, of="logit")), of_worth(), (1, 0, -1), 0.15),
    "attack": (AttackTest(ATTACK), of_images(), (10, 0, -10), 5.0),
    "pointing": (PointingTest(), of_images(), (1, 0.05, 0), 0.12),
    "pointing at words": (
        PiecePointingTest(PointingAtPieces(Words())), of_questions("text"), (1, 0.2, 0), 0.2,
    ),
    "pointing at regions": (
        PiecePointingTest(PointingAtPieces(Regions()), "regions"), of_questions("regions"),
        (1, 1 / 6, 0), 0.2,
    ),
    "segmentation": (SegmentationTest(), of_images(), (0.97, 0.5, 0.3), 0.1),
    "masks": (SegmentationTest(MaskFromRelevance()), of_images(), (1, 0.05, 0), 0.05),
    "specificity": (SpecificityTest(), of_pairs(), (1, 0.5, 0), 0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_planted_near_the_maximum_random_at_chance_inverted_below(name: str) -> None:
    test, cases, wanted, room = CASES[name]
    measured = test.measure(cases)
    made = records(cases.batch.items, measured, correct=True)
    found = compare(test, [{**record, "tests": {test.name: record["values"]}} for record in made])

    planted, chance, inverted = (found.value(each).value for each in FOUND)
    assert planted == pytest.approx(wanted[0], abs=room / 2)
    assert chance == pytest.approx(wanted[1], abs=room)
    assert inverted == pytest.approx(wanted[2], abs=room / 2)
    assert found.beats("planted", ["chance", "inverted"])
    assert not found.beats("chance", ["planted"])
    assert found.best == "planted"


def test_agreement_is_between_all_methods() -> None:
    cases = of_images()
    found = AgreementTest().measure(cases)

    assert list(found) == ["planted ~ chance", "planted ~ inverted", "chance ~ inverted"]
    only = AgreementTest(kind="text", part=Words()).measure(of_questions("text"))
    assert not torch.equal(found["planted ~ chance"]["spearman"], only["planted ~ chance"]["spearman"])


def test_a_piece_that_is_padding_is_no_choice_and_rows_without_truth_do_not_count() -> None:
    inputs, _, words, _ = questions(6)
    test = PointingAtPieces(Words())
    negative = -torch.ones_like(words) + words / 2  # special tokens and padding have 0, the largest value
    negative[~Words().movable(inputs)] = 0

    assert test.measure(inputs, negative, words.bool())["hit"].tolist() == [1] * 6
    nothing = words.bool().clone()
    nothing[2] = False
    assert test.measure(inputs, negative, nothing)["hit"].isnan().tolist() == [row == 2 for row in range(6)]
    assert test.measure(inputs, torch.ones_like(words), words.bool())["hit"].tolist() == pytest.approx(
        (1 / (inputs["attention_mask"].sum(1) - 2)).tolist()
    )


def test_logits_drop_as_a_loop_says() -> None:
    cases = of_worth()
    inputs, labels = cases.batch.inputs, cases.batch.labels
    gone = torch.zeros(24, 20, dtype=torch.bool)
    gone[:, 7] = True
    test = BlankOut(PATCHES, of="logit", label="the drawn one")
    whole, left = (BrightestPatch(3.0)(each)[:, 1] for each in (inputs, PATCHES.without(inputs, gone)))

    drops = test.drops(BrightestPatch(3.0), inputs, labels)

    torch.testing.assert_close(drops[:, 7], whole - left, atol=1e-5, rtol=1e-4)
    assert test.told["drop of"] == "the logit of the drawn one"


def test_tests_say_what_a_source_must_tell() -> None:
    bare = Batch((0,), {"pixel_values": torch.zeros(1, 3, 12, 15)}, 0, torch.tensor([0]))
    cases = Planted(BrightestPatch(), bare, image={"a": torch.zeros(1, *GRID)})

    for test, missing in (
        (PerturbationTest(Perturbation((PATCHES,))), "Batch.truth"),
        (PointingTest(), "Batch.masks"),
        (SpecificityTest(), "Batch.masks"),
        (PiecePointingTest(PointingAtPieces(Words())), "Batch.pieces"),
        (PiecePointingTest(PointingAtPieces(Words()), pieces="words"), "Batch.words"),
    ):
        with pytest.raises(InputError, match=missing):
            test.measure(cases)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="one kind of map for each of 2 parts"):
        PerturbationTest(Perturbation((Words(), Regions())), ("text",))
