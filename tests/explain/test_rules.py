"""Each rule equals its slow twin, and the row that is carried equals the whole matrix."""

from __future__ import annotations

import weakref

import explain_oracles as twin
import numpy as np
import pytest
import torch
from heedful.explain.errors import CaptureError, InputError
from heedful.explain.rules import (
    RowAccumulator,
    fuse,
    grad_cam,
    legrad,
    normalise_residual,
    position,
    propagate_row,
    rollout_layer,
    row_relevance,
    self_relevance,
    without_readout,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SHAPES = st.tuples(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 4), st.integers(3, 6))


def maps(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Attention whose rows sum to 1, and gradients of both signs."""
    made = torch.Generator().manual_seed(seed)
    draw = [torch.randn(*shape, generator=made, dtype=torch.float64) for _ in range(2)]
    return draw[0].softmax(-1), draw[1]


def cams(seed: int, layers: int, rows: int, tokens: int) -> list[Tensor]:
    return [fuse(*maps(seed + layer, rows, 3, tokens, tokens)) for layer in range(layers)]


def same(found: Tensor, expected: object, tolerance: float = 1e-12) -> bool:
    return bool(np.allclose(found.numpy(), np.asarray(expected), rtol=tolerance, atol=tolerance))


@given(SHAPES, st.integers(1, 4), st.sampled_from(["mean", "max", "min"]), st.booleans())
def test_fusing_equals_its_twin(shape: tuple[int, ...], more: int, fusion: str, signed: bool) -> None:
    seed, rows, heads, queries = shape
    attention, gradient = maps(seed, rows, heads, queries, queries + more)
    found = fuse(attention, gradient, fusion=fusion, signed=signed)
    pairs = list(zip(attention.numpy(), gradient.numpy(), strict=True))
    assert same(found, [twin.fused(a, g, fusion, signed) for a, g in pairs])
    assert not same(found, [twin.fused(a, g + 3, fusion, signed) for a, g in pairs])
    assert same(fuse(attention, fusion=fusion), [twin.fused(a, None, fusion) for a, _ in pairs])


def test_each_head_is_clamped_before_the_heads_are_fused() -> None:
    gradient = torch.tensor([2.0, -2.0]).view(1, 2, 1, 1)
    one = torch.ones_like(gradient)
    assert fuse(one, gradient).item() == 1
    assert fuse(one, gradient, signed=True).item() == 0


def test_an_unknown_fusion_names_the_choices() -> None:
    with pytest.raises(InputError, match=r"mean, max, min.*'median'"):
        fuse(torch.ones(1, 1, 2, 2), fusion="median")


@given(SHAPES, st.integers(1, 4), st.booleans())
def test_grad_cam_equals_its_twin(shape: tuple[int, ...], more: int, signed: bool) -> None:
    seed, rows, heads, queries = shape
    attention, gradient = maps(seed, rows, heads, queries, queries + more)
    found = grad_cam(attention, gradient + 0.1, signed=signed)
    pairs = list(zip(attention.numpy(), gradient.numpy() + 0.1, strict=True))
    assert same(found, [twin.grad_cammed(a, g, signed) for a, g in pairs])
    assert signed or not same(found, [twin.fused(a, g) for a, g in pairs])


@given(SHAPES, st.integers(2, 4))
def test_a_carried_row_equals_a_row_of_the_whole_matrix(shape: tuple[int, ...], layers: int) -> None:
    seed, rows, _, tokens = shape
    stack = cams(seed, layers, rows, tokens)
    weights = torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    whole = self_relevance(stack)
    assert same(whole, [twin.self_relevance([c[row].numpy() for c in stack]) for row in range(rows)])
    expected = (weights[:, None] @ whole)[:, 0]
    assert same(row_relevance(reversed(stack), weights), expected)
    assert not same(row_relevance(stack, weights), expected, 1e-6)
    single = row_relevance([cam.float() for cam in reversed(stack)], weights.float())
    assert same(single, expected, 1e-6)


@given(SHAPES)
def test_a_row_goes_down_one_layer(shape: tuple[int, ...]) -> None:
    seed, rows, _, tokens = shape
    (cam,) = cams(seed, 1, rows, tokens)
    row = torch.eye(tokens, dtype=torch.float64)[0].expand(rows, tokens)
    first = cam[:, 0] + row
    assert same(propagate_row(row, cam), first)
    assert not same(propagate_row(row, cam.mT), first)


@given(SHAPES, st.integers(-3, 2))
def test_relevance_starts_at_a_layer(shape: tuple[int, ...], start: int) -> None:
    seed, rows, _, tokens = shape
    stack = cams(seed, 3, rows, tokens)
    found = self_relevance(stack, start)
    assert same(found, [twin.self_relevance([c[row].numpy() for c in stack[start:]]) for row in range(rows)])
    assert start in (0, -3) or not same(found, self_relevance(stack))


@pytest.mark.parametrize("start", [-4, 3])
def test_a_layer_that_is_not_there_is_refused(start: int) -> None:
    with pytest.raises(InputError, match=rf"no layer {start}: give one from -3 to 2"):
        self_relevance(cams(0, 3, 1, 4), start)


def test_of_nothing_there_is_no_position() -> None:
    with pytest.raises(InputError, match="no head 0: there are none"):
        position(0, 0, "head")


@given(SHAPES)
def test_normalised_rows_sum_to_two(shape: tuple[int, ...]) -> None:
    seed, rows, _, tokens = shape
    relevance = self_relevance(cams(seed, 2, rows, tokens))
    found = normalise_residual(relevance)
    assert same(found.sum(-1), np.full((rows, tokens), 2.0))
    assert same(found, [twin.residual_normalised(each) for each in relevance.numpy()])
    assert not same(relevance.sum(-1), np.full((rows, tokens), 2.0))
    assert not same(found, [twin.residual_normalised(each.T) for each in relevance.numpy()])


def test_rows_of_zeros_stay_finite() -> None:
    relevance = torch.eye(4)[None] + torch.tensor([0.0, 0.3, 0.0, 0.1])[:, None]
    found = normalise_residual(relevance)
    assert torch.equal(found[0, 0], torch.eye(4)[0])
    assert torch.allclose(found[0].sum(-1), torch.tensor([1.0, 2.0, 1.0, 2.0]))


def test_signed_rows_that_cancel_stay_finite() -> None:
    relevance = torch.eye(2) + torch.tensor([[[1e-3, -1e-3], [0.5, 0.5]]])
    expected = torch.tensor([[[1.5, -0.5], [0.5, 1.5]]])
    assert torch.allclose(normalise_residual(relevance), expected, atol=1e-4)


@given(SHAPES)
def test_a_layer_of_rollout_mixes_in_the_identity(shape: tuple[int, ...]) -> None:
    seed, rows, heads, tokens = shape
    attention = fuse(maps(seed, rows, heads, tokens, tokens)[0])
    found = rollout_layer(attention)
    assert same(found, 0.5 * attention + 0.5 * torch.eye(tokens, dtype=torch.float64))
    greatest = rollout_layer(3 * attention)  # rows that do not sum to 1 are made to
    assert same(greatest.sum(-1), np.ones((rows, tokens)))
    assert not same(greatest, found)


@given(SHAPES, st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_legrad_equals_its_twin(shape: tuple[int, ...], layers: int, queries: int, signed: bool) -> None:
    seed, rows, heads, keys = shape
    gradients = [maps(seed + layer, rows, heads, queries, keys)[1] for layer in range(layers)]
    found = legrad(gradients, signed=signed)
    assert same(found, [twin.legrad([g[row].numpy() for g in gradients], signed) for row in range(rows)])
    other = [twin.legrad([g[row].numpy() for g in gradients], not signed) for row in range(rows)]
    assert not same(found, other)


def test_legrad_of_no_layer_is_refused() -> None:
    with pytest.raises(InputError, match="at least one layer"):
        legrad([])


def test_only_a_single_token_that_is_read_loses_its_own_entry() -> None:
    relevance = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    weights = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert without_readout(relevance, weights).tolist() == [[3.0, 0.0], [5.0, 6.0]]


@given(SHAPES)
def test_a_batch_of_two_equals_two_singles(shape: tuple[int, ...]) -> None:
    seed, _, heads, tokens = shape
    attention, gradient = maps(seed, 2, heads, tokens, tokens)
    both = normalise_residual(self_relevance([fuse(attention, gradient)] * 2))
    one = [
        normalise_residual(self_relevance([fuse(attention[i : i + 1], gradient[i : i + 1])] * 2))
        for i in (0, 1)
    ]
    assert same(both, torch.cat(one))
    assert not same(both, torch.cat(one[::-1]))


class Toy:
    """Self-attentions in a row with an attention pooling on top, on 2 rows of 5 tokens: 3 heads, 3 layers."""

    def __init__(self, seed: int = 0, pooled: bool = False, rows: int = 2) -> None:
        made = torch.Generator().manual_seed(seed)
        tokens = torch.randn(rows, 5, 6, generator=made, dtype=torch.float64)
        query = torch.randn(1, 1, 6, generator=made, dtype=torch.float64)
        weights = 0.4 * torch.randn(3, 3, 6, 6, generator=made, dtype=torch.float64)
        self.attention: list[Tensor] = []
        hidden = tokens.requires_grad_()
        for mix in weights:
            hidden = hidden + self._attend(hidden, hidden, mix).tanh()
        pooling = self._attend(query.expand(rows, 1, 6), hidden, weights[0]) if pooled else None
        read = hidden[:, 0] if pooling is None else pooling[:, 0]
        self.scores = (read * torch.randn(6, generator=made, dtype=torch.float64)).sum(-1)
        self.weights = torch.ones(rows, 1) if pooled else torch.eye(5)[:1].expand(rows, 5)
        self.weights = self.weights.double()

    def _attend(self, queries: Tensor, keys: Tensor, mix: Tensor) -> Tensor:
        logits = torch.einsum("rqd,hde,rke->rhqk", queries, mix, keys)
        self.attention.append(logits.softmax(-1))
        return torch.einsum("rhqk,rke,hed->rqd", self.attention[-1], keys, mix) / 3

    def expected(self, start: int = 0, signed: bool = False, pooled: bool = False) -> Tensor:
        """From gradients that are all stored."""
        gradients = torch.autograd.grad(self.scores.sum(), self.attention, retain_graph=True)
        fused = [fuse(a.detach(), g, signed=signed) for a, g in zip(self.attention, gradients, strict=True)]
        if pooled:
            row = (self.weights[:, None] @ fused[-1])[:, 0]
            return row_relevance(reversed(fused[start:-1]), row)
        row = row_relevance(reversed(fused[start:]), self.weights)
        return without_readout(row - self.weights, self.weights)

    def backward(self, scale: float = 1.0) -> None:
        torch.autograd.grad(self.scores.sum() * scale, self.attention[0], retain_graph=True)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_row_is_carried_while_gradients_arrive(signed: bool, pooled: bool, scale: float) -> None:
    toy = Toy(pooled=pooled)
    expected = toy.expected(signed=signed, pooled=pooled)
    with RowAccumulator(toy.attention, toy.weights, pooled=pooled, signed=signed, scale=scale) as carried:
        toy.backward(scale)
    assert same(carried.relevance, expected, 1e-10)
    assert not same(carried.relevance, toy.expected(signed=not signed, pooled=pooled), 1e-6)


def test_a_carried_row_starts_at_the_first_layer_that_is_given() -> None:
    toy = Toy()
    with RowAccumulator(toy.attention[1:], toy.weights) as carried:
        toy.backward()
    assert same(carried.relevance, toy.expected(start=1), 1e-10)
    assert not same(carried.relevance, toy.expected(), 1e-6)


@pytest.mark.parametrize("stores", [False, True])
def test_no_gradient_is_kept(stores: bool) -> None:
    toy, kept, seen, alive = Toy(), [], [], []

    def look(gradient: Tensor) -> None:
        alive.append(sum(each() is not None for each in seen))
        seen.append(weakref.ref(gradient.untyped_storage()))
        if stores:  # what this test would notice
            kept.append(gradient.detach())

    for attention in toy.attention:
        attention.register_hook(look)
    with RowAccumulator(toy.attention, toy.weights) as carried:
        toy.backward()
    assert len(seen) == 3
    assert sum(each() is not None for each in seen) == (3 if stores else 0)
    assert alive == ([0, 1, 2] if stores else [0, 0, 0])
    assert carried.relevance.shape == (2, 5)


def test_hooks_change_no_gradient_and_are_taken_off() -> None:
    toy = Toy()
    before = torch.autograd.grad(toy.scores.sum(), toy.attention, retain_graph=True)
    carried = RowAccumulator(toy.attention, toy.weights)
    during = torch.autograd.grad(toy.scores.sum(), toy.attention, retain_graph=True)
    carried.remove()
    assert all(torch.equal(a, b) for a, b in zip(before, during, strict=True))
    assert not any(each._backward_hooks for each in toy.attention)
    toy.backward()  # would be a second one for the hooks, were they there


def test_a_row_is_not_read_before_all_gradients_arrived() -> None:
    toy = Toy()
    with RowAccumulator(toy.attention, toy.weights) as carried:
        torch.autograd.grad(toy.scores.sum(), toy.attention[1], retain_graph=True)
        with pytest.raises(CaptureError, match="gradients of 1 of 3 attentions have not arrived"):
            _ = carried.relevance


def test_a_second_backward_is_refused() -> None:
    toy = Toy()
    with RowAccumulator(toy.attention, toy.weights):
        torch.autograd.grad(toy.scores.sum(), toy.attention[0], retain_graph=True)
        with pytest.raises(CaptureError, match="one backward for each"):
            torch.autograd.grad(toy.scores.sum(), toy.attention[0], retain_graph=True)


def test_attentions_in_the_wrong_order_are_refused() -> None:
    toy = Toy()
    with (
        RowAccumulator(toy.attention[::-1], toy.weights),
        pytest.raises(CaptureError, match="attention 0 arrived where that of 2 was due"),
    ):
        toy.backward()


def test_attentions_without_a_graph_are_refused() -> None:
    toy = Toy()
    with pytest.raises(CaptureError, match=r"attentions \[1\] of 3"):
        RowAccumulator([toy.attention[0], toy.attention[1].detach(), toy.attention[2]], toy.weights)
    with pytest.raises(InputError, match="got none"):
        RowAccumulator([], toy.weights)
