"""The page on adapters: its code runs as it stands, and its adapter keeps the promises it asks of others."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from explain_tiny import images, read, seen_by, single
from heedful.explain.capture import capture
from heedful.explain.errors import InputError, TargetError
from heedful.explain.models import families, family_of, registry

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adapters.md"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's code leaves behind, run in order; what it registers is forgotten after the test."""
    monkeypatch.setattr(registry, "_families", list(registry._families))
    found: dict[str, Any] = {}
    with redirect_stdout(StringIO()) as printed:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), found)
    return {**found, "printed": printed.getvalue().splitlines()}


def test_the_code_of_the_page_explains_a_model(page: dict[str, Any]) -> None:
    relevance = page["relevance"]

    assert page["printed"] == ["torch.Size([2, 4, 4])", "('cat', 'cat')"]
    assert relevance.image.abs().sum(dim=(1, 2)).min() > 0
    assert not torch.allclose(relevance.image[0], relevance.image[1])


def test_the_adapter_of_the_page_keeps_what_the_page_asks(page: dict[str, Any]) -> None:
    model, inputs = page["model"], {"pixel_values": images(32, 32)}

    family, outputs, seen, reading = read(model, inputs, 2)
    with capture(model) as alone:
        model(**inputs)

    hidden = seen.outputs[family.layers(model)["image"][-1]]
    assert isinstance(family, page["ClipClassifier"])
    assert list(alone.attention) == list(family.sites(model))
    assert torch.equal(reading.scores, outputs.logits[:, 2])
    assert torch.equal(seen_by(reading.scores.sum(), hidden), reading.readouts[0].weights > 0)
    again = family.layer_scores(model, inputs, outputs, reading, reading.readouts[0], hidden)
    torch.testing.assert_close(again, reading.scores)
    for item in range(2):
        torch.testing.assert_close(read(model, single(inputs, item), 2)[3].scores[0], reading.scores[item])


@pytest.mark.parametrize("method", ["generic", "rollout", "legrad", "attribution", "gradient_x_input"])
def test_other_methods_take_the_adapter_of_the_page(page: dict[str, Any], method: str) -> None:
    relevance = page["explain"](page["model"], {"pixel_values": images(32, 32)}, method=method)

    assert relevance.image.shape == (2, 4, 4)
    assert relevance.image.abs().sum() > 0


def test_the_adapter_of_the_page_refuses_what_is_not_there(page: dict[str, Any]) -> None:
    model = page["model"]

    with pytest.raises(InputError, match="pixel_values must be a tensor"):
        family_of(model).check(model, {"pixel_values": images(24, 40)})
    with pytest.raises(TargetError, match="a class from 0 to 2, or one an image, got 3"):
        read(model, {"pixel_values": images(32, 32)}, 3)


def test_the_page_names_every_family() -> None:
    text = PAGE.read_text(encoding="utf-8")

    missing = [family.name for family in families() if family.name.split()[0] not in text]
    assert not missing
