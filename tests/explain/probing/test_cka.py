"""Unbiased linear CKA equals its slow twin, keeps its promises, and converges over minibatches."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from heedful.explain.errors import InputError
from heedful.explain.probing.cka import MinibatchCKA, centred_grams, hsic, linear_cka, token_grams
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def drawn(images: int, channels: int, seed: int) -> Tensor:
    return torch.randn(images, channels, generator=torch.Generator().manual_seed(seed))


def slow_hsic(first: Tensor, second: Tensor) -> float:
    """Song et al. 2012, Eq. 5, term by term on Gram matrices whose diagonals are 0."""
    n = len(first)
    k, other = ((each.double() @ each.double().T) for each in (first, second))
    for each in (k, other):
        each.fill_diagonal_(0.0)
    ones = torch.ones(n, dtype=torch.float64)
    trace = float((k @ other).trace())
    sums = float(ones @ k @ ones * (ones @ other @ ones)) / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * float(ones @ k @ other @ ones)) / (n * (n - 3))


def slow_cka(first: Tensor, second: Tensor) -> float:
    return slow_hsic(first, second) / (slow_hsic(first, first) * slow_hsic(second, second)) ** 0.5


def biased_cka(first: Tensor, second: Tensor) -> float:
    """Kornblith et al. 2019 with the biased HSIC_0: what this is not."""
    x, y = (each.double() - each.double().mean(0) for each in (first, second))
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


sizes = st.integers(4, 12)
channels = st.integers(1, 20)
seeds = st.integers(0, 1000)


@given(sizes, channels, channels, seeds)
def test_it_equals_its_slow_twin(images: int, one: int, other: int, seed: int) -> None:
    first, second = drawn(images, one, seed), drawn(images, other, seed + 5000)
    assert float(linear_cka(first, second)) == pytest.approx(slow_cka(first, second), rel=1e-4, abs=1e-5)
    assert float(hsic(centred_grams([first]), centred_grams([second]))) == pytest.approx(
        slow_hsic(first, second), rel=1e-4, abs=1e-4
    )


def test_the_comparison_can_fail() -> None:
    first, second = drawn(8, 20, 0), drawn(8, 20, 1)
    assert abs(biased_cka(first, second) - slow_cka(first, second)) > 0.3
    assert float(linear_cka(first, second)) != pytest.approx(biased_cka(first, second), abs=0.1)


@given(sizes, channels, seeds, st.floats(0.01, 100.0))
def test_it_is_1_for_itself_and_blind_to_rotation_shift_and_scale(
    images: int, width: int, seed: int, scale: float
) -> None:
    first = drawn(images, width, seed)
    turn = torch.linalg.qr(drawn(width, width, seed + 1))[0]
    moved = scale * first @ turn + drawn(1, width, seed + 2)
    assert float(linear_cka(first, first)) == pytest.approx(1.0, abs=1e-6)
    assert float(linear_cka(first, moved)) == pytest.approx(1.0, abs=1e-4)
    other = drawn(images, 3, seed + 3)
    assert float(linear_cka(first, other)) == pytest.approx(float(linear_cka(moved, other)), abs=1e-3)


def test_it_is_not_blind_to_every_linear_map() -> None:
    first = drawn(30, 5, 0)
    stretched = first * torch.tensor([10.0, 1.0, 1.0, 1.0, 1.0])
    assert float(linear_cka(first, stretched)) < 0.7


@given(sizes, channels, channels, seeds)
def test_it_stays_between_minus_1_and_1(images: int, one: int, other: int, seed: int) -> None:
    assert abs(float(linear_cka(drawn(images, one, seed), drawn(images, other, seed + 1)))) <= 1 + 1e-9


def test_the_mean_over_all_minibatches_is_the_whole() -> None:
    """HSIC_1 is a U-statistic: averaged over every subset of five images it is that of all eight."""
    first, second = drawn(8, 6, 0), drawn(8, 3, 1) + drawn(8, 6, 0)[:, :3]
    seen = MinibatchCKA()
    for rows in combinations(range(8), 5):
        part = list(rows)
        seen.add(centred_grams([first[part]]), centred_grams([second[part]]))
    terms = seen.terms
    assert len(terms.cross) == 56
    assert float(terms.cross.mean()) == pytest.approx(slow_hsic(first, second), rel=1e-5)
    assert float(terms.cka[0, 0]) == pytest.approx(slow_cka(first, second), rel=1e-5)


def test_minibatches_converge_to_the_full_batch_where_the_biased_estimate_does_not() -> None:
    first = drawn(600, 12, 0)
    second = torch.cat([first[:, :4], drawn(600, 12, 1)], 1)
    whole, seen = float(linear_cka(first, second)), MinibatchCKA()
    biased = []
    for one, other in zip(first.split(5), second.split(5), strict=True):
        seen.add(centred_grams([one]), centred_grams([other]))
        biased.append(biased_cka(one, other))
    assert float(seen.terms.cka[0, 0]) == pytest.approx(whole, abs=0.04)
    assert abs(sum(biased) / len(biased) - whole) > 0.2
    low, high = seen.terms.interval()[:, 0, 0]
    assert low < whole < high
    assert high - low < 0.2


@pytest.mark.parametrize("count", [1, 4])
def test_a_few_minibatches_have_no_interval(count: int) -> None:
    seen = MinibatchCKA()
    for batch in range(count):
        seen.add(centred_grams([drawn(6, 2, batch)]), centred_grams([drawn(6, 2, 9 + batch)]))
    assert seen.terms.interval().flatten().tolist() == [-torch.inf, torch.inf]


def test_large_means_cost_no_digits() -> None:
    first, second = drawn(10, 6, 0), drawn(10, 6, 1)
    assert float(linear_cka(first + 1000, second)) == pytest.approx(slow_cka(first, second), abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 3e4])
def test_what_never_changes_has_no_cka(value: float) -> None:
    assert linear_cka(torch.full((7, 50), value), drawn(7, 3, 0)).isnan()


def test_tokens_are_representations_of_their_own() -> None:
    tokens = drawn(6, 12, 0).unflatten(1, (3, 4))
    torch.testing.assert_close(token_grams(tokens)[1], centred_grams([tokens[:, 1]])[0])


def test_flattened_shapes_and_half_precision_count_alike() -> None:
    first = drawn(9, 24, 0)
    assert float(linear_cka(first.unflatten(1, (2, 3, 4)), first.half())) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("images", [1, 3])
def test_fewer_than_four_images_are_refused(images: int) -> None:
    with pytest.raises(InputError, match=f"at least 4 images in every minibatch.*got {images}"):
        linear_cka(drawn(images, 2, 0), drawn(images, 2, 1))


def test_other_refusals() -> None:
    with pytest.raises(InputError, match="the same images, got 5 and 6"):
        linear_cka(drawn(5, 2, 0), drawn(6, 2, 1))
    with pytest.raises(InputError, match="finite numbers"):
        centred_grams([drawn(5, 2, 0) / 0])
    with pytest.raises(InputError, match="no minibatch yet"):
        _ = MinibatchCKA().terms
    seen = MinibatchCKA()
    seen.add(centred_grams([drawn(5, 2, 0)]), centred_grams([drawn(5, 2, 0)]))
    with pytest.raises(InputError, match=r"wanted \(1, 1\) representations"):
        seen.add(centred_grams([drawn(5, 2, 0)] * 2), centred_grams([drawn(5, 2, 0)]))
