"""Asks an adapter as `explain` does, and what must hold of every adapter's answer."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from explain_tiny_more import one
from heedful.explain.capture import Capture, capture
from heedful.explain.models import Family, Reading, family_of
from heedful.explain.models.family import Target
from heedful.explain.wiring import Site
from torch import Tensor, nn


@dataclass(frozen=True)
class Asked:
    """One forward, and what the adapter read of it."""

    family: Family
    seen: Capture
    outputs: Any
    reading: Reading


def ask(
    model: nn.Module, inputs: dict[str, Any], target: Target = None, watch: tuple[str, ...] = ()
) -> Asked:
    """Check, capture, read."""
    family = family_of(model)
    family.check(model, inputs)
    with capture(model, family.sites(model), watch=(*family.watches(model), *watch)) as seen:
        outputs = model(**inputs)
        reading = family.read(model, inputs, outputs, seen, target)
    return Asked(family, seen, outputs, reading)


def called_sites(model: nn.Module, inputs: dict[str, Any]) -> list[Site]:
    """The attentions of the adapter in the order in which a plain forward calls their modules."""
    order: list[Site] = []
    counts: Counter[str] = Counter()

    def note(name: str) -> Any:
        def hook(*_: object) -> None:
            order.append(Site(name, counts[name]))
            counts[name] += 1

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name in dict.fromkeys(site.module for site in family_of(model).sites(model)):
            handle = model.get_submodule(name).register_forward_pre_hook(note(name))
            stack.callback(handle.remove)
        model(**inputs)
    return order


def before_dropout(model: nn.Module, inputs: dict[str, Any], names: dict[Site, str]) -> dict[Site, Tensor]:
    """What enters the dropouts that follow each softmax, for models that do not return their attention."""
    found: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        return lambda _module, args: found.setdefault(name, []).append(args[0])

    with ExitStack() as stack, torch.no_grad():
        for name in set(names.values()):
            stack.callback(model.get_submodule(name).register_forward_pre_hook(hook(name)).remove)
        model(**inputs)
    return {site: found[name][site.call] for site, name in names.items()}


def assert_equal_attention(seen: Capture, expected: dict[Site, Tensor]) -> None:
    """Every map is there, and is the one the model made."""
    assert set(seen.attention) == set(expected)
    for site, wanted in expected.items():
        torch.testing.assert_close(
            seen.attention[site].detach(), wanted.detach(), msg=lambda text, s=site: f"{s}: {text}"
        )


def assert_reads(reading: Reading, hidden: Tensor, stream: str) -> None:
    """The scores' slopes on the final tokens of a stream are zero but where they are said to be read."""
    (readout,) = reading.readouts
    assert readout.stream == stream
    assert readout.weights.shape == (len(reading.scores), hidden.shape[1])
    torch.testing.assert_close(readout.weights.sum(-1), torch.ones(len(reading.scores)))
    for row, score in enumerate(reading.scores):
        (slope,) = torch.autograd.grad(score, hidden, retain_graph=True)
        entry = row if len(hidden) > 1 else 0
        assert torch.equal(slope[entry].ne(0).any(-1), readout.weights[row] > 0)
        slope[entry] = 0
        assert not slope.any()


def assert_two_are_two_singles(model: nn.Module, inputs: dict[str, Any], target: Target = None) -> None:
    """A batch of two is read as each alone is."""
    both = ask(model, inputs, target)
    assert (len(both.reading.scores), len(both.reading.shared)) == (2, 0)
    for row in range(2):
        alone = ask(model, one(inputs, row), target)
        torch.testing.assert_close(
            alone.reading.scores, both.reading.scores[row : row + 1], atol=1e-4, rtol=1e-4
        )
        assert alone.reading.targets == both.reading.targets[row : row + 1]
        assert torch.equal(alone.reading.readouts[0].weights[0], both.reading.readouts[0].weights[row])
        for mine, theirs in zip(alone.reading.segments, both.reading.segments, strict=True):
            assert (mine.kind, mine.stream, mine.positions, mine.grid) == (
                theirs.kind, theirs.stream, theirs.positions, theirs.grid,
            )  # fmt: skip
            assert (mine.mask is None) == (theirs.mask is None)
            assert mine.mask is None or torch.equal(mine.mask[0], theirs.mask[row])
        for site, maps in both.seen.attention.items():
            torch.testing.assert_close(alone.seen.attention[site][0], maps[row], atol=1e-4, rtol=1e-4)
