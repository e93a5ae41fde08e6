"""Blank-out finds what pieces are worth, and tells planted maps from random and inverted ones."""

from __future__ import annotations

import pytest
import torch
from explain_planted import GRID, BrightestPatch, Phrasing, WeighedPatches, questions, random_maps, scenes
from heedful.explain import InputError
from heedful.explain.evaluation import BlankOut, Pairwise, Patches, Words
from heedful.explain.evaluation.blank_out import Measured
from torch import Tensor

TEST = BlankOut(Patches(GRID), share=0.25, together=7)


def lit(rows: int = 24) -> dict[str, Tensor]:
    return {"pixel_values": torch.rand(rows, 3, 12, 15, generator=torch.Generator().manual_seed(2)) + 1}


def figures(measured: Measured) -> dict[str, float]:
    found = TEST.summary({name: values.double().numpy() for name, values in measured.items()})
    return {name: each.value for name, each in found.items()}


def test_drops_are_those_of_a_loop() -> None:
    inputs, model = lit(3), WeighedPatches()
    drops = TEST.drops(model, inputs)

    whole = model(inputs).softmax(1)
    for row in range(3):
        for piece in range(20):
            pixels = inputs["pixel_values"][row : row + 1].clone()
            high, wide = divmod(piece, 5)
            pixels[..., high * 3 : high * 3 + 3, wide * 3 : wide * 3 + 3] = 0
            left = model({"pixel_values": pixels}).softmax(1)[0, 1]
            assert float(drops[row, piece]) == pytest.approx(float(whole[row, 1] - left), abs=1e-6)


def test_planted_correlates_random_does_not_inverted_inversely() -> None:
    inputs, model = lit(), WeighedPatches()
    drops = TEST.drops(model, inputs)
    worth = torch.nn.functional.adaptive_avg_pool2d(inputs["pixel_values"], GRID).mean(1).flatten(1)
    worth = worth * model.weights

    planted, chance, inverted = (
        figures(TEST.measure(inputs, drops, each)) for each in (worth, random_maps(), -worth)
    )

    assert planted["Spearman"] == pytest.approx(1, abs=1e-3)
    assert planted["top 25% in common"] == 1
    assert abs(chance["Spearman"]) < 0.15
    assert chance["top 25% in common"] == pytest.approx(0.25, abs=0.12)
    assert inverted["Spearman"] == pytest.approx(-1, abs=1e-3)
    assert inverted["top 25% in common"] == 0


def test_words_are_masked_one_by_one() -> None:
    inputs, labels, words, _ = questions()
    test = BlankOut(Words("mask", 3), share=0.1)
    drops = test.drops(Phrasing(), inputs)

    assert torch.equal(drops.argmax(1), words.argmax(1))
    assert ((drops > 1e-6).sum(1) == 1).all()
    found = test.measure(inputs, drops, words)
    assert torch.allclose(found["spearman"][found["pieces"] > 2], torch.ones(()))
    assert found["pieces"].tolist() == (inputs["attention_mask"].sum(1) - 2).tolist()
    assert torch.equal(labels, Phrasing()(inputs).argmax(1))


def test_a_constant_map_has_no_correlation_and_drops_that_are_equal_none_at_all() -> None:
    inputs, labels, _ = scenes(4)
    drops = TEST.drops(BrightestPatch(), inputs, labels)

    assert TEST.measure(inputs, drops, torch.ones(4, *GRID))["spearman"].tolist() == [0] * 4
    nothing = TEST.measure(inputs, torch.zeros_like(drops), random_maps(4))
    assert nothing["spearman"].isnan().all()
    assert nothing["common"].isnan().all()
    assert TEST.summary({name: each.numpy() for name, each in nothing.items()})["Spearman"].n == 0


def test_rows_are_told_apart_by_their_pieces() -> None:
    found = TEST.by_pieces(
        {"pieces": torch.tensor([3.0, 5, 9]).numpy(), "spearman": torch.tensor([0.1, 0.3, 0.9]).numpy()},
        [3, 6, 10],
    )

    assert [(name, each.n) for name, each in found.items()] == [
        ("Spearman, 3 to 5 pieces", 2),
        ("Spearman, 6 to 9 pieces", 1),
    ]
    assert found["Spearman, 3 to 5 pieces"].value == pytest.approx(0.2)


def test_methods_are_compared_by_pairs() -> None:
    values = random_maps()
    maps = {"a": values, "b": values**3, "c": -values, "d": random_maps(seed=11)}
    found = Pairwise().measure(maps, torch.ones(24, 20, dtype=torch.bool))

    means = {name: float(each["spearman"].mean()) for name, each in found.items()}
    assert list(means) == ["a ~ b", "a ~ c", "a ~ d", "b ~ c", "b ~ d", "c ~ d"]
    assert means["a ~ b"] == pytest.approx(1)
    assert means["b ~ c"] == pytest.approx(-1)
    assert abs(means["a ~ d"]) < 0.2
    summary = Pairwise().summary({"spearman": found["a ~ d"]["spearman"].numpy()})
    spread = float(found["a ~ d"]["spearman"].std(correction=0))
    assert summary["Spearman, deviation"].value == pytest.approx(spread)


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(InputError, match="share must lie"):
        BlankOut(Patches(GRID), share=0.0)
