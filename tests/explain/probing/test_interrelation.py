"""Attention between weighted patches is what its formula says; chance passes for chance, a plant does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from heedful.explain import InputError
from heedful.explain.probing.interrelation import (
    bins_of,
    by_bin,
    interrelation,
    interrelation_of_orders,
    orders,
    p_values,
    query_entropy,
)
from hypothesis import given
from hypothesis import strategies as st


def rows(images: int, heads: int, patches: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(images, heads, patches, patches, generator=generator, dtype=torch.float64)
    return scores.softmax(-1)


def weights(images: int, patches: int, seed: int = 1) -> torch.Tensor:
    found = torch.rand(images, patches, generator=torch.Generator().manual_seed(seed)).double().pow(3)
    return found / found.sum(1, keepdim=True)


def slow(attention: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(attention.shape[:2], dtype=torch.float64)
    count = attention.shape[-1]
    for image in range(attention.shape[0]):
        for head in range(attention.shape[1]):
            above = below = 0.0
            for i in range(count):
                for j in range(count):
                    if i != j:
                        one = float(attention[image, head, i, j])
                        above += float(queries[image, i]) * float(keys[image, j]) * one
                        below += one
            found[image, head] = above / below
    return found


@given(st.integers(1, 2), st.integers(1, 3), st.integers(2, 7), st.integers(0, 1000))
def test_the_interrelation_is_its_formula(images: int, heads: int, patches: int, seed: int) -> None:
    attention = rows(images, heads, patches, seed)
    first, second = weights(images, patches, seed + 1), weights(images, patches, seed + 2)

    found = interrelation(attention, first, second)

    by_hand = slow(attention, first, second)
    assert torch.allclose(found, by_hand, rtol=1e-10)
    assert not torch.allclose(interrelation(attention, first, second.flip(-1)), by_hand, rtol=1e-10) or (
        torch.allclose(second, second.flip(-1))
    )
    same = torch.arange(patches).expand(1, images, -1)
    assert torch.allclose(interrelation_of_orders(attention, first, second, same)[0], by_hand, rtol=1e-6)


def test_each_order_is_that_of_the_weights() -> None:
    attention, own = rows(2, 3, 6), weights(2, 6)
    drawn = orders(2, (2, 3), 4, null="permutation")

    found = interrelation_of_orders(attention, own, own, drawn)

    for draw in range(4):
        moved = own.gather(1, drawn[draw])
        assert torch.allclose(found[draw], interrelation(attention, moved, moved), rtol=1e-6)


def test_the_mean_over_permutations_is_known() -> None:
    own = weights(1, 5)
    drawn = orders(1, (1, 5), 20_000, null="permutation")

    found = interrelation_of_orders(rows(1, 2, 5), own, own, drawn).mean(0)

    known = (1 - float(own.pow(2).sum())) / (5 * 4)  # of w_i w_j over i != j, as the weights sum to 1
    assert found.flatten().tolist() == pytest.approx([known] * 2, rel=0.02)


@pytest.mark.parametrize("null", ["shift", "permutation"])
def test_an_order_names_every_patch_once(null: str) -> None:
    drawn = orders(3, (3, 5), 50, null=null)

    assert drawn.shape == (50, 3, 15)
    assert torch.equal(drawn.sort(-1).values, torch.arange(15).expand(50, 3, 15))
    assert torch.equal(drawn, orders(3, (3, 5), 50, null=null))
    assert not torch.equal(drawn, orders(3, (3, 5), 50, null=null, seed=1))


def test_shifts_keep_neighbours_and_never_leave_all_in_place() -> None:
    drawn = orders(1, (3, 5), 300)[:, 0].reshape(-1, 3, 5).numpy()

    steps = (np.diff(drawn % 5, axis=2) % 5).reshape(len(drawn), -1)
    assert np.isin(steps, (1, 4)).all()
    assert (steps == steps[:, :1]).all()
    assert not (drawn.reshape(len(drawn), -1) == np.arange(15)).all(1).any()
    assert len(np.unique(drawn.reshape(len(drawn), -1), axis=0)) > 45  # of 3 x 5 x 4 - 1


def test_chance_passes_and_a_planted_preference_is_found() -> None:
    generator = torch.Generator().manual_seed(5)
    null = torch.randn(400, 3, 4, generator=generator)
    seen = torch.randn(3, 4, generator=generator)
    seen[1, 2] = 9.0

    z, alone, together = p_values(seen, null)

    assert alone[1, 2] == together[1, 2] == pytest.approx(1 / 401)
    assert z[1, 2] > 7
    others = torch.ones(3, 4, dtype=torch.bool)
    others[1, 2] = False
    assert (together[others] > 0.05).all()
    assert (together >= alone).all()


def test_p_values_of_chance_are_uniform() -> None:
    generator = torch.Generator().manual_seed(6)
    drawn = [p_values(torch.randn(40, generator=generator), torch.randn(200, 40, generator=generator))
             for _ in range(50)]  # fmt: skip
    alone = torch.stack([one[1] for one in drawn]).flatten().numpy()
    family = torch.stack([one[2].min() for one in drawn]).numpy()

    assert np.mean(alone < 0.1) == pytest.approx(0.1, abs=0.02)
    assert np.mean(family < 0.1) < 0.25


def test_entropy_is_one_for_even_attention_and_nothing_for_a_single_key() -> None:
    even, single = torch.full((1, 1, 4, 4), 0.25), torch.eye(4)[None, None]

    assert query_entropy(even).flatten().tolist() == pytest.approx([1.0] * 4)
    assert query_entropy(single).flatten().tolist() == pytest.approx([0.0] * 4)
    found = query_entropy(rows(1, 2, 5))[0, 1, 3]
    row = rows(1, 2, 5)[0, 1, 3].tolist()
    assert float(found) == pytest.approx(-sum(each * math.log(each) for each in row) / math.log(5))


def test_patches_are_binned_by_their_keypoints() -> None:
    count = torch.tensor([[0.0, 1.0, 1.0, 2.0, 5.0], [0.0, 0.0, 3.0, 9.0, 0.0]])

    where, names = bins_of(count, 3)

    assert where[count == 0].eq(0).all()
    assert names[0] == "0"
    assert len(names) == int(where.max()) + 1
    flat, order = where.flatten(), count.flatten().argsort()
    assert (flat[order].diff() >= 0).all()
    same, alike = bins_of(torch.tensor([[0.0, 2.0, 2.0]]), 3)
    assert alike == ("0", "2")
    assert same.tolist() == [[0, 1, 1]]


def test_means_of_bins_leave_out_what_is_not_there() -> None:
    values = torch.arange(8.0).reshape(2, 1, 4)
    where = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])

    found = by_bin(values, where, 2)

    assert found[0, 0].tolist() == [0.5, 2.5]
    assert found[1, 0, 0] == 5.5
    assert found[1, 0, 1].isnan()


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"wanted attention \(image, ..., patch, patch\)"):
        interrelation(rows(1, 1, 4)[..., :3, :], weights(1, 4), weights(1, 4))
    with pytest.raises(InputError, match="to itself alone"):
        interrelation(torch.eye(4).double()[None, None], weights(1, 4), weights(1, 4))
    with pytest.raises(InputError, match="one of shift, permutation"):
        orders(1, (2, 2), 3, null="anything")
    with pytest.raises(InputError, match="at least two patches"):
        orders(1, (1, 1), 3)
    with pytest.raises(InputError, match="no patch has a keypoint"):
        bins_of(torch.zeros(1, 4))
    with pytest.raises(InputError, match="bins must be at least 1"):
        bins_of(torch.ones(1, 4), 0)
    with pytest.raises(InputError, match="sum to 1"):
        query_entropy(torch.ones(1, 1, 3, 3))
