"""Layer-wise relevance of whole models: against hand-written twins, and on every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from explain_layerwise import close, draw
from explain_oracles_lrp import Block, Norm, linear_relevance
from explain_tiny import names, shaken, single, tiny
from heedful.explain.capture import capture
from heedful.explain.errors import UnsupportedMethodError
from heedful.explain.lrp import lrp
from heedful.explain.models import family_of
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
