"""What is recorded is what the host computes, by whatever processor, and changes no pixel."""

from __future__ import annotations

import pytest
import torch
from diffusers.models import attention_processor as host
from heedful.guidance import UnsupportedError
from heedful.guidance.layers import choose, cross_attention_layers
from heedful.guidance.processors import AllRecorded, Recorder, probabilities, recording
from tiny import tiny_unet

GRID = (16, 12)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return tiny_unet().eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 4, *GRID), torch.tensor(500), torch.randn(2, 7, 16)


def record(unet, inputs, choice=lambda layer: True, **options):
    layers = choose(cross_attention_layers(unet), GRID, choice)
    recorder = Recorder(layers, GRID, inputs[2].shape[1], **options)
    with recording(recorder):
        output = unet(*inputs, return_dict=False)[0]
    return recorder.maps.layers, output


def eager(unet, inputs):
    """The probabilities as diffusers' own eager processor computes them."""
    found = {}

    class Eager(host.AttnProcessor):
        def __call__(self, attn, *args, **kwargs):
            scores = attn.get_attention_scores
            attn.get_attention_scores = lambda *a: found.setdefault(id(attn), scores(*a))
            try:
                return super().__call__(attn, *args, **kwargs)
            finally:
                del attn.get_attention_scores

    before = unet.attn_processors
    unet.set_attn_processor(Eager())
    try:
        with torch.no_grad():
            unet(*inputs)
    finally:
        unet.set_attn_processor(before)
    return {
        layer.name: found[id(layer.module)].unflatten(0, (2, -1)).unflatten(2, layer.grid(GRID))
        for layer in cross_attention_layers(unet)
    }


def with_processor(unet, processor, inputs):
    before = unet.attn_processors
    unet.set_attn_processor(processor)
    try:
        with torch.no_grad():
            return record(unet, inputs)[0]
    finally:
        unet.set_attn_processor(before)


def test_recorded_equals_eager_and_changes_no_pixel(unet, inputs):
    with torch.no_grad():
        plain = unet(*inputs, return_dict=False)[0]
        maps, output = record(unet, inputs)
    assert torch.equal(output, plain)
    reference = eager(unet, inputs)
    assert set(maps) == set(reference)
    for name, expected in reference.items():
        torch.testing.assert_close(maps[name], expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(maps[name].sum(-1), torch.ones(maps[name].shape[:-1]))


def test_the_comparison_can_fail(unet, inputs):
    reference = eager(unet, inputs)
    with torch.no_grad():
        other = record(unet, (inputs[0] + 1, *inputs[1:]))[0]
    with pytest.raises(AssertionError):
        for name, expected in reference.items():
            torch.testing.assert_close(other[name], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "processor", [host.AttnProcessor(), host.SlicedAttnProcessor(1), host.SlicedAttnProcessor(3)]
)
def test_eager_and_sliced_processors_are_seen_too_and_shared_by_all_layers(unet, inputs, processor):
    found = with_processor(unet, processor, inputs)
    for name, expected in eager(unet, inputs).items():
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-5)


def test_xformers_processor_is_seen(unet, inputs, monkeypatch):
    """Its kernel needs a GPU; the processor around it is diffusers' own, and is what is watched."""

    class Ops:
        @staticmethod
        def memory_efficient_attention(query, key, value, attn_bias=None, op=None, scale=None):
            return probabilities(query, key, scale) @ value

    monkeypatch.setattr(host, "xformers", type("Stub", (), {"ops": Ops}), raising=False)
    found = with_processor(unet, host.XFormersAttnProcessor(), inputs)
    for name, expected in eager(unet, inputs).items():
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-5)


def test_a_mask_that_cannot_be_seen_is_refused(unet, inputs):
    layers = choose(cross_attention_layers(unet), GRID, "mid_block")
    before = unet.attn_processors
    unet.set_attn_processor(host.XFormersAttnProcessor())
    try:
        with pytest.raises(UnsupportedError, match="masks the text"), recording(Recorder(layers, GRID, 7)):
            layers[0].module(torch.randn(2, 12, 16), inputs[2], attention_mask=torch.zeros(2, 1, 7))
    finally:
        unet.set_attn_processor(before)


def test_a_processor_that_cannot_be_seen_is_named(unet, inputs):
    class Linear:
        def __call__(self, attn, hidden_states, *args, **kwargs):
            return hidden_states

    with pytest.raises(UnsupportedError, match="Linear computes it in a way"):
        with_processor(unet, Linear(), inputs)


def test_stopping_early_leaves_the_rest_unrun(unet, inputs):
    layers = choose(cross_attention_layers(unet), GRID, "down_blocks.0")
    ran = []
    hook = unet.mid_block.register_forward_hook(lambda *args: ran.append(1))
    try:
        recorder = Recorder(layers, GRID, 7, stop=True)
        with torch.no_grad(), recording(recorder), pytest.raises(AllRecorded):
            unet(*inputs)
    finally:
        hook.remove()
    assert not ran
    assert list(recorder.maps.layers) == [layer.name for layer in layers]


def test_processors_are_the_same_objects_of_the_same_class_after_an_exception(unet, inputs):
    before = {name: (processor, type(processor)) for name, processor in unet.attn_processors.items()}
    layers = cross_attention_layers(unet)
    with pytest.raises(KeyboardInterrupt), recording(Recorder(layers, GRID, 7)):
        raise KeyboardInterrupt
    after = {name: (processor, type(processor)) for name, processor in unet.attn_processors.items()}
    assert before == after


def test_maps_stay_in_the_graph(unet, inputs):
    sample = inputs[0].clone().requires_grad_(True)
    maps, _ = record(unet, (sample, *inputs[1:]), "down_blocks.1")
    (gradient,) = torch.autograd.grad(next(iter(maps.values()))[..., 2].sum(), sample)
    assert gradient.abs().sum() > 0


def test_boolean_and_additive_masks_mean_the_same():
    query, key = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8)
    allowed = torch.tensor([True, True, False, True, False])
    additive = torch.zeros(5).masked_fill(~allowed, float("-inf"))
    found = probabilities(query, key, None, allowed)
    torch.testing.assert_close(found, probabilities(query, key, None, additive))
    assert not found[..., [2, 4]].any()
    expected = (query @ key.transpose(-1, -2) / 8**0.5)[..., allowed].softmax(-1)
    torch.testing.assert_close(found[..., allowed], expected)


def test_half_precision_inputs_give_float32_probabilities():
    query, key = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 5, 8)
    found = probabilities(query.bfloat16(), key.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, probabilities(query, key), atol=0.02, rtol=0.05)
