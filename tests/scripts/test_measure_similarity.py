"""What the page on similarity says of several seeds is computed as it says."""

from __future__ import annotations

import math

import torch
from explain_tiny import images, tiny
from heedful.explain.probing.similarity import similarity
from heedful.scripts.measure_similarity import Pixels, _over, _pooled


def test_an_interval_over_seeds_is_students() -> None:
    half = 4.3027 * 1.0 / math.sqrt(3)  # the quantile .975 of t with two degrees of freedom
    assert _over([1.0, 2.0, 3.0], most=9.0) == f"2.00 ({2 - half:.2f} to {2 + half:.2f})"
    assert _over([0.9, 1.0], 1) == "0.9 (0.3 to 1.0)"


def test_seeds_are_pooled_as_minibatches_are() -> None:
    model, pixels = tiny("vit")[0], images(batch=10)
    parts = [similarity(model, Pixels().eval(), [one], second_layers="pixels") for one in pixels.split(5)]
    whole = similarity(model, Pixels().eval(), pixels.split(5), second_layers="pixels")
    found = _pooled(parts)
    assert torch.equal(found.cka, whole.cka)
    assert found.images == 10
