"""Attention is seen whole, on every kind of model, and nothing of the model changes."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from explain_oracles_capture import (
    EVERY,
    WITHOUT,
    Case,
    bert,
    clip,
    detr,
    lxmert,
    multi_head,
    siglip,
    t5,
    visual_bert,
    vit,
)
from heedful.explain.capture import Capture, capture
from heedful.explain.errors import CaptureError
from heedful.explain.wiring import Site
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

EVERY_ONE = [each for each in EVERY if each[0] is not multi_head]


def name_of(each: Any) -> str:
    return each if isinstance(each, str) else each.__name__


every = pytest.mark.parametrize(("make", "attention"), EVERY, ids=name_of)


def captured(case: Case, **inputs: Tensor) -> tuple[Tensor, Capture]:
    with capture(case.model) as seen:
        scores = case.score(case.model(**{**case.inputs, **inputs}))
    return scores, seen


def plain(case: Case, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return case.score(case.model(**{**case.inputs, **inputs}))


def returned(outputs: Any) -> list[Tensor]:
    """Every attention that a transformers output holds, at any depth."""
    found: list[Tensor] = []
    for key, value in outputs.items():
        if key.endswith("attentions"):
            found += [each for each in value if each is not None]
        elif isinstance(value, dict):
            found += returned(value)
    return found


def state(model: nn.Module) -> list[Any]:
    """Everything of a model that a capture touches."""
    return [
        (module.training, len(module._forward_pre_hooks), len(module._forward_hooks), tuple(vars(module)))
        for module in model.modules()
    ] + [(each.requires_grad, each.grad is None) for each in model.parameters()]


# ---- the answer stays, and the attention is all there


@every
def test_the_answer_stays_and_every_attention_is_seen(make: Any, attention: str) -> None:
    case = make(attention)
    scores, seen = captured(case)
    torch.testing.assert_close(scores.detach(), plain(case), rtol=1e-5, atol=1e-6)
    assert len(seen.attention) == case.count
    for probabilities in seen.attention.values():
        assert probabilities.dtype == torch.float32
        assert probabilities.shape[0] == 2
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))


@pytest.mark.parametrize("make", [vit, clip, bert, t5, *WITHOUT[:3]], ids=name_of)
def test_an_eager_model_answers_the_same_to_the_last_bit(make: Any) -> None:
    case = make("eager" if make not in WITHOUT else "")
    assert torch.equal(captured(case)[0].detach(), plain(case))


@pytest.mark.parametrize(("make", "attention"), EVERY_ONE, ids=name_of)
def test_attention_and_gradients_equal_those_that_eager_models_return(make: Any, attention: str) -> None:
    eager = make("eager" if attention else "")
    outputs = eager.model(**eager.inputs, output_attentions=True)
    wanted = returned(outputs)
    assert wanted
    gradients = torch.autograd.grad(
        eager.score(outputs).sum(), wanted, allow_unused=True, materialize_grads=True
    )

    scores, seen = captured(make(attention))
    found = seen.gradients(scores)
    left = dict(seen.attention)
    for probabilities, gradient in zip(wanted, gradients, strict=True):
        alike = [
            site
            for site, each in left.items()
            if each.shape == probabilities.shape and torch.allclose(each, probabilities, atol=1e-5)
        ]
        assert len(alike) == 1, "each returned map is one captured map"
        torch.testing.assert_close(
            found[alike[0]], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max())
        )
        del left[alike[0]]


def test_gradients_of_multi_head_attention_equal_a_difference_quotient() -> None:
    """No model returns these, so the probabilities are moved by hand."""
    case = multi_head("")
    case.model.double()
    inputs = {"tokens": case.inputs["tokens"].double()}
    scores, seen = captured(case, **inputs)
    gradients = seen.gradients(scores)
    last = Site("encoder.layers.1.self_attn")
    layer = case.model.get_submodule("encoder.layers.1")

    class Moved(TorchFunctionMode):
        """Adds to one probability of the last layer, wherever its softmax is."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func is torch.softmax and result.shape == step.shape and inside:
                return result + step
            return result

    for place in ((0, 1, 0, 2), (1, 2, 0, 5)):
        moved = []
        for size in (1e-6, -1e-6):
            step = torch.zeros_like(seen.attention[last])
            step[place] = size
            inside: list[bool] = []
            hook = layer.register_forward_pre_hook(lambda *_, inside=inside: inside.append(True))
            with Moved(), capture(case.model):
                moved.append(case.score(case.model(**{**case.inputs, **inputs})).sum())
            hook.remove()
        quotient = (moved[0] - moved[1]) / 2e-6
        torch.testing.assert_close(gradients[last][place], quotient, rtol=1e-5, atol=1e-8)


