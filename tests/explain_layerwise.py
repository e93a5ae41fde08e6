"""Relevance carried back through one function, and random operands for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from heedful.explain.lrp import lrp
from hypothesis import strategies as st
from torch import Tensor


def back(run: Callable[..., Tensor], relevance: Tensor | None, *operands: Tensor) -> list[Tensor]:
    """Relevance of the operands, for a relevance of the result (all ones, if none is given)."""
    leaves = [each.detach().clone().requires_grad_() for each in operands]
    with lrp():
        value = run(*leaves)
    with torch.no_grad():
        torch.testing.assert_close(value.detach(), run(*operands), rtol=0, atol=0)
    return list(
        torch.autograd.grad(value, leaves, torch.ones_like(value) if relevance is None else relevance)
    )


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


seeds = st.integers(0, 2**31)


def close(found: Tensor, wanted: np.ndarray, tolerance: float = 1e-8) -> None:
    np.testing.assert_allclose(
        found.detach().numpy(), wanted, rtol=tolerance, atol=tolerance * abs(wanted).max()
    )
