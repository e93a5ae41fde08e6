"""Gradient checkpointing as diffusers has it: the same gradient on less memory, all switches as before."""

from __future__ import annotations

import pytest
import torch
from guiding import CAT_AND_FROG, run
from heedful.guidance import checkpointing, denoiser, guide
from heedful.guidance.denoiser import DenoiserCall, frozen
from heedful.guidance.layers import choose, cross_attention_layers
from tiny import tiny_unet


def gradient_and_saved(unet, device="cpu", dtype=torch.float32):
    """The gradient of one probe, and how many bytes the graph kept for it."""
    torch.manual_seed(0)
    arguments = {"timestep": torch.tensor(500), "encoder_hidden_states": torch.randn(2, 7, 16)}
    latents = torch.randn(2, 4, 32, 24)
    named = {name: one.to(device, dtype) if one.ndim else one for name, one in arguments.items()}
    call = DenoiserCall(unet, {"sample": latents.to(device, dtype), **named}, scale=0.5)
    layers = choose(cross_attention_layers(unet), call.grid)
    saved = []
    leaf = latents.to(device).requires_grad_(True)
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda one: saved.append(one.nbytes) or one, lambda one: one
    )
    with frozen(unet):
        with keep:
            maps = call.attention(leaf, layers)
        loss = sum(layer[..., 2].square().sum() for layer in maps.layers.values())
        return torch.autograd.grad(loss, leaf)[0], sum(saved)


def switches(unet):
    return [getattr(part, "gradient_checkpointing", None) for part in unet.modules()]


def test_the_gradient_is_the_same_on_less_memory():
    unet = tiny_unet().eval()
    plain, all_saved = gradient_and_saved(unet)
    unet.enable_gradient_checkpointing()
    before = switches(unet)
    again, saved = gradient_and_saved(unet)
    assert torch.equal(plain, again)
    assert saved < 0.7 * all_saved
    assert any(before)
    assert switches(unet) == before


def test_parts_that_are_read_keep_their_graph():
    unet = tiny_unet()
    unet.enable_gradient_checkpointing()
    layers = choose(cross_attention_layers(unet), (32, 24), "mid_block")
    with denoiser.checkpointed(unet, layers):
        switch = {name: getattr(part, "gradient_checkpointing", None) for name, part in unet.named_modules()}
    off = {name for name, on in switch.items() if on is False}
    assert {"mid_block", "mid_block.attentions.0"} <= off
    assert not any(name.startswith(("down_blocks", "up_blocks")) for name in off)


def test_a_guided_image_is_the_same(tiny_pipeline):
    images = []
    for on in (False, True):
        if on:
            tiny_pipeline.unet.enable_gradient_checkpointing()
        with guide(tiny_pipeline, CAT_AND_FROG) as session:
            images.append(run(tiny_pipeline))
        assert session.run.probes
    assert torch.equal(*images)


def test_a_compiled_denoiser_keeps_its_graph(monkeypatch):
    unet = tiny_unet().eval()
    unet.enable_gradient_checkpointing()
    before = switches(unet)
    monkeypatch.setattr(checkpointing, "is_compiled", lambda module: True)
    with pytest.raises(KeyboardInterrupt), denoiser.checkpointed(unet, ()):
        assert not any(switches(unet))
        raise KeyboardInterrupt
    assert switches(unet) == before


@pytest.mark.gpu
def test_the_gradient_is_the_same_in_half_precision():
    unet = tiny_unet().eval().to("cuda", torch.float16)
    plain, all_saved = gradient_and_saved(unet, "cuda", torch.float16)
    unet.enable_gradient_checkpointing()
    again, saved = gradient_and_saved(unet, "cuda", torch.float16)
    torch.testing.assert_close(plain, again)
    assert saved < 0.7 * all_saved