def test_all_four_maps_of_a_cross_layer_of_lxmert() -> None:
    _, seen = captured(lxmert(""))
    layer = "lxmert.encoder.x_layers.1."
    shapes = {
        site: tuple(each.shape) for site, each in seen.attention.items() if site.module.startswith(layer)
    }
    assert shapes == {
        Site(f"{layer}visual_attention.att", 0): (2, 3, 7, 4),
        Site(f"{layer}visual_attention.att", 1): (2, 3, 4, 7),
        Site(f"{layer}lang_self_att.self"): (2, 3, 7, 7),
        Site(f"{layer}visn_self_att.self"): (2, 3, 4, 4),
    }


def test_the_pooling_head_of_siglip_is_an_attention() -> None:
    scores, seen = captured(siglip("sdpa"))
    head = Site("vision_model.head.attention")
    assert seen.attention[head].shape == (2, 3, 1, 9)
    assert seen.gradients(scores, [head])[head].abs().max() > 0


# ---- masks survive


@pytest.mark.parametrize("make", [bert, clip, t5, visual_bert, lxmert], ids=name_of)
def test_padding_is_attended_by_nobody(make: Any) -> None:
    case = make("" if make in WITHOUT else "sdpa")
    padded = 7 + (4 if make is visual_bert else 0)
    _, seen = captured(case)
    texts = [each for each in seen.attention.values() if each.shape[-1] == padded]
    assert texts
    for probabilities in texts:
        assert (probabilities[0, ..., 4:7] == 0).all()
        assert (probabilities[1, ..., 4:7] > 0).any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_text_answers_like_the_bare_text(attention: str) -> None:
    case = bert(attention)
    bare = {key: value[:1, :4] for key, value in case.inputs.items()}
    padded, alone = captured(case)[0], captured(case, **bare)[0]
    torch.testing.assert_close(padded[:1], alone, rtol=1e-5, atol=1e-6)


def test_the_causal_mask_of_clip_survives() -> None:
    case = clip("sdpa")
    for mask in ({}, {"attention_mask": torch.ones_like(case.inputs["attention_mask"])}):
        _, seen = captured(case, **mask)
        for site, probabilities in seen.attention.items():
            if "text" in site.module:
                assert (probabilities.triu(1) == 0).all()
                assert (probabilities.tril() > 0).any()


def test_the_pixel_mask_of_detr_survives() -> None:
    _, seen = captured(detr("sdpa"))
    keys = [each for each in seen.attention.values() if each.shape[-1] > 4]
    assert len(keys) == 4  # two of the encoder, two towards it
    for probabilities in keys:
        masked = (probabilities[0] == 0).all(0).all(0)
        assert 0 < masked.sum() < len(masked)
        assert (probabilities[1] > 0).all()


# ---- frozen models, types, autograd around it


@every
def test_a_frozen_model_has_the_same_gradients(make: Any, attention: str) -> None:
    free = make(attention)
    scores, seen = captured(free)
    frozen = make(attention)
    frozen.model.requires_grad_(False)
    scores_of_frozen, seen_of_frozen = captured(frozen)
    wanted, found = seen.gradients(scores), seen_of_frozen.gradients(scores_of_frozen)
    assert all(torch.equal(found[site], wanted[site]) for site in wanted)
    assert not any(each.requires_grad for each in frozen.model.parameters())


@pytest.mark.parametrize("make", [vit, clip, t5, siglip, visual_bert, lxmert], ids=name_of)
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)], ids=str)
def test_probabilities_of_a_half_precision_model_are_float32(
    make: Any, kind: torch.dtype, tolerance: float
) -> None:
    _, wanted = captured(make("" if make in WITHOUT else "sdpa"))
    half = make("" if make in WITHOUT else "sdpa")
    half.model.to(kind)
    inputs = {key: each.to(kind) for key, each in half.inputs.items() if each.is_floating_point()}
    scores, seen = captured(half, **inputs)
    assert scores.dtype == kind
    for site, probabilities in seen.attention.items():
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
        torch.testing.assert_close(probabilities, wanted.attention[site], rtol=0, atol=tolerance)
    assert all(each.dtype == torch.float32 for each in seen.gradients(scores).values())


