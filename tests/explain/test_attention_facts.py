"""What the capture takes for granted of torch and transformers: a version that breaks it shows here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from explain_oracles_capture import (
    WITH_INTERFACE,
    bert,
    blip,
    clip,
    detr,
    lxmert,
    multi_head,
    siglip,
    t5,
    visual_bert,
    vit,
    vit_mae,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Calls(TorchFunctionMode):
    """Notes every function that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def calls_of(case: Any) -> list[Any]:
    with torch.no_grad(), Calls() as calls:
        case.model(**case.inputs)
    return calls.seen


# ---- transformers: which implementation runs, and what it returns


@pytest.mark.parametrize("make", WITH_INTERFACE)
def test_models_with_the_interface_begin_with_sdpa_and_call_it_once_an_attention(make: Any) -> None:
    case = make("sdpa")
    inside = case.count - (make is siglip)  # its pooling head is another thing
    assert calls_of(case).count(F.scaled_dot_product_attention) == inside
    called = calls_of(make("eager"))
    left = 2 if make is vit_mae else 0  # the decoder has a copy of the config, which no switch reaches
    assert called.count(F.softmax) == inside - left
    assert called.count(F.scaled_dot_product_attention) == left


@pytest.mark.parametrize("make", [visual_bert, lxmert, blip])
def test_models_without_it_take_a_softmax_whatever_they_are_told(make: Any) -> None:
    case = make("")
    called = calls_of(case)
    assert called.count(F.softmax) == case.count
    assert F.scaled_dot_product_attention not in called


@pytest.mark.parametrize("make", [vit, clip, detr, bert, t5])
def test_sdpa_returns_no_attention_without_an_error(make: Any) -> None:
    case = make("sdpa")
    outputs = case.model(**case.inputs, output_attentions=True)
    for each in (outputs, outputs.get("vision_model_output"), outputs.get("text_model_output")):
        for key in [] if each is None else [key for key in each if key.endswith("attentions")]:
            assert not [attention for attention in each[key] if attention is not None]


def test_eager_returns_the_tensors_that_the_output_is_computed_from() -> None:
    case = vit("eager")
    outputs = case.model(**case.inputs, output_attentions=True)
    gradients = torch.autograd.grad(case.score(outputs).sum(), outputs.attentions)
    assert all(each.any() for each in gradients)


def test_eager_attention_of_frozen_weights_has_no_graph() -> None:
    case = vit("eager")
    case.model.requires_grad_(False)
    outputs = case.model(**case.inputs, output_attentions=True)
    assert not any(each.requires_grad for each in outputs.attentions)


def test_vit_mae_returns_fewer_attentions_than_it_has() -> None:
    case = vit_mae("eager")
    assert len(case.model(**case.inputs, output_attentions=True).attentions) == 2
    assert case.count == 4


def test_lxmert_hides_three_of_the_four_maps_of_a_cross_layer() -> None:
    case = lxmert("")
    outputs = case.model(**case.inputs, output_attentions=True)
    assert [each.shape[-2:] for each in outputs.cross_encoder_attentions] == [(7, 4), (7, 4)]
    assert len(outputs.language_attentions) == 2
    assert len(outputs.vision_attentions) == 1


def test_lxmert_calls_one_cross_attention_twice_language_first() -> None:
    case = lxmert("")
    attention = case.model.lxmert.encoder.x_layers[0].visual_attention.att
    lengths: list[int] = []
    attention.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    case.model(**case.inputs)
    assert lengths == [7, 4]


def test_the_last_vision_to_language_attention_of_lxmert_reaches_no_answer() -> None:
    case = lxmert("")
    layer = case.model.lxmert.encoder.x_layers[-1]
    outputs: list[Tensor] = []
    layer.visn_self_att.register_forward_hook(lambda _, args, output: outputs.append(output[0]))
    scores = case.score(case.model(**case.inputs))
    assert torch.autograd.grad(scores.sum(), outputs, allow_unused=True) == (None,)


def test_blip_text_returns_its_attention_from_before_the_dropout() -> None:
    source = inspect.getsource(tf.models.blip.modeling_blip_text.BlipTextSelfAttention.forward)
    assert "return context_layer, attention_probs\n" in source
    assert "torch.matmul(attention_probs_dropped" in source


