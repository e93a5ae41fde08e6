"""Libra gradients: against a hand-written twin, and complete where the paper says they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from explain_oracles_lrp import Block, Norm
from explain_tiny import VISION, images, names, shaken, tiny
from heedful.explain.capture import capture
from heedful.explain.errors import UnsupportedMethodError
from heedful.explain.libra import libra
from heedful.explain.models import family_of
from torch import Tensor, nn

TARGETS = {"bert_words": 2}


def pair(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def doubled(model: nn.Module, inputs: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    return model.double(), {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def test_gradients_in_a_vit_are_those_of_the_twin() -> None:
    model, inputs = doubled(*tiny("vit"))
    with libra(), capture(model, watch=["vit.embeddings"]) as seen:
        logits = model(**inputs).logits
    entered = seen.outputs["vit.embeddings"]
    found = list(seen.gradients(logits[:, 3]).values())
    (of_tokens,) = torch.autograd.grad(logits[:, 3].sum(), entered)
    norm = Norm(*pair(model.vit.layernorm), model.vit.layernorm.eps)
    for sample in range(2):
        blocks = [
            Block(
                *(pair(getattr(layer.attention, f"{name}_proj")) for name in "qkvo"),
                *(pair(each) for each in (layer.mlp.fc1, layer.mlp.fc2)),
                tuple(
                    Norm(*pair(each), each.eps) for each in (layer.layernorm_before, layer.layernorm_after)
                ),
                model.config.num_attention_heads,
                norm_first=True,
            )
            for layer in model.vit.layers
        ]
        tokens = entered[sample].detach().numpy()
        for block in blocks:
            tokens = block.forward(tokens)
        weight, bias = pair(model.classifier)
        np.testing.assert_allclose(logits[sample].detach(), norm(tokens)[0] @ weight.T + bias, rtol=1e-9)
        gradient = np.zeros_like(tokens)
        gradient[0] = weight[3]
        gradient = norm.back(tokens, gradient)
        for block, attention in zip(reversed(blocks), reversed(found), strict=True):
            gradient, wanted = block.libra(gradient)
            np.testing.assert_allclose(attention[sample], wanted, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(of_tokens[sample], gradient, rtol=1e-8, atol=1e-10)


# --- Completeness ---


def swiglu() -> tuple[nn.Module, dict[str, Any]]:
    known = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    config = transformers.Dinov2Config(**known, mlp_ratio=2, use_swiglu_ffn=True, num_labels=3)
    return shaken(transformers.Dinov2ForImageClassification(config)), {"pixel_values": images()}


def words(**settings: Any) -> tuple[nn.Module, dict[str, Any]]:
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=20,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=24,
        **settings,
    )
    model = shaken(transformers.BertForSequenceClassification(config))
    return model, {"input_ids": torch.tensor([[3, 7, 12, 9], [5, 11, 6, 31]])}


COMPLETE: dict[str, tuple[Callable[[], tuple[nn.Module, dict[str, Any]]], str]] = {
    "GELU": (lambda: tiny("vit"), "vit.embeddings"),
    "SwiGLU and layer scale": (swiglu, "dinov2.embeddings"),
    "GELU and tanh": (words, "bert.embeddings"),
    "quick GELU": (lambda: words(hidden_act="quick_gelu"), "bert.embeddings"),
    "GELU written out": (lambda: words(hidden_act="gelu_new"), "bert.embeddings"),
    "tanh GELU": (lambda: words(hidden_act="gelu_pytorch_tanh"), "bert.embeddings"),
    "SiLU": (lambda: words(hidden_act="silu", attn_implementation="eager"), "bert.embeddings"),
    "ReLU": (lambda: words(hidden_act="relu"), "bert.embeddings"),
}


def gap(model: nn.Module, inputs: dict[str, Any], entry: str, mode: Any) -> tuple[Tensor, Tensor]:
    """Score and score - Σ gradient ⊙ input, for each sample; the input is what leaves the module `entry`."""
    with mode, capture(model, watch=[entry]) as seen:
        scores = model(**inputs).logits[:, 1]
    (gradient,) = torch.autograd.grad(scores.sum(), seen.outputs[entry])
    scores = scores.detach()
    return scores, scores - (gradient * seen.outputs[entry].detach()).sum((1, 2))


@pytest.mark.parametrize("name", COMPLETE)
def test_without_biases_gradient_times_input_is_the_score(name: str) -> None:
    build, entry = COMPLETE[name]
    model, inputs = doubled(*build())
    for key, weight in model.named_parameters():
        if key.endswith("bias"):
            weight.data.zero_()
    scores, short = gap(model, inputs, entry, libra())
    assert scores.abs().min() > 1e-2
    assert short.abs().max() < 1e-9
    assert gap(model, inputs, entry, nullcontext())[1].abs().max() > 1e-2


@pytest.mark.parametrize("name", ["GELU", "SwiGLU and layer scale", "GELU and tanh"])
def test_with_biases_their_gradients_make_up_the_rest(name: str) -> None:
    """Σ gradient ⊙ input + Σ gradient ⊙ bias over all biases above the input is the score."""
    build, entry = COMPLETE[name]
    model, inputs = doubled(*build())
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach()[:1].requires_grad_())
        return kept[-1]

    handle = model.get_submodule(entry).register_forward_hook(keep)
    model.set_attn_implementation("eager")
    with libra():
        score = model(**inputs).logits[0, 1]
    handle.remove()
    biases = [
        weight
        for key, weight in model.named_parameters()
        if key.endswith("bias") and not key.startswith(entry)
    ]
    parts = [*kept, *biases]
    gradients = torch.autograd.grad(score, parts, allow_unused=True)
    used = [(part, gradient) for part, gradient in zip(parts, gradients, strict=True) if gradient is not None]
    total = sum((part * gradient).sum() for part, gradient in used)
    torch.testing.assert_close(total, score, rtol=1e-9, atol=1e-9)
    assert (score - (kept[0] * gradients[0]).sum()).abs() > 1e-2  # without the biases' share it is not


def test_a_score_of_two_towers_is_complete_for_each() -> None:
    model, inputs = doubled(*tiny("clip"))
    for key, weight in model.named_parameters():
        if key.endswith("bias"):
            weight.data.zero_()
    towers = ["vision_model.pre_layrnorm", "text_model.embeddings"]
    with libra(), capture(model, watch=towers) as seen:
        logits = model(**inputs).logits_per_image
        scores = logits.diagonal()
    for tower in towers:
        (gradient,) = torch.autograd.grad(scores.sum(), seen.outputs[tower], retain_graph=True)
        torch.testing.assert_close((gradient * seen.outputs[tower]).sum((1, 2)), scores, rtol=1e-9, atol=1e-9)


# --- Rules one by one ---


def gradient_of(run: Callable[..., Tensor], *operands: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the sum, with the forward checked."""
    leaves = [each.clone().requires_grad_() for each in operands]
    with libra():
        value = run(*leaves)
    torch.testing.assert_close(value.detach(), run(*operands), rtol=1e-12, atol=1e-12)
    return torch.autograd.grad(value.sum(), leaves)