def relative(found: dict[Site, Tensor], wanted: dict[Site, Tensor]) -> float:
    return max(float((found[site] - each).norm() / each.norm()) for site, each in wanted.items())


@pytest.mark.parametrize("by", ["weights", "autocast"])
def test_small_gradients_do_not_vanish_in_float16_nor_large_ones_overflow(by: str) -> None:
    scores, seen = captured(vit("sdpa"))
    wanted = seen.gradients(scores)
    half = vit("sdpa")
    if by == "weights":
        half.model.half()
        half.inputs["pixel_values"] = half.inputs["pixel_values"].half()
    with torch.autocast("cpu", torch.float16) if by == "autocast" else nullcontext():
        scores, seen = captured(half)
    for size in (1e-7, 1e4):
        found = seen.gradients(scores.float() * size)
        assert relative({site: each / size for site, each in found.items()}, wanted) < 0.03
    bare = torch.autograd.grad(scores.float().sum() * 1e-7, list(seen.attention.values()), retain_graph=True)
    unscaled = {site: each / 1e-7 for site, each in zip(seen.attention, bare, strict=True)}
    assert relative(unscaled, wanted) > 0.3  # without the scaling they do vanish


def test_a_float64_model_keeps_float64() -> None:
    case = bert("sdpa")
    case.model.double()
    scores, seen = captured(case)
    assert {each.dtype for each in seen.gradients(scores).values()} == {torch.float64}


def test_it_works_under_no_grad_of_the_caller() -> None:
    case = vit("sdpa")
    wanted, seen = captured(case)
    gradients = seen.gradients(wanted)
    with torch.no_grad():
        with capture(case.model) as seen:
            scores = case.score(case.model(**case.inputs))
        assert not torch.is_grad_enabled()
        found = seen.gradients(scores)
    assert all(torch.equal(found[site], each) for site, each in gradients.items())


# ---- everything is put back


@pytest.mark.parametrize("make", [clip, lxmert, multi_head], ids=name_of)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_put_back(make: Any, error: type[BaseException] | None) -> None:
    case = make("" if make in WITHOUT else "sdpa")
    next(case.model.parameters()).requires_grad_(False)
    before, answer = state(case.model), plain(case)
    with pytest.raises(error) if error else nullcontext(), capture(case.model):
        assert not any(each.requires_grad for each in case.model.parameters())
        case.model(**case.inputs)
        if error:
            raise error
    assert state(case.model) == before
    assert torch.equal(plain(case), answer)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_everything_is_put_back_when_the_model_fails_halfway(error: type[BaseException]) -> None:
    case = vit("sdpa")
    before = state(case.model)

    def fail(*_: Any) -> None:
        raise error

    hook = case.model.vit.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(error), capture(case.model):
        case.model(**case.inputs)
    hook.remove()
    assert state(case.model) == before
    assert len(captured(case)[1].attention) == 3


def test_it_can_be_nested_and_repeated() -> None:
    case = vit("sdpa")
    before = state(case.model)
    with capture(case.model) as outer, capture(case.model) as inner:
        scores = case.score(case.model(**case.inputs))
    _, again = captured(case)
    assert state(case.model) == before
    assert list(outer.attention) == list(inner.attention) == list(again.attention)
    for site, probabilities in inner.attention.items():
        assert torch.equal(outer.attention[site], probabilities)
        assert torch.equal(again.attention[site], probabilities)
    wanted = inner.gradients(scores)
    assert all(torch.equal(each, wanted[site]) for site, each in outer.gradients(scores).items())


def test_a_model_that_fails_inside_the_block_can_run_there_again() -> None:
    case = vit("sdpa")
    with capture(case.model) as seen:
        with pytest.raises(ValueError, match="size"):
            case.model(pixel_values=torch.zeros(1, 3, 8, 8))
        seen._forwards = 0  # the first run showed nothing
        case.model(**case.inputs)
    assert len(seen.attention) == 3


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_runs_eagerly_meanwhile(whole: bool) -> None:
    case = vit("sdpa")
    wanted, sites = plain(case), list(captured(case)[1].attention)
    if whole:
        case = replace(case, model=torch.compile(case.model, backend="eager"))
    else:
        case.model.vit.compile(backend="eager")
    with capture(case.model, sites, watch=["vit.embeddings"]) as seen:
        scores = case.score(case.model(**case.inputs))
    torch.testing.assert_close(scores.detach(), wanted)
    assert seen.outputs["vit.embeddings"].shape == (2, 16, 24)


