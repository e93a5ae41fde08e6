"""Every rule of layer-wise relevance against its formula, and what it conserves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from explain_layerwise import back, close, draw, seeds
from explain_oracles_lrp import linear_relevance, product_relevance, sum_relevance
from hypothesis import given
from torch import Tensor, nn

# --- Rules one by one ---


@given(seeds)
def test_linear_rule(seed: int) -> None:
    x, weight, bias, relevance = (
        draw(seed, 3, 5),
        draw(seed + 1, 4, 5),
        draw(seed + 2, 4),
        draw(seed + 3, 3, 4),
    )
    wanted = linear_relevance(x.numpy(), weight.numpy(), relevance.numpy())
    layers: list[Callable[[Tensor], Tensor]] = [
        lambda x: F.linear(x, weight, bias),
        lambda x: x @ nn.Parameter(weight.T),
        lambda x: torch.addmm(nn.Parameter(bias), x, nn.Parameter(weight.T)),
        lambda x: torch.einsum("ti,oi->to", x, nn.Parameter(weight)),
        lambda x: torch.matmul(nn.Parameter(weight), x.T).T,
    ]
    for layer in layers:
        close(back(layer, relevance, x)[0], wanted)


@given(seeds)
def test_product_rule(seed: int) -> None:
    a, b, relevance = draw(seed, 2, 3, 4), draw(seed + 1, 2, 4, 5), draw(seed + 2, 2, 3, 5)
    spellings = [torch.matmul, torch.bmm, Tensor.__matmul__, partial(torch.einsum, "bij,bjk->bik")]
    spellings.append(lambda a, b: torch.baddbmm(torch.zeros(1).double(), a, b, beta=0))
    for spelling in spellings:
        found = back(spelling, relevance, a, b)
        for sample in range(2):
            wanted = product_relevance(*(each[sample].numpy() for each in (a, b, relevance)))
            for part, other in zip(found, wanted, strict=True):
                close(part[sample], other)


@given(seeds)
def test_sum_rule_is_for_each_sample_by_itself(seed: int) -> None:
    a, b, relevance = draw(seed, 2, 3, 4), draw(seed + 1, 2, 3, 4), draw(seed + 2, 2, 3, 4)
    cases = [
        (torch.add, b),
        (lambda a, b: b + a, b),
        (torch.sub, -b),
        (lambda a, b: b - a, None),
        (partial(torch.add, alpha=0.5), b / 2),
    ]
    for spelling, second in cases:
        found = back(spelling, relevance, a, b)
        first, second = (-a, b) if second is None else (a, second)
        for sample in range(2):
            wanted = sum_relevance(*(each[sample].numpy() for each in (first, second, relevance)))
            for part, other in zip(found, wanted, strict=True):
                close(part[sample], other, 1e-6)


def test_a_position_embedding_takes_its_share_and_a_bias_none() -> None:
    x, relevance = draw(0, 2, 3, 4), draw(1, 2, 3, 4)
    places, bias = nn.Parameter(draw(2, 1, 3, 4)), nn.Parameter(draw(3, 4))
    (found,) = back(lambda x: x + places, relevance, x)
    for sample in range(2):
        wanted, _ = sum_relevance(
            *(each[sample].numpy() for each in (x, places.detach().expand(2, 3, 4), relevance))
        )
        close(found[sample], wanted, 1e-6)
    assert torch.equal(back(lambda x: x + bias, relevance, x)[0], relevance)
    assert torch.equal(back(lambda x: 1 + x - 2, relevance, x)[0], relevance)


def test_masks_take_nothing_and_leave_the_rest_alone() -> None:
    scores, relevance = draw(0, 2, 3, 4), draw(1, 2, 3, 4).abs()
    for floor in (-torch.inf, torch.finfo(torch.float64).min):
        mask = torch.zeros(2, 1, 4, dtype=torch.float64)
        mask[1, :, 2:] = floor
        visible = (mask == 0).expand_as(scores)
        (found,) = back(lambda scores, mask=mask: scores + mask, relevance * visible, scores)
        torch.testing.assert_close(found, relevance * visible, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.softmax(-1),
        F.gelu,
        F.relu,
        F.silu,
        torch.tanh,
        lambda x: F.layer_norm(x, (4,), nn.Parameter(draw(5, 4)), nn.Parameter(draw(6, 4))),
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
        lambda x: x * nn.Parameter(torch.full((4,), -0.1, dtype=torch.float64)),
        lambda x: x * nn.Parameter(torch.tensor(2.0)).exp(),
        lambda x: -x / 3,
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: x / torch.pow(torch.sum(torch.pow(x, 2), -1, keepdim=True), 0.5),
        lambda x: F.normalize(x, dim=-1),
        lambda x: x * x.pow(2).mean(-1, keepdim=True).rsqrt(),
        lambda x: x * (1 / x.norm(dim=-1, keepdim=True)),
        lambda x: x * torch.div(torch.ones(1), x.std(dim=-1, keepdim=True)),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: x.transpose(0, 1).flatten(1).reshape(3, 2, 4).swapaxes(0, 1).contiguous().to(torch.float64),
    ],
)
def test_what_leaves_relevance_as_it_is(run: Callable[[Tensor], Tensor]) -> None:
    x, relevance = draw(0, 2, 3, 4), draw(1, 2, 3, 4)
    torch.testing.assert_close(back(run, relevance, x)[0], relevance, rtol=1e-12, atol=1e-12)


def test_means_and_sums_are_in_proportion() -> None:
    x, relevance = draw(0, 2, 3, 4), draw(1, 2, 4)
    for run in (lambda x: x.mean(1), lambda x: torch.sum(x, dim=1)):
        wanted = x * (relevance / x.sum(1))[:, None]
        torch.testing.assert_close(back(run, relevance, x)[0], wanted, rtol=1e-6, atol=1e-6)


def test_gates_share_half_and_half() -> None:
    a, b, relevance = draw(0, 2, 3, 4), draw(1, 2, 3, 4), draw(2, 2, 3, 4)
    for part in back(lambda a, b: F.silu(a) * b, relevance, a, b):
        torch.testing.assert_close(part, relevance / 2)


@given(seeds)
def test_rules_conserve(seed: int) -> None:
    """The sum of relevance that goes in comes out. Values keep off zero, where eps takes its part."""
    a, b = (draw(seed + i, 2, 3, 4).abs() + 0.1 for i in range(2))
    weight = draw(seed + 2, 5, 4)
    cases: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda a: F.linear(a, torch.cat([weight, weight.abs()])[5:]), (a,)),
        (lambda a, b: a @ b.mT, (a, b)),
        (torch.add, (a, b)),
        (lambda a, b: a + b[:1, :, :1], (a, b)),
        (lambda a, b: a - (-b), (a, b)),
        (torch.mul, (a, b)),
        (lambda a, b: a * b[:, :1], (a, b)),
        (lambda a: a.mean((1, 2)), (a,)),
        (lambda a: torch.cat([a, a[:, :1].expand(2, 5, 4)], 1), (a,)),
        (lambda a, b: torch.stack([a, b]).softmax(-1), (a, b)),
    ]
    for run, operands in cases:
        with torch.no_grad():
            relevance = torch.rand_like(run(*operands))
        total = sum(part.sum() for part in back(run, relevance, *operands))
        torch.testing.assert_close(total, relevance.sum(), rtol=1e-6, atol=0)
