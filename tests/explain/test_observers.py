"""Which calls are attention, and those that are computed anew, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from explain_capturing import captured, plain
from explain_oracles_capture import (
    bert,
    vit,
)
from heedful.explain.capture import capture
from heedful.explain.errors import CaptureError
from heedful.explain.wiring import Site
from torch import Tensor, nn


class Odd(nn.Module):
    """One softmax and what follows it, as the test has it."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.linear, self.body = nn.Linear(6, 6), body

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(self.linear(tokens))


def test_a_softmax_without_a_product_is_no_attention() -> None:
    model = Odd(lambda each: each.softmax(-1) * each).eval()
    with pytest.raises(CaptureError, match="no attention was seen"), capture(model):
        model(torch.randn(2, 3, 5, 6))


def test_a_softmax_and_a_product_in_two_calls_are_no_attention() -> None:
    bodies = iter([lambda each: each.softmax(-1), lambda each: each @ each.mT])
    twice = Odd(lambda each: next(bodies)(each))
    model = Odd(lambda each: twice(twice(each))).eval()
    model.twice = twice.eval()
    with pytest.raises(CaptureError, match="no attention was seen"), capture(model):
        model(torch.randn(2, 3, 6, 6))


def test_float16_is_noticed_in_any_attention() -> None:
    model = Around(lambda *each: [model.low(*(one.half() for one in each)), model.high(*each)])
    model.low, model.high = Around(F.scaled_dot_product_attention), Around(F.scaled_dot_product_attention)
    with capture(model.eval()) as seen:
        model(*torch.randn(3, 2, 3, 5, 6))
    assert seen.half
    assert not captured(vit("sdpa"))[1].half


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_autocast_is_as_without_a_capture(attention: str) -> None:
    case = bert(attention)
    with torch.autocast("cpu", torch.bfloat16):
        before = plain(case)
        after, seen = captured(case)
    assert after.dtype == before.dtype == torch.bfloat16
    if attention == "eager":
        assert torch.equal(after.detach(), before)
    torch.testing.assert_close(after.detach(), before, rtol=0.02, atol=0.02)
    assert {each.dtype for each in seen.attention.values()} == {torch.float32}


def test_attention_without_an_axis_of_heads_is_refused() -> None:
    model = Odd(lambda each: (each @ each.mT).softmax(-1) @ each).eval()
    with pytest.raises(CaptureError, match=r"shape \(6, 5, 5\); wanted are four axes"), capture(model):
        model(torch.randn(6, 5, 6))


@pytest.mark.parametrize(
    "softmax",
    [
        lambda each: each.softmax(-1),
        lambda each: each.softmax(dim=3),
        lambda each: torch.softmax(each, 3, torch.float32),
        lambda each: torch.softmax(each, dim=-1),
        lambda each: F.softmax(each, dim=-1, dtype=torch.float64).float(),
        lambda each: nn.Softmax(dim=-1)(each),
    ],
)
def test_every_spelling_of_softmax_is_seen(softmax: Any) -> None:
    model = Odd(lambda each: torch.einsum("bhqk,bhkc->bhqc", softmax(each @ each.mT), each)).eval()
    tokens = torch.randn(2, 3, 5, 6)
    with capture(model, [Site("")]) as seen:
        output = model(tokens)
    torch.testing.assert_close(output.detach(), model(tokens).detach())
    assert seen.attention[Site("")].shape == (2, 3, 5, 5)
    assert seen.gradients(output.sum((1, 2, 3)))[Site("")].any()


# ---- the two functions that are computed anew, against torch's own