def test_nothing_is_held_once_the_capture_is_let_go() -> None:
    gc.disable()
    try:
        scores, seen = captured(vit("sdpa"))
        seen.gradients(scores)
        held = [weakref.ref(each) for each in seen.attention.values()]
        del scores, seen
        assert [each() for each in held] == [None] * 3
    finally:
        gc.enable()


def test_layers_that_share_their_weights_are_sites_of_one_module() -> None:
    settings = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 20, "vocab_size": 40}
    model = tf.AlbertForSequenceClassification(
        tf.AlbertConfig(**settings, embedding_size=8, num_hidden_layers=3)
    )
    with capture(model.eval()) as seen:
        scores = model(torch.arange(12).view(2, 6)).logits[:, 1]
    name = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention"
    assert list(seen.gradients(scores)) == [Site(name, call) for call in range(3)]


# ---- what is asked of it


def test_sites_and_watched_modules() -> None:
    case = vit("sdpa")
    sites = [Site(f"vit.layers.{layer}.attention") for layer in range(3)]
    with capture(case.model, sites, watch=["vit.embeddings", "vit.layers.2"]) as seen:
        scores = case.score(case.model(**case.inputs))
    assert list(seen.attention) == sites
    assert set(seen.outputs) == {"vit.embeddings", "vit.layers.2"}
    assert seen.outputs["vit.embeddings"].is_leaf
    for output in torch.autograd.grad(scores.sum(), list(seen.outputs.values())):
        assert output.shape == (2, 16, 24)
        assert output.abs().max() > 0


def test_gradients_of_some_sites_and_of_weighted_scores() -> None:
    case = clip("sdpa")
    with capture(case.model) as seen:
        scores = case.model(**case.inputs).logits_per_text.flatten()
    first = next(iter(seen.attention))
    weights = torch.eye(4)[[2, 1]]
    together = seen.gradients(scores, grad_outputs=weights)
    for row, weight in enumerate(weights):
        alone = seen.gradients(scores, [first], grad_outputs=weight)
        assert list(alone) == [first]
        torch.testing.assert_close(together[first][row], alone[first])
        twice = seen.gradients(scores, [first], grad_outputs=2 * weight)
        torch.testing.assert_close(twice[first], 2 * alone[first])
    for site, each in together.items():
        assert each.shape == (2, *seen.attention[site].shape)


def test_a_site_that_the_score_is_not_computed_from_has_gradient_zero() -> None:
    scores, seen = captured(lxmert(""))
    idle = Site("lxmert.encoder.x_layers.1.visual_attention.att", 1)
    gradients = seen.gradients(scores, grad_outputs=torch.eye(2))
    assert gradients[idle].shape == (2, 2, 3, 4, 7)
    assert not gradients[idle].any()


