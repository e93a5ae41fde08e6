"""[CLS] kept apart: equal to attention that is masked between both; and a head that reads patches."""

from __future__ import annotations

import explain_tiny
import pytest
import torch
from explain_tiny_more import tiny_bert
from heedful.explain import InputError, UnknownFamilyError, UnsupportedMethodError
from heedful.explain.probing.cls_token import apart, patch_logits
from torch import Tensor, nn


def masked_layers(model: nn.Module, tokens: Tensor, own: int, first: int) -> Tensor:
    """ViT's layers with an additive mask between the first tokens and the others, below layer `first`."""
    count = tokens.shape[1]
    is_own = torch.arange(count) < own
    mask = torch.where(is_own[:, None] == is_own[None], 0.0, -torch.inf)
    for number, layer in enumerate(model.vit.layers):
        tokens = layer(tokens, mask[None, None] if number < first else None)
    return tokens


@pytest.mark.parametrize("first", [0, 1, 2])
def test_apart_is_attention_masked_between_both(first: int) -> None:
    model, inputs = explain_tiny.tiny("vit")
    tokens = model.vit.embeddings(**inputs)
    expected = model.classifier(model.vit.layernorm(masked_layers(model, tokens, 1, first))[:, 0])

    with apart(model, first):
        found = model(**inputs).logits

    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    whole = model(**inputs).logits
    assert torch.allclose(found, whole) == (first == 0)


@pytest.mark.parametrize("name", ["vit", "deit", "deit_teacher", "dinov2", "dinov2_registers", "clip"])
def test_below_the_last_layer_cls_knows_nothing_of_the_image(name: str) -> None:
    model, inputs = explain_tiny.tiny(name)
    from heedful.explain.probing.activations import activations
    from heedful.explain.probing.tower import tower_of

    tower = tower_of(model)
    with activations(tower.module, tower.layers[1]) as seen:
        model(**inputs)
    with apart(model), activations(tower.module, tower.layers[1]) as split_seen:
        model(**inputs)
    (whole,), (split,) = seen.values(), split_seen.values()

    torch.testing.assert_close(split[0, 0], split[1, 0])
    assert not torch.allclose(whole[0, 0], whole[1, 0])
    assert not torch.allclose(split[0, -1], split[1, -1])


def test_all_is_undone_also_after_an_error() -> None:
    model, inputs = explain_tiny.tiny("vit")
    before = model(**inputs).logits

    with pytest.raises(RuntimeError, match="stop"), apart(model):
        raise RuntimeError("stop")

    assert torch.equal(model(**inputs).logits, before)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["vit", "deit", "deit_teacher", "dinov2_registers"])
def test_patch_logits_are_the_head_on_each_patch(name: str) -> None:
    model, inputs = explain_tiny.tiny(name)
    hidden = model.base_model(**inputs).last_hidden_state[:, -15:]

    found = patch_logits(model, inputs["pixel_values"])
    mean = patch_logits(model, inputs["pixel_values"], mean=True)

    def head(token: Tensor) -> Tensor:
        if name == "deit_teacher":
            return (model.cls_classifier(token) + model.distillation_classifier(token)) / 2
        return model.classifier(torch.cat([token, token], -1) if name == "dinov2_registers" else token)

    assert found.shape == (2, 15, 5)
    torch.testing.assert_close(found, head(hidden), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(mean[:, 0], head(hidden.mean(1)), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found[:, 0], mean[:, 0])


def test_models_without_cls_or_head_are_refused() -> None:
    siglip, inputs = explain_tiny.tiny("siglip")
    with pytest.raises(UnsupportedMethodError, match=r"no \[CLS\]"), apart(siglip):
        pass
    with pytest.raises(UnsupportedMethodError, match="no head that classifies"):
        patch_logits(siglip, inputs["pixel_values"])
    with pytest.raises(UnknownFamilyError, match="no patches"), apart(tiny_bert()[0]):
        pass
    vit, _ = explain_tiny.tiny("vit")
    with pytest.raises(InputError, match=r"a layer of 0\.\.2, got 3"), apart(vit, 3):
        pass


@pytest.mark.gpu
def test_on_a_gpu_cls_is_kept_apart_in_float16() -> None:
    model, inputs = explain_tiny.tiny("vit")
    with apart(model):
        expected = model(**inputs).logits

    model = model.half().cuda()
    pixels = inputs["pixel_values"].half().cuda()
    with apart(model):
        found = model(pixel_values=pixels, interpolate_pos_encoding=True).logits

    torch.testing.assert_close(found.float().cpu(), expected, atol=0.1, rtol=0.1)
    assert patch_logits(model, pixels).isfinite().all()