X = draw(0, 3, 5)


@pytest.mark.parametrize(
    ("run", "gate"),
    [
        (F.gelu, torch.special.ndtr(X)),
        (nn.GELU(), torch.special.ndtr(X)),
        (nn.GELU("tanh"), F.gelu(X, approximate="tanh") / X),
        (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), torch.special.ndtr(X)),
        (
            lambda x: (
                0.5 * x * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))
            ),
            F.gelu(X, approximate="tanh") / X,
        ),
        (F.silu, X.sigmoid()),
        (lambda x: x * torch.sigmoid(1.702 * x), (1.702 * X).sigmoid()),
        (lambda x: torch.sigmoid(x) * x, X.sigmoid()),
        (torch.tanh, X.tanh() / X),
        (F.relu, (X > 0).double()),
        (lambda x: x / x.norm(dim=-1, keepdim=True), (1 / X.norm(dim=-1, keepdim=True)).expand(3, 5)),
        (lambda x: F.normalize(x, dim=-1), (1 / X.norm(dim=-1, keepdim=True)).expand(3, 5)),
        (
            lambda x: x * x.pow(2).mean(-1, keepdim=True).rsqrt(),
            X.pow(2).mean(-1, keepdim=True).rsqrt().expand(3, 5),
        ),
        (
            lambda x: F.rms_norm(x, (5,), eps=1e-6),
            (X.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt().expand(3, 5),
        ),
        (lambda x: x * x, X),
    ],
)
def test_the_gate_is_a_constant(run: Callable[[Tensor], Tensor], gate: Tensor) -> None:
    torch.testing.assert_close(gradient_of(run, X)[0], gate, rtol=1e-9, atol=1e-12)