def test_the_pooling_head_of_siglip_is_a_multi_head_attention_whose_weights_are_a_side_branch() -> None:
    case = siglip("eager")
    head = case.model.vision_model.head
    assert isinstance(head.attention, nn.MultiheadAttention)
    weights: list[Tensor] = []
    head.attention.register_forward_hook(lambda _, args, output: weights.append(output[1]))
    scores = case.score(case.model(**case.inputs))
    assert torch.autograd.grad(scores.sum(), weights, allow_unused=True) == (None,)


def test_the_first_decoder_attention_of_detr_mixes_equal_values() -> None:
    """Why a single site may have gradient zero: without biases its values are all zero."""
    case = detr("sdpa")
    values: list[Tensor] = []
    attention = case.model.model.decoder.layers[0].self_attn
    attention.v_proj.register_forward_hook(lambda _, args, output: values.append(output))
    case.model(**case.inputs)
    assert (values[0] == values[0][:, :1]).all()


def test_the_backbone_of_detr_is_timm_by_default() -> None:
    assert tf.DetrConfig().backbone_config.model_type == "timm_backbone"


def test_where_attention_lives() -> None:
    """Sites are these modules, which compute attention themselves."""
    owners = {
        vit: "vit.layers.0.attention",
        clip: "text_model.encoder.layers.0.self_attn",
        siglip: "vision_model.head.attention",
        detr: "model.decoder.layers.0.encoder_attn",
        bert: "bert.encoder.layer.0.attention.self",
        visual_bert: "visual_bert.encoder.layer.0.attention.self",
        lxmert: "lxmert.encoder.x_layers.0.visual_attention.att",
        blip: "text_encoder.encoder.layer.0.crossattention.self",
        t5: "decoder.block.0.layer.1.EncDecAttention",
    }
    for make, name in owners.items():
        assert make("sdpa" if make in WITH_INTERFACE else "").model.get_submodule(name)


# ---- torch


def test_a_mode_keeps_multi_head_attention_from_its_fast_path() -> None:
    called = calls_of(multi_head(""))
    assert called.count(F.multi_head_attention_forward) == 2
    assert torch._native_multi_head_attention not in called
    assert torch._transformer_encoder_layer_fwd not in called


def test_a_mode_sees_each_softmax_once_however_it_is_spelt() -> None:
    tensor = torch.zeros(2, 3)
    spellings = {
        F.softmax: lambda: F.softmax(tensor, dim=-1),
        torch.softmax: lambda: torch.softmax(tensor, -1),
        Tensor.softmax: lambda: tensor.softmax(-1),
        torch.special.softmax: lambda: torch.special.softmax(tensor, -1),
    }
    for function, spelling in spellings.items():
        with Calls() as calls:
            spelling()
        assert calls.seen == [function]
    with Calls() as calls:
        nn.Softmax(dim=-1)(tensor)
        tensor @ tensor.mT
    assert F.softmax in calls.seen
    assert Tensor.matmul in calls.seen


def test_a_mode_is_off_while_it_answers_and_those_outside_it_are_not() -> None:
    tensor = torch.zeros(2, 3)
    with Calls() as outer, Calls() as inner:
        F.softmax(tensor, dim=-1)
    assert inner.seen == [F.softmax]
    assert outer.seen[0] is F.softmax


def test_a_query_that_sees_no_key_gets_zeros() -> None:
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert not output[..., 1, :].any()
    assert output[..., 0, :].any()


def test_the_causal_mask_of_unequal_lengths_begins_at_the_upper_left() -> None:
    query, key, value = torch.randn(1, 1, 3, 8), torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)
    output = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(output[..., 0, :], value[..., 0, :])


def test_several_backwards_at_once_forget_their_axis_where_nothing_depends() -> None:
    used, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    found = torch.autograd.grad(
        used * 2,
        (used, unused),
        torch.eye(2),
        is_grads_batched=True,
        allow_unused=True,
        materialize_grads=True,
    )
    assert [tuple(each.shape) for each in found] == [(2, 2), (3,)]


def test_hooks_that_are_always_called_run_when_the_forward_fails() -> None:
    module, ran = nn.Linear(2, 2), []
    module.register_forward_hook(lambda *_: ran.append(True), always_call=True)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        module(torch.zeros(1, 3))
    assert ran == [True]