class Around(nn.Module):
    """A module around one function, for the capture to look into."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


MASKS = {
    "none": {},
    "causal": {"is_causal": True},
    "bool": {
        "attn_mask": torch.tensor([[1, 1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0], [1] * 7]).bool()[
            [0, 1, 2, 0, 2]
        ]
    },
    "float": {"attn_mask": torch.linspace(-3, 2, 70).view(2, 1, 5, 7)},
    "infinite": {"attn_mask": torch.zeros(5, 7).masked_fill(torch.eye(5, 7).bool().flip(1), -torch.inf)},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_scaled_dot_product_attention_equals_that_of_torch(
    mask: str, grouped: bool, scale: float | None
) -> None:
    torch.manual_seed(4)
    query = torch.randn(2, 6, 5, 8, requires_grad=True)
    key = torch.randn(2, 2 if grouped else 6, 7, 8)
    value = torch.randn(2, 2 if grouped else 6, 7, 3)
    model = Around(F.scaled_dot_product_attention).eval()
    settings = {**MASKS[mask], "enable_gqa": grouped, "scale": scale}
    wanted = model(query, key, value, **settings)
    with capture(model) as seen:
        found = model(query, key, value, **settings)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(each.square().sum(), query)[0] for each in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert seen.attention[Site("")].shape == (2, 6, 5, 7)


def test_dropout_inside_an_attention_is_refused() -> None:
    model = Around(F.scaled_dot_product_attention).eval()
    with pytest.raises(CaptureError, match=r"dropout_p=0\.1"), capture(model):
        model(*torch.randn(3, 2, 4, 5, 6), dropout_p=0.1)


ATTENTION_MASK = torch.ones(5, 7, dtype=torch.bool).triu(3)
PADDING = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0] * 7]).bool()


@pytest.mark.parametrize("masks", [
    {},
    {"attn_mask": ATTENTION_MASK},
    {"attn_mask": torch.randn(8, 5, 7)},
    {"key_padding_mask": PADDING},
    {"key_padding_mask": PADDING, "attn_mask": ATTENTION_MASK},
    {"key_padding_mask": PADDING, "attn_mask": torch.stack([ATTENTION_MASK] * 8)},
])  # fmt: skip
@pytest.mark.parametrize(
    "settings", [{}, {"bias": False}, {"kdim": 6, "vdim": 9}, {"batch_first": True}], ids=str
)
@pytest.mark.parametrize("weights", [{"need_weights": False}, {}, {"average_attn_weights": False}], ids=str)
def test_multi_head_attention_equals_that_of_torch(masks: Any, settings: Any, weights: Any) -> None:
    torch.manual_seed(5)
    model = nn.MultiheadAttention(12, 4, **settings).eval()
    query, key, value = (
        torch.randn(length, 2, settings.get(name, 12)).transpose(0, int(model.batch_first))
        for length, name in ((5, ""), (7, "kdim"), (7, "vdim"))
    )
    model.in_proj_bias is None or nn.init.normal_(model.in_proj_bias)
    wanted = model(query, key, value, **masks, **weights)
    with capture(model) as seen:
        found = model(query, key, value, **masks, **weights)
    for each, other in zip(found, wanted, strict=True):
        assert (each is None) == (other is None)
        if each is not None:
            torch.testing.assert_close(each, other, rtol=1e-5, atol=1e-6)
    assert seen.attention[Site("")].shape == (2, 4, 5, 7)


def test_multi_head_attention_without_a_batch() -> None:
    model = nn.MultiheadAttention(12, 4).eval()
    tokens = torch.randn(5, 12)
    wanted = model(tokens, tokens, tokens)
    with capture(model) as seen:
        found = model(tokens, tokens, tokens)
    torch.testing.assert_close(found, wanted)
    assert seen.attention[Site("")].shape == (1, 4, 5, 5)


@pytest.mark.parametrize("extra", ["add_bias_kv", "add_zero_attn"])
def test_keys_that_are_no_tokens_are_refused(extra: str) -> None:
    model = nn.MultiheadAttention(12, 4, **{extra: True}).eval()
    with pytest.raises(CaptureError, match="keys that are no tokens"), capture(model):
        model(*torch.randn(3, 5, 2, 12))