def test_tanh_at_zero_is_its_slope() -> None:
    assert gradient_of(torch.tanh, torch.zeros(3, dtype=torch.float64))[0].eq(1).all()


def test_layer_norm_keeps_the_mean_in_the_graph() -> None:
    weight, bias = draw(1, 5), draw(2, 5)
    sigma = (X.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    wanted = weight / sigma - (weight / sigma).mean(-1, keepdim=True)
    found = gradient_of(lambda x: F.layer_norm(x, (5,), weight, bias, 1e-5), X)[0]
    torch.testing.assert_close(found, wanted)


def test_two_activations_get_half_each_and_a_learned_scale_nothing_of_it() -> None:
    other = draw(1, 3, 5)
    halves = gradient_of(torch.mul, X, other)
    torch.testing.assert_close(halves[0], other / 2)
    torch.testing.assert_close(halves[1], X / 2)
    scale = nn.Parameter(draw(2, 5))
    assert torch.equal(gradient_of(lambda x: x * scale, X)[0], scale.detach().expand(3, 5))
    assert torch.equal(gradient_of(lambda x: x * scale[0].exp(), X)[0], scale[0].exp().detach().expand(3, 5))


def test_softmax_lets_no_gradient_through() -> None:
    with libra():
        for value in (X.clone().requires_grad_().softmax(-1), F.softmax(X.clone().requires_grad_(), dim=-1)):
            assert not value.requires_grad


def test_a_sigmoid_that_gates_nothing_has_its_derivative() -> None:
    """DETR's boxes."""
    torch.testing.assert_close(gradient_of(torch.sigmoid, X)[0], X.sigmoid() * (1 - X.sigmoid()))


# --- What it refuses, and leaves behind ---


@pytest.mark.parametrize(
    "run",
    [
        lambda x: F.group_norm(x, 1),
        lambda x: F.mish(x),
        lambda x: F.silu(x, inplace=True),
        lambda x: (x * 1).mul_(x),
    ],
)
def test_refusals_name_the_function(run: Callable[[Tensor], Tensor]) -> None:
    with libra(), pytest.raises(UnsupportedMethodError, match=r"no rule here for .*generic"):
        run(X.clone().requires_grad_())


def test_attention_that_nobody_captures_is_refused() -> None:
    model, inputs = tiny("vit")
    with libra(), pytest.raises(UnsupportedMethodError, match=r"scaled_dot_product_attention.*capture"):
        model(**inputs)


def test_nothing_is_left_behind() -> None:
    model, inputs = tiny("vit")
    before = [each.requires_grad for each in model.parameters()]
    with pytest.raises(ZeroDivisionError), libra(), capture(model):
        model(**inputs)
        raise ZeroDivisionError
    assert torch.overrides._get_current_function_mode_stack() == []
    assert before == [each.requires_grad for each in model.parameters()]
    x = X.clone().requires_grad_()
    assert x.softmax(-1).requires_grad
    assert torch.autograd.gradcheck(F.gelu, x)


@pytest.mark.parametrize("name", names())
def test_every_family(name: str) -> None:
    model, inputs = tiny(name)
    family = family_of(model)

    def forward(mode: Any) -> tuple[Tensor, dict[Any, Tensor], dict[Any, Tensor]]:
        with mode, capture(model, family.sites(model), watch=family.watches(model)) as seen:
            outputs = model(**inputs)
            scores = family.read(model, inputs, outputs, seen, TARGETS.get(name)).scores
        return scores, seen.gradients(scores), seen.attention

    plain_scores, plain, _ = forward(nullcontext())
    scores, found, attention = forward(libra())
    torch.testing.assert_close(scores, plain_scores, rtol=1e-4, atol=1e-4)
    assert all(each.is_leaf for each in attention.values())
    for site, part in found.items():
        assert part.shape == plain[site].shape
        assert torch.isfinite(part).all()
        assert part.any() == plain[site].any()
    assert any(not torch.allclose(found[site], plain[site], rtol=0.01) for site in found)