def test_an_outer_mode_sees_the_softmax_and_both_products() -> None:
    seen: list[Any] = []

    class Outer(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    for make in (vit, multi_head):
        seen.clear()
        case = make("sdpa")
        with Outer(), capture(case.model):
            case.model(**case.inputs)
        assert seen.count(torch.softmax) == case.count
        assert seen.count(torch.matmul) == 2 * case.count
        assert F.scaled_dot_product_attention not in seen
        assert F.multi_head_attention_forward not in seen


# ---- what goes wrong


def test_training_mode_and_inference_mode_are_refused() -> None:
    case = vit("sdpa")
    case.model.vit.layers[1].train()
    with pytest.raises(CaptureError, match=r"training mode \('vit\.layers\.1'\).*model\.eval\(\)"):
        captured(case)
    case.model.eval()
    with torch.inference_mode(), pytest.raises(CaptureError, match="inference_mode"):
        captured(case)
    for off in (torch.inference_mode, torch.no_grad):
        message = r"autograd is off inside the capture, at 'vit\.layers\.0"
        with pytest.raises(CaptureError, match=message), capture(case.model), off():
            case.model(**case.inputs)


def test_flash_attention_is_refused() -> None:
    case = vit("sdpa")
    case.model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(CaptureError, match=r"flash_attention_2.*attn_implementation='sdpa'"):
        captured(case)


@pytest.mark.parametrize("where", ["vit.layers.1.attention.q_proj.weight", "classifier.weight"])
def test_nan_weights_are_named(where: str) -> None:
    case = vit("sdpa")
    with torch.no_grad():
        case.model.get_parameter(where)[0] = float("nan")
    with pytest.raises(CaptureError, match=f"not finite: the weights '{where}' hold NaN"):
        scores, seen = captured(case)
        seen.gradients(case.model.classifier.weight.sum() + scores)


def test_nan_inputs_are_told_from_nan_weights() -> None:
    case = vit("sdpa")
    with pytest.raises(CaptureError, match="look for NaN or infinity in the inputs"):
        captured(case, pixel_values=case.inputs["pixel_values"] / 0)


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    scores, seen = captured(vit("sdpa"))
    with pytest.raises(CaptureError, match="gradient of the attention is not finite"):
        seen.gradients((scores - scores.detach()).clamp(min=0).sqrt())


def test_sites_that_do_not_fit_are_named() -> None:
    case = vit("sdpa")
    names = [f"vit.layers.{layer}.attention" for layer in range(3)]
    sites = [Site(name) for name in names]

    def run(sites: list[Site], **watch: Any) -> None:
        with capture(case.model, sites, **watch):
            case.model(**case.inputs)

    with pytest.raises(CaptureError, match=r"no module 'vit\.layer\.0\.attention'.*vit\.layers\.0\."):
        run([Site("vit.layer.0.attention")])
    with pytest.raises(CaptureError, match=r"no attention was seen at vit\.layers\.0\.mlp, but at vit"):
        run([*sites[1:], Site("vit.layers.0.mlp")])
    with pytest.raises(CaptureError, match=r"no attention was seen at vit\.layers\.2\.attention \(call 1\)"):
        run([*sites, Site(names[2], 1)])
    with pytest.raises(CaptureError, match=r"outside the 2 sites was seen at vit\.layers\.2\.attention"):
        run(sites[:2])
    with pytest.raises(CaptureError, match="no module 'embeddings'"):
        run(sites, watch=["embeddings"])


def test_watched_modules_must_run_once_and_give_numbers() -> None:
    case = vit("sdpa")
    case.model.idle = nn.Identity().eval()
    with pytest.raises(CaptureError, match="did not run: idle"), capture(case.model, watch=["idle"]):
        case.model(**case.inputs)
    case = lxmert("")
    twice = "lxmert.encoder.x_layers.0.visual_attention"
    with pytest.raises(CaptureError, match="ran twice"), capture(case.model, watch=[twice]):
        case.model(**case.inputs)


def test_the_number_of_forwards_must_be_one() -> None:
    case = vit("sdpa")
    with pytest.raises(CaptureError, match="ran 2 times in one capture"), capture(case.model):
        case.model(**case.inputs)
        case.model(**case.inputs)
    with (
        pytest.raises(CaptureError, match="no attention was seen: run the model"),
        capture(case.model),
    ):
        pass


def test_scores_must_depend_on_the_attention() -> None:
    case = vit("sdpa")
    with capture(case.model, watch=["vit.embeddings"]) as seen:
        scores = case.score(case.model(**case.inputs))
    with pytest.raises(CaptureError, match="carry no graph"):
        seen.gradients(scores.detach())
    with pytest.raises(CaptureError, match=r"zero at every attention.*do not depend on it"):
        seen.gradients(seen.outputs["vit.embeddings"].sum((1, 2)))
    with pytest.raises(CaptureError, match=r"zero at every attention.*saturated"):
        seen.gradients((scores * 1e6).sigmoid())
    with pytest.raises(CaptureError, match="no attention was captured at head; it was at vit"):
        seen.gradients(scores, [Site("head")])


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


# ---- on CUDA


@pytest.mark.gpu
@every
def test_on_cuda_float16_gives_the_attention_and_gradients_of_float32(make: Any, attention: str) -> None:
    scores, seen = captured(make(attention))
    wanted = seen.gradients(scores)
    half = make(attention)
    half.model.to("cuda", torch.float16)
    inputs = {key: each.cuda() for key, each in half.inputs.items()}
    inputs = {key: each.half() if each.is_floating_point() else each for key, each in inputs.items()}
    before = plain(half, **inputs)
    after, found = captured(half, **inputs)
    torch.testing.assert_close(after.detach(), before, rtol=1e-2, atol=1e-2)
    gradients = found.gradients(after)
    for site, probabilities in found.attention.items():
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities.cpu(), seen.attention[site], rtol=0, atol=0.02)
    total, other = (
        torch.cat([each[site].cpu().flatten() for site in wanted]) for each in (wanted, gradients)
    )
    assert F.cosine_similarity(total, other, 0) > 0.99
