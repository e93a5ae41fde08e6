"""Masks are drawn in proportion to what they should be, and a masked auto-encoder takes them as they are."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from heedful.explain import InputError
from heedful.explain.probing.masking import masked_patches, masking_order, tilted
from heedful.explain.probing.pretraining import (
    Budget,
    Pretraining,
    encoded,
    held_out_loss,
    pretrain,
    probe_accuracy,
    steps_to,
)
from hypothesis import given
from hypothesis import strategies as st
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

TINY = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16, "image_size": 16, "patch_size": 4,
}  # fmt: skip
SHORT = Budget(steps=6, batch=4, rate=1e-2, warmup=2, every=2)


def tiny_mae(seed: int = 0) -> ViTMAEForPreTraining:
    torch.manual_seed(seed)
    return ViTMAEForPreTraining(ViTMAEConfig(**TINY))


def pixels(count: int, seed: int = 1) -> torch.Tensor:
    """Noise on a ground that all images share, so that a few steps learn something."""
    return 1.0 + 0.3 * torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def weights(count: int, seed: int = 2) -> torch.Tensor:
    return torch.rand(count, 16, generator=torch.Generator().manual_seed(seed)).pow(4)


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=9),
    st.floats(-20, 20),
)
def test_tilting_is_what_its_formula_says(row: list[float], strength: float) -> None:
    found = tilted(torch.tensor([row], dtype=torch.float64), strength)[0].tolist()

    top = max(row)
    by_hand = [math.exp(strength * (each / top if top > 1e-300 else 0.0)) for each in row]
    assert found == pytest.approx([each / sum(by_hand) for each in by_hand], rel=1e-9)


def test_the_fullest_patch_is_masked_e_to_the_s_times_as_readily() -> None:
    found = tilted(torch.tensor([[0.0, 1.0, 4.0]]), 2.0)[0]

    assert found[2] / found[0] == pytest.approx(math.exp(2), rel=1e-5)
    assert torch.equal(tilted(torch.zeros(1, 4), 3.0), torch.full((1, 4), 0.25))


def test_masks_are_drawn_in_proportion_without_replacement() -> None:
    shares = [0.5, 0.3, 0.15, 0.05]
    draws = 20_000

    order = masking_order(torch.tensor([shares]).expand(draws, 4), torch.Generator().manual_seed(0))
    hidden = masked_patches(order, 0.5).double().mean(0)

    by_hand = [0.0] * 4
    for first, second in permutations(range(4), 2):
        chance = shares[first] * shares[second] / (1 - shares[first])
        by_hand[first] += chance
        by_hand[second] += chance
    assert hidden.tolist() == pytest.approx(by_hand, abs=0.012)
    assert hidden.tolist() != pytest.approx([0.5] * 4, abs=0.1)


def test_the_model_hides_what_was_drawn() -> None:
    model = tiny_mae().eval()
    order = masking_order(tilted(weights(3)), torch.Generator().manual_seed(4))

    with torch.no_grad():
        found = model(pixel_values=pixels(3), noise=order).mask.bool()

    assert torch.equal(found, masked_patches(order, model.config.mask_ratio))


def test_a_pretraining_lowers_the_loss_and_differs_by_its_masks_alone() -> None:
    images, full = pixels(12), weights(12)
    held = pixels(6, 7), weights(6, 8)
    runs = {}
    for strength in (0.0, 4.0):
        model, seen = tiny_mae(), []
        course = pretrain(
            model, images, full, held, strength=strength, budget=SHORT, strengths=(0.0, 4.0),
            shown=lambda step, whole, seen=seen: seen.append((step, whole)),
        )  # fmt: skip
        runs[strength] = course
        assert seen[-1] == (6, 6)
        assert course.steps == (2, 4, 6)
        assert course.losses[-1] < held_out_loss(tiny_mae(), *held)
        assert course.masked[0.0] == course.losses[-1] != course.masked[4.0]

    assert runs[0.0].losses != runs[4.0].losses
    again = pretrain(tiny_mae(), images, full, held, strength=0.0, budget=SHORT)
    assert again.losses == runs[0.0].losses
    assert again.settings["ratio"] == 0.75
    assert "torch" in again.versions


def test_features_hide_nothing_and_leave_the_model_as_it_was() -> None:
    model = tiny_mae()

    found = encoded(model, pixels(5), batch=2)
    again = encoded(model, pixels(5), batch=5)

    assert found.shape == (5, 16)
    assert torch.allclose(found, again, atol=1e-5)
    assert model.config.mask_ratio == 0.75


def test_a_linear_probe_finds_what_is_linear_and_no_more() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(120, 4, generator=generator)
    told = (features[:, 0] > 0).long()
    chance = torch.randint(2, (120,), generator=generator)

    right = probe_accuracy((features[:80], told[:80]), (features[80:], told[80:]))
    wrong = probe_accuracy((features[:80], chance[:80]), (features[80:], chance[80:]))

    assert right.shape == (40,)
    assert right.mean() > 0.9 > 0.75 > wrong.mean()


def test_the_step_that_reaches_a_loss_is_found_between_two_looks() -> None:
    course = Pretraining(0.0, (10, 20, 30), (1.0, 0.6, 0.5), {})

    assert steps_to(course, 0.8) == pytest.approx(15)
    assert steps_to(course, 1.5) == 10
    assert steps_to(course, 0.5) == 30
    assert steps_to(course, 0.4) == math.inf


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="for each of 16 patches of 4 images"):
        pretrain(tiny_mae(), pixels(4), weights(4)[:, :9], (pixels(2), weights(2)), budget=SHORT)
    plain = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16))
    with pytest.raises(InputError, match=r"wanted a masked auto-encoder.*got ViTModel"):
        encoded(plain, pixels(2))
    with pytest.raises(InputError, match="strength"):
        tilted(weights(1), 21.0)
    with pytest.raises(InputError, match="not negative"):
        tilted(-weights(1))
    with pytest.raises(InputError, match="not all of them 0"):
        masking_order(torch.zeros(1, 4))
    with pytest.raises(InputError, match="leaves 0 to see"):
        masked_patches(weights(1), 0.99)
    with pytest.raises(InputError, match="steps must be a whole number of at least 1"):
        replace(SHORT, steps=0)
    with pytest.raises(InputError, match="rate"):
        replace(SHORT, rate=0.0)


@pytest.mark.gpu
def test_a_gpu_trains_in_half_precision() -> None:
    model = tiny_mae().cuda()

    course = pretrain(model, pixels(12), weights(12), (pixels(4, 7), weights(4, 8)), budget=SHORT)

    assert np.isfinite(course.losses).all()
    assert course.losses[-1] < course.losses[0] * 1.2
