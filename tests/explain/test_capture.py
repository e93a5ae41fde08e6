"""Attention is seen whole, on every kind of model, and nothing of the model changes."""

from __future__ import annotations

import pytest
import torch
from explain_oracles_capture import EVERY, Case
from heedful.explain.capture import capture

every = pytest.mark.parametrize(
    ("make", "attention"), EVERY, ids=lambda each: getattr(each, "__name__", each)
)


def logits(case: Case) -> torch.Tensor:
    with torch.no_grad():
        return case.score(case.model(**case.inputs))


@every
def test_capture_leaves_the_answer_as_it_is(make, attention):
    case = make(attention)
    before = logits(case)
    with capture(case.model) as seen:
        after = case.score(case.model(**case.inputs))
    assert len(seen.attention) == case.count
    torch.testing.assert_close(after.detach(), before, rtol=1e-5, atol=1e-6)
    seen.gradients(after)
