"""The loss of RobustViT equals one written by hand; its gradients equal differences of that, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import explain_tiny
import pytest
import torch
import torch.nn.functional as F
from heedful.explain import explain
from heedful.explain.debiasing.examples import MaskedImages
from heedful.explain.debiasing.objective import objective
from heedful.explain.debiasing.relevance import look
from heedful.explain.debiasing.settings import DebiasSettings
from torch import Tensor, nn
from torch.func import functional_call

MODELS = ("vit", "deit", "deit_teacher", "dinov2", "dinov2_registers")
OPTIONS = {"interpolate_pos_encoding": True}
WEIGHT = "vit.layers.1.attention.q_proj.weight"


def options(name: str) -> dict[str, bool]:
    return {} if name.startswith("dino") else OPTIONS


def batch_for(pixels: Tensor) -> MaskedImages:
    masks = torch.zeros(len(pixels), *pixels.shape[2:], dtype=pixels.dtype)
    masks[:, 4:17, 9:30] = 1
    return MaskedImages(pixels, masks, torch.tensor([1, 3]))


def written_by_hand(
    model: nn.Module, weights: dict[str, Tensor], batch: MaskedImages, gradients: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The ViT of explain_tiny layer by layer, rule and losses step by step: the loss, and each dy/dA.

    With `gradients` these stand for dy/dA, whatever the weights are.
    """
    config: Any = model.config
    heads, hidden = config.num_attention_heads, config.hidden_size
    with torch.no_grad():
        tokens = model.get_submodule("vit.embeddings")(batch.pixels, interpolate_pos_encoding=True)

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        centred = value - value.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + config.layer_norm_eps).sqrt()
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def split(value: Tensor) -> Tensor:
        return value.unflatten(-1, (heads, hidden // heads)).transpose(1, 2)

    maps = []
    for index in range(config.num_hidden_layers):
        name = f"vit.layers.{index}"
        normed = norm(f"{name}.layernorm_before", tokens)
        query, key, value = (split(linear(f"{name}.attention.{one}_proj", normed)) for one in ("q", "k", "v"))
        scores = query @ key.transpose(-1, -2) / math.sqrt(hidden // heads)
        maps.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
        mixed = (maps[-1] @ value).transpose(1, 2).flatten(2)
        tokens = tokens + linear(f"{name}.attention.o_proj", mixed)
        inner = linear(f"{name}.mlp.fc1", norm(f"{name}.layernorm_after", tokens))
        tokens = tokens + linear(f"{name}.mlp.fc2", F.gelu(inner))
    logits = linear("classifier", norm("vit.layernorm", tokens)[:, 0])
    best = logits.amax(1)
    if gradients is None:
        gradients = [each.detach() for each in torch.autograd.grad(best.sum(), maps, retain_graph=True)]
    relevance = torch.eye(maps[0].shape[-1], dtype=logits.dtype).repeat(len(logits), 1, 1)
    for attention, gradient in zip(maps, gradients, strict=True):
        relevance = relevance + (attention * gradient).clamp(min=0).mean(1) @ relevance
    grid = relevance[:, 0, 1:].reshape(len(logits), 1, 3, 5)
    large = F.interpolate(grid, size=batch.masks.shape[1:], mode="bilinear")[:, 0]
    whole = torch.zeros((), dtype=logits.dtype)
    for row, mask in zip(large, batch.masks, strict=True):
        seen = (row - row.min()) / (row.max() - row.min())
        background = (seen * (1 - mask)).square().mean() / len(large)
        foreground = (seen * mask - mask).square().mean() / len(large)
        whole = whole + 0.8 * (2.0 * background + 0.3 * foreground)
    surprise = (logits.exp().sum(1).log() - best).mean()
    return whole + 0.2 * surprise, gradients


def vit() -> tuple[nn.Module, dict[str, Tensor], MaskedImages]:
    model, inputs = explain_tiny.tiny("vit")
    model = model.double()
    weights = {name: each.detach().clone() for name, each in model.named_parameters()}
    return model, weights, batch_for(inputs["pixel_values"].double())


def difference(loss: Callable[[dict[str, Tensor]], Tensor], weights: dict[str, Tensor], at: int) -> float:
    """A central difference of the loss by one number of `WEIGHT`."""
    ends = []
    for step in (1e-5, -1e-5):
        moved = {name: each.clone() for name, each in weights.items()}
        moved[WEIGHT].view(-1)[at] += step
        ends.append(loss(moved).item())
    return (ends[0] - ends[1]) / 2e-5


@pytest.mark.parametrize("second_order", [False, True])
def test_loss_and_gradient_equal_what_is_written_by_hand(second_order: bool) -> None:
    model, weights, batch = vit()
    for each in weights.values():
        each.requires_grad_()
    by_hand, constant = written_by_hand(model, weights, batch)
    found, _ = objective(model, batch, DebiasSettings(second_order=second_order), options=OPTIONS)
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-9)
    found.backward()
    gradient = model.get_parameter(WEIGHT).grad
    assert gradient is not None

    def loss(moved: dict[str, Tensor]) -> Tensor:
        return written_by_hand(model, moved, batch, None if second_order else constant)[0]

    for at in (0, 37, 255):
        expected = difference(loss, weights, at)
        assert gradient.view(-1)[at].item() == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_the_orders_differ() -> None:
    model, _, batch = vit()
    found = []
    for second_order in (False, True):
        model.zero_grad()
        settings = DebiasSettings(second_order=second_order)
        objective(model, batch, settings, options=OPTIONS)[0].backward()
        gradient = model.get_parameter(WEIGHT).grad
        assert gradient is not None
        found.append(gradient.clone())
    assert (found[0] - found[1]).norm() > 0.01 * found[0].norm()


@pytest.mark.parametrize("settings", [
    DebiasSettings(second_order=True), DebiasSettings(method="gradmask"), DebiasSettings(method="rrr"),
], ids=["relevance", "gradmask", "rrr"])  # fmt: skip
def test_second_order_gradients_pass_gradcheck(settings: DebiasSettings) -> None:
    model, _, batch = vit()
    start = model.get_parameter(WEIGHT).detach()[:1].clone().requires_grad_()

    def loss(rows: Tensor) -> Tensor:
        whole = torch.cat([rows, model.get_parameter(WEIGHT).detach()[1:]])

        def run(**inputs: Any) -> Any:
            return functional_call(model, {WEIGHT: whole}, kwargs=inputs)

        return objective(model, batch, settings, options=OPTIONS, run=run)[0]

    assert torch.autograd.gradcheck(loss, (start,), eps=1e-6, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_the_map_is_that_of_the_generic_rule(name: str, training: bool) -> None:
    model, inputs = explain_tiny.tiny(name)
    found = look(model, inputs, training=training)
    expected = explain(model, inputs, method="generic").image
    torch.testing.assert_close(found.relevance.detach(), expected, atol=1e-6, rtol=1e-4)
    assert found.targets.tolist() == model(**inputs).logits.argmax(1).tolist()
    wants = {each.requires_grad for each in model.parameters()}
    assert wants == {True}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["relevance", "gradmask", "rrr"])
def test_every_family_gets_a_gradient_at_every_layer(name: str, method: str) -> None:
    model, inputs = explain_tiny.tiny(name)
    batch = batch_for(inputs["pixel_values"])
    settings = DebiasSettings(method=method)  # type: ignore[arg-type]
    loss, parts = objective(model, batch, settings, options=options(name))
    loss.backward()
    assert math.isfinite(loss.item())
    assert set(parts) in ({"background", "foreground", "confidence"}, {"label", "penalty"})
    matrices = [each for part, each in model.named_parameters() if each.ndim == 2 and "layer" in part]
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in matrices)


@pytest.mark.gpu
def test_on_cuda_in_float16_both_orders_are_finite() -> None:
    model, inputs = explain_tiny.tiny("vit")
    batch = batch_for(inputs["pixel_values"]).to(torch.device("cuda"))
    model.cuda()
    for settings in (DebiasSettings(), DebiasSettings(second_order=True), DebiasSettings(method="gradmask")):
        with torch.autocast("cuda", torch.float16):
            loss, _ = objective(model, batch, settings, options=OPTIONS)
        model.zero_grad()
        loss.backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
