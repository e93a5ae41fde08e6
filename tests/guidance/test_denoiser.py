"""A probe takes the conditional rows, runs no further than it must, and costs what the design says."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from heedful.guidance.denoiser import DenoiserCall, by_name, frozen, take
from heedful.guidance.layers import choose, cross_attention_layers
from tiny import tiny_unet
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="module")
def stable_diffusion_1():
    """The denoiser of Stable Diffusion 1 in its true size: operations are counted, not done."""
    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()


def counted(action):
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def test_a_probe_of_stable_diffusion_1_costs_at_most_a_forward(stable_diffusion_1):
    unet = stable_diffusion_1
    latents, timestep = torch.randn(1, 4, 64, 64, device="meta"), torch.ones(1, device="meta")
    text = torch.randn(1, 77, 768, device="meta")
    call = DenoiserCall(unet, {"sample": latents, "timestep": timestep, "encoder_hidden_states": text})
    layers = choose(cross_attention_layers(unet), call.grid)
    assert {layer.grid(call.grid) for layer in layers} == {(16, 16)}

    def probe(backward):
        # FlopCounterMode cannot follow a gradient to a leaf; times one, the latents are none.
        leaf = torch.randn(1, 4, 64, 64, device="meta", requires_grad=True)
        maps = call.attention(leaf * 1.0, layers)
        loss = sum(layer.sum() for layer in maps.layers.values())
        if backward:
            torch.autograd.grad(loss, leaf)

    with frozen(unet):
        with torch.no_grad():
            forward = counted(lambda: unet(latents, timestep, text))
        seen = counted(lambda: probe(backward=False)) / forward
        whole = counted(lambda: probe(backward=True)) / forward
    assert 0.45 < seen < 0.52
    assert 0.9 < whole <= 1.06


def test_rows_are_taken_wherever_there_are_as_many():
    tree = {"a": torch.arange(4), "b": [torch.arange(8).reshape(4, 2), torch.arange(3)], "c": (2, None)}
    found = take(tree, torch.tensor([2, 3]), 4)
    assert found["a"].tolist() == [2, 3]
    assert found["b"][0].tolist() == [[4, 5], [6, 7]]
    assert found["b"][1].tolist() == [0, 1, 2]
    assert found["c"] == (2, None)


def test_arguments_are_told_apart_by_name():
    unet = tiny_unet()
    sample, timestep, text = torch.zeros(1), torch.zeros(()), torch.ones(1)
    named = by_name(unet, (sample, timestep), {"encoder_hidden_states": text, "return_dict": False})
    assert named == {
        "sample": sample,
        "timestep": timestep,
        "encoder_hidden_states": text,
        "return_dict": False,
    }


def test_the_gradient_is_that_of_the_unscaled_latents():
    """Against a finite difference of the recorded attention, with an input scale as Euler has it."""
    torch.manual_seed(0)
    unet = tiny_unet().eval().double()
    latents = torch.randn(1, 4, 16, 12, dtype=torch.float64) * 5
    arguments = {"timestep": torch.tensor(500), "encoder_hidden_states": torch.randn(1, 7, 16).double()}
    call = DenoiserCall(unet, {"sample": latents * 0.2, **arguments}, scale=0.2)
    layers = choose(cross_attention_layers(unet), call.grid, "mid_block")

    def mass(at):
        maps = next(iter(call.attention(at, layers).layers.values()))
        return maps[0, :, 1, 1, 3].sum()

    direction = torch.randn_like(latents)
    leaf = latents.clone().requires_grad_(True)
    slope = (torch.autograd.grad(mass(leaf), leaf)[0] * direction).sum().item()
    with torch.no_grad():
        change = (mass(latents + 0.05 * direction) - mass(latents - 0.05 * direction)).item() / 0.1
    assert slope == pytest.approx(change, rel=0.05)


def test_latents_are_told_from_what_the_denoiser_was_given():
    call = DenoiserCall(tiny_unet(), {"sample": torch.full((2, 4, 3, 5), 0.5)}, scale=0.25)
    assert torch.equal(call.latents, torch.full((2, 4, 3, 5), 2.0))
    assert call.grid == (3, 5)
    assert len(call.rows(torch.tensor([1])).sample) == 1


def test_parameters_are_frozen_for_the_block_only():
    unet = tiny_unet()
    unet.conv_in.requires_grad_(False)
    before = [parameter.requires_grad for parameter in unet.parameters()]
    with pytest.raises(KeyboardInterrupt), frozen(unet):
        assert not any(parameter.requires_grad for parameter in unet.parameters())
        raise KeyboardInterrupt
    assert [parameter.requires_grad for parameter in unet.parameters()] == before
