"""Norm ratios of skip and branch: the right tensors, on every family, or an error."""

from __future__ import annotations

import pytest
import torch
from explain_tiny import images, single, tiny
from heedful.emoji import load_classifier
from heedful.explain.errors import CaptureError, InputError
from heedful.explain.probing.norms import norm_ratio, norm_ratios
from heedful.explain.probing.tower import tower_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10))
def test_ratio_equals_the_slow_twin(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    skip, branch = torch.randn(2, 2, 3, 4, generator=generator)
    found = norm_ratio(scale * skip, branch)
    for place in range(6):
        one, other = skip.double().flatten(0, 1)[place], branch.double().flatten(0, 1)[place]
        wanted = scale * sum(float(x) ** 2 for x in one) ** 0.5 / sum(float(x) ** 2 for x in other) ** 0.5
        assert float(found.flatten()[place]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "dinov2_registers", "clip", "siglip"])
def test_ratios_are_of_what_the_layers_see(name: str) -> None:
    """The skip of attention is what its norm is given, that of the feed-forward part what the next gets."""
    model, inputs = tiny(name)
    tower = tower_of(model)
    found = norm_ratios(model, inputs, batch_size=1)
    seen: list[Tensor] = []
    norms = [
        module
        for layer in tower.layers
        for child, module in tower.module.get_submodule(layer).named_children()
        if isinstance(module, nn.LayerNorm)
    ]
    handles = [norm.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for norm in norms]
    with torch.no_grad():
        tower.module(**tower.inputs(inputs))
    for handle in handles:
        handle.remove()
    # two norms a layer, one before each branch: what lies between two of them is what a branch has added
    for layer in range(len(tower.layers) - 1):
        entering, between, leaving = seen[2 * layer : 2 * layer + 3]
        attended = (entering.norm(dim=-1) / (between - entering).norm(dim=-1)).mean(0)
        fed = (between.norm(dim=-1) / (leaving - between).norm(dim=-1)).mean(0)

        torch.testing.assert_close(found.attention[layer], attended, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(found.feed_forward[layer], fed, rtol=1e-2, atol=1e-3)
    assert found.specials == tower.specials
    assert found.attention.shape == (3, tower.specials + 15)


def test_the_mean_is_over_images() -> None:
    model, inputs = tiny("vit")
    told: list[tuple[int, int]] = []
    both = norm_ratios(model, inputs, batch_size=1, progress=lambda done, of: told.append((done, of)))
    each = [norm_ratios(model, single(inputs, item)).attention for item in (0, 1)]

    torch.testing.assert_close(both.attention, (each[0] + each[1]) / 2)
    assert told == [(1, 2), (2, 2)]


def test_layers_without_such_skips_are_an_error() -> None:
    model, inputs = tiny("vit")
    layer = model.vit.layers[1]
    handle = layer.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(CaptureError, match=r"layers\.1 of ViTForImageClassification is not what enters it"):
        norm_ratios(model, inputs)
    handle.remove()
    norm_ratios(model, inputs)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="differ"):
        norm_ratio(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(InputError, match="adds nothing"):
        norm_ratio(torch.ones(2, 3), torch.zeros(2, 3))
    with pytest.raises(InputError, match="got 0"):
        norm_ratios(*tiny("vit"), batch_size=0)


@pytest.mark.gpu
def test_half_precision_on_cuda_agrees_with_the_cpu() -> None:
    pixels = {"pixel_values": images(64, 64)}
    wanted, found = norm_ratios(load_classifier("cpu"), pixels), norm_ratios(load_classifier(), pixels)

    torch.testing.assert_close(found.attention, wanted.attention, rtol=0.05, atol=0.05)
