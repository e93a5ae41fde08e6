"""Layer-wise relevance: against hand-written twins, rule by rule, and on every family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from explain_oracles_lrp import Block, Norm, linear_relevance, product_relevance, sum_relevance
from explain_tiny import names, shaken, single, tiny
from heedful.explain.capture import capture
from heedful.explain.errors import UnsupportedMethodError
from heedful.explain.lrp import lrp
from heedful.explain.models import family_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

WORDS = {
    "input_ids": torch.tensor([[3, 7, 12, 9, 4, 8], [5, 11, 6, 31, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
}


TARGETS = {"bert_words": 2}
"""What is asked where nothing can be guessed: the word at a place."""


def bert(**settings: Any) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=20,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=24,
        max_position_embeddings=9,
        num_labels=3,
        **settings,
    )
    return shaken(transformers.BertForSequenceClassification(config))


def pair(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def norm(layer: nn.Module) -> Norm:
    return Norm(*pair(layer), layer.eps)


def vit_blocks(model: nn.Module) -> list[Block]:
    return [
        Block(
            *(pair(getattr(layer.attention, f"{name}_proj")) for name in "qkvo"),
            *(pair(each) for each in (layer.mlp.fc1, layer.mlp.fc2)),
            (norm(layer.layernorm_before), norm(layer.layernorm_after)),
            model.config.num_attention_heads,
            norm_first=True,
        )
        for layer in model.vit.layers
    ]


def bert_blocks(model: nn.Module) -> list[Block]:
    return [
        Block(
            *(pair(getattr(layer.attention.self, name)) for name in ("query", "key", "value")),
            *(
                pair(each)
                for each in (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense)
            ),
            (norm(layer.attention.output.LayerNorm), norm(layer.output.LayerNorm)),
            model.config.num_attention_heads,
            norm_first=False,
        )
        for layer in model.bert.encoder.layer
    ]


def relevance_of(
    model: nn.Module, inputs: dict[str, Any], label: int, **settings: Any
) -> tuple[Any, list[Tensor]]:
    """What the modes make of a classifier: the capture (with logits as an output) and R_A layer by layer."""
    with lrp(), capture(model, **settings) as seen:
        seen.outputs["logits"] = model(**inputs).logits
    return seen, list(seen.gradients(seen.outputs["logits"][:, label]).values())


def blocks_back(blocks: list[Block], relevance: np.ndarray) -> list[np.ndarray]:
    found = []
    for block in reversed(blocks):
        relevance, attention = block.relevance(relevance)
        found.append(attention)
    return found[::-1]


def close(found: Tensor, wanted: np.ndarray, tolerance: float = 1e-8) -> None:
    np.testing.assert_allclose(
        found.detach().numpy(), wanted, rtol=tolerance, atol=tolerance * abs(wanted).max()
    )


# --- A whole model against its twin ---


def test_relevance_in_a_vit_is_that_of_the_twin() -> None:
    model, inputs = tiny("vit")
    model = model.double()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    seen, found = relevance_of(model, inputs, 3, watch=["vit.embeddings"])
    for sample in range(2):
        blocks = vit_blocks(model)
        tokens = seen.outputs["vit.embeddings"][sample].detach().numpy()
        for block in blocks:
            tokens = block.forward(tokens)
        last = norm(model.vit.layernorm)(tokens)
        weight, bias = pair(model.classifier)
        close(seen.outputs["logits"][sample], weight @ last[0] + bias)
        relevance = np.zeros_like(tokens)
        relevance[:1] = linear_relevance(last[:1], weight, np.eye(len(weight))[3:4])
        for layer, (attention, wanted) in enumerate(zip(found, blocks_back(blocks, relevance), strict=True)):
            close(attention[sample], wanted)
            plain = seen.attention[list(seen.attention)[layer]][sample]
            assert wanted.shape == plain.shape
            assert np.abs(wanted).max() > 1e-6


def test_relevance_in_a_padded_bert_is_that_of_the_twin() -> None:
    """Norms after the sums, an additive mask, a tanh pooler."""
    model = bert(attn_implementation="eager").double()
    seen, found = relevance_of(model, WORDS, 1, watch=["bert.embeddings"])
    for sample in range(2):
        blocks = bert_blocks(model)
        tokens = seen.outputs["bert.embeddings"][sample].detach().numpy()
        for block in blocks:
            tokens = block.forward(tokens, WORDS["attention_mask"][sample].bool().numpy())
        (pool, shift), (weight, bias) = pair(model.bert.pooler.dense), pair(model.classifier)
        pooled = np.tanh(tokens[:1] @ pool.T + shift)
        close(seen.outputs["logits"][sample], (pooled @ weight.T + bias)[0])
        relevance = np.zeros_like(tokens)
        relevance[:1] = linear_relevance(
            tokens[:1], pool, linear_relevance(pooled, weight, np.eye(len(weight))[1:2])
        )
        for attention, wanted in zip(found, blocks_back(blocks, relevance), strict=True):
            close(attention[sample], wanted, 1e-5)  # the mask is a sum, in which eps has its part


def test_relevance_is_not_the_gradient() -> None:
    """What the comparison with the twin would show, were the rules not in force."""
    model, inputs = tiny("vit")
    with capture(model) as seen:
        logits = model(**inputs).logits
    plain = seen.gradients(logits[:, 3])
    for gradient, relevance in zip(plain.values(), relevance_of(model, inputs, 3)[1], strict=True):
        assert (gradient - relevance).abs().max() > 0.1 * relevance.abs().max()


def test_eager_and_sdpa_and_thawed_weights_give_the_same_relevance() -> None:
    """Weights are constants, frozen or not: also without capture, with relevance down to the embeddings."""
    eager = bert(attn_implementation="eager")
    wanted = relevance_of(bert(), WORDS, 1)[1]
    embeddings = eager.bert.embeddings.word_embeddings(WORDS["input_ids"]).detach().requires_grad_()
    with lrp():
        outputs = eager(
            inputs_embeds=embeddings, attention_mask=WORDS["attention_mask"], output_attentions=True
        )
    found = torch.autograd.grad(outputs.logits[:, 1].sum(), outputs.attentions)
    for one, other, captured in zip(found, wanted, relevance_of(eager, WORDS, 1)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(captured, other, rtol=1e-3, atol=1e-5)


# --- Rules one by one ---


def back(run: Callable[..., Tensor], relevance: Tensor | None, *operands: Tensor) -> list[Tensor]:
    """Relevance of the operands, for a relevance of the result (all ones, if none is given)."""
    leaves = [each.detach().clone().requires_grad_() for each in operands]
    with lrp():
        value = run(*leaves)
    with torch.no_grad():
        torch.testing.assert_close(value.detach(), run(*operands), rtol=0, atol=0)
    return list(
        torch.autograd.grad(value, leaves, torch.ones_like(value) if relevance is None else relevance)
    )


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


seeds = st.integers(0, 2**31)


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


# --- What it refuses, and leaves behind ---


def test_a_function_without_a_rule_is_refused_by_name_where_relevance_meets_it() -> None:
    x = draw(0, 2, 3).requires_grad_()
    with lrp():
        beside, value, pair_of = x.exp(), x * 2, torch.max(torch.exp(x), dim=-1)
        bad = torch.cumsum(value, -1) + 1
    assert torch.autograd.grad(value.sum(), x, retain_graph=True)[0].eq(1).all()
    for refused, name in ((beside, "exp"), (bad, "cumsum"), (pair_of.values, "max")):
        with pytest.raises(UnsupportedMethodError, match=rf"no rule for .*{name}.*generic"):
            torch.autograd.grad(refused.sum(), x)


def test_attention_that_nobody_captures_is_refused() -> None:
    query = draw(0, 1, 2, 3, 4).requires_grad_()
    with lrp():
        value = F.scaled_dot_product_attention(query, query, query)
    with pytest.raises(UnsupportedMethodError, match=r"scaled_dot_product_attention.*capture"):
        value.sum().backward()


@pytest.mark.parametrize(
    "overwrite",
    [
        lambda x: x.add_(1),
        lambda x: x.__setitem__(0, x[1]),
        lambda x: torch.zeros(3).double().copy_(x[0]),
        lambda x: F.relu(x, inplace=True),
    ],
)
def test_overwriting_is_refused(overwrite: Callable[[Tensor], Any]) -> None:
    x = draw(0, 2, 3).requires_grad_()
    with lrp(), pytest.raises(UnsupportedMethodError, match="overwrites"):
        overwrite(x * 1)


def test_nothing_is_left_behind() -> None:
    model, inputs = tiny("vit")
    before = [(each.requires_grad, each._version) for each in model.parameters()]
    with pytest.raises(ZeroDivisionError), lrp(), capture(model):
        model(**inputs)
        raise ZeroDivisionError
    assert torch.overrides._get_current_function_mode_stack() == []
    assert before == [(each.requires_grad, each._version) for each in model.parameters()]
    x = draw(0, 2, 3).requires_grad_()
    assert torch.equal(torch.autograd.grad((3 * x).sum(), x)[0], torch.full_like(x, 3.0))
    assert torch.is_grad_enabled()


def test_the_backward_may_run_inside_and_outside_of_the_mode() -> None:
    model, inputs = tiny("dinov2")
    outside = relevance_of(model, inputs, 2)[1]
    with lrp(), capture(model) as seen:
        logits = model(**inputs).logits
        inside = seen.gradients(logits[:, 2])
    for one, other in zip(inside.values(), outside, strict=True):
        assert torch.equal(one, other)


# --- Every family ---


@pytest.mark.parametrize("name", names())
def test_every_family(name: str) -> None:
    """The forward is as without; relevance is finite, and reaches what the gradient reaches."""
    model, inputs = tiny(name)
    family = family_of(model)

    def forward(mode: bool, inputs: dict[str, Any] = inputs) -> tuple[Tensor, dict[Any, Tensor]]:
        with (
            lrp() if mode else torch.enable_grad(),
            capture(model, family.sites(model), watch=family.watches(model)) as seen,
        ):
            outputs = model(**inputs)
            scores = family.read(model, inputs, outputs, seen, TARGETS.get(name)).scores
        return scores, seen.gradients(scores)

    plain_scores, plain = forward(False)
    scores, relevance = forward(True)
    torch.testing.assert_close(scores, plain_scores, rtol=1e-5, atol=1e-5)
    assert relevance.keys() == plain.keys()
    for site, part in relevance.items():
        assert part.shape == plain[site].shape
        assert torch.isfinite(part).all()
        if plain[site].any():
            assert part.any(), site
            assert not torch.allclose(part, plain[site], rtol=0.1)


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2_registers"])
def test_a_batch_of_two_is_two_singles(name: str) -> None:
    model, inputs = tiny(name)
    both = relevance_of(model, inputs, 0)[1]
    for sample in range(2):
        alone = relevance_of(model, single(inputs, sample), 0)[1]
        for one, other in zip(alone, both, strict=True):
            torch.testing.assert_close(one[0], other[sample], rtol=1e-3, atol=1e-5)


def test_several_targets_in_one_backward() -> None:
    """Rules that are not linear in relevance (sums) still answer each score by itself."""
    model, inputs = tiny("vit")
    with lrp(), capture(model) as seen:
        scores = model(**single(inputs, 0)).logits[0]
    together = seen.gradients(scores, grad_outputs=torch.eye(len(scores)))
    for row in range(len(scores)):
        for site, alone in seen.gradients(scores[row : row + 1]).items():
            torch.testing.assert_close(together[site][row], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("cpu", torch.bfloat16),
        ("cpu", torch.float16),
        pytest.param("cuda", torch.float16, marks=pytest.mark.gpu),
    ],
)
def test_half_precision_follows_float32_in_the_last_layer(device: str, kind: torch.dtype) -> None:
    model, inputs = tiny("vit")
    wanted = relevance_of(model, inputs, 3)[1]
    half = {key: each.to(device, kind) if isinstance(each, Tensor) else each for key, each in inputs.items()}
    found = relevance_of(model.to(device, kind), half, 3)[1]
    assert all(each.dtype == torch.float32 and each.isfinite().all() and each.any() for each in found)
    assert torch.corrcoef(torch.stack([found[-1].flatten().cpu(), wanted[-1].flatten()]))[0, 1] > 0.98
