"""Attention is seen whole, on every kind of model, and nothing of the model changes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from explain_capturing import EVERY_ONE, captured, every, name_of, plain, returned
from explain_oracles_capture import (
    WITHOUT,
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
from heedful.explain.capture import capture
from heedful.explain.wiring import Site
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
