"""What the tests of the capture share: a model captured, run plainly, and what a capture touches of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_oracles_capture import (
    EVERY,
    Case,
    multi_head,
)
from heedful.explain.capture import Capture, capture
from torch import Tensor, nn

EVERY_ONE = [each for each in EVERY if each[0] is not multi_head]


def name_of(each: Any) -> str:
    return each if isinstance(each, str) else each.__name__


every = pytest.mark.parametrize(("make", "attention"), EVERY, ids=name_of)


def captured(case: Case, **inputs: Tensor) -> tuple[Tensor, Capture]:
    with capture(case.model) as seen:
        scores = case.score(case.model(**{**case.inputs, **inputs}))
    return scores, seen


def plain(case: Case, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return case.score(case.model(**{**case.inputs, **inputs}))


def returned(outputs: Any) -> list[Tensor]:
    """Every attention that a transformers output holds, at any depth."""
    found: list[Tensor] = []
    for key, value in outputs.items():
        if key.endswith("attentions"):
            found += [each for each in value if each is not None]
        elif isinstance(value, dict):
            found += returned(value)
    return found


def state(model: nn.Module) -> list[Any]:
    """Everything of a model that a capture touches."""
    return [
        (module.training, len(module._forward_pre_hooks), len(module._forward_hooks), tuple(vars(module)))
        for module in model.modules()
    ] + [(each.requires_grad, each.grad is None) for each in model.parameters()]
