"""Every method on every family: equal to a reference of its own, or refused with the reason.

`HEEDFUL_WRITE_DOCS=1` makes the last test write docs/methods.md anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import explain_reference
import explain_reference_methods
import numpy as np
import pytest
import torch
from explain_method_table import rendered, shown_families
from explain_reference import Left, left
from explain_reference_families import HANDS
from explain_reference_methods import reference
from explain_reference_shapes import Stack
from explain_tiny import names, single, tiny
from heedful.explain import METHODS, Relevance, UnsupportedMethodError, explain
from heedful.explain.methods import RULES, Sources
from heedful.explain.models import families, family_of
from heedful.explain.relevance import prepared

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
TIGHT = 1e-5
"""Of the largest value of a map."""
REFUSED = {(name, "legrad") for name in ("detr", "lxmert", "blip", "bart")}
"""Written here once more: a cell must not fall out of the comparison by an adapter's word."""
LRP = ("attribution", "partial_lrp")
PLAIN: Mapping[str, list[dict[str, Any]]] = {
    "generic": [
        {},
        {"aggregate": False, "normalise": False},
        {"fusion": "max", "signed": True, "start_layer": 1},
    ],
    "libra": [{}],
    "attribution": [{}],
    "partial_lrp": [{}, {"signed": True}],
    "legrad": [{}, {"signed": True, "start_layer": 1}],
    "grad_cam": [{}, {"signed": True}],
    "gradient_rollout": [{}, {"normalise": True}],
    "rollout": [{}, {"fusion": "max", "start_layer": 1}],
    "raw_attention": [{}, {"head": 1, "query": 2, "layer": 0}],
    "flow": [{}],
    "gradient_flow": [{}],
    "gradient_x_input": [{}],
    "libra_gradient_x_input": [{}],
    "saliency": [{}],
    "smoothgrad": [{"samples": 2, "noise": 0.0}],
    "integrated_gradients": [{"steps": 3}],
    "occlusion": [{}],
}
"""What each method is asked for; the first is closest to its defaults."""
BETWEEN: list[dict[str, Any]] = [{"normalise": False}, {"self_in_rule_10": False}]
"""Ablations of the generic rule that only streams which attend to each other can tell."""
FURTHER: Mapping[str, dict[str, Any]] = {
    "libra": {"signed": True, "fusion": "max", "start_layer": 1},
    "attribution": {"signed": True, "fusion": "max", "start_layer": 1},
    "partial_lrp": {"layer": 0},
    "grad_cam": {"layer": -2},
    "gradient_rollout": {"normalise": True, "fusion": "max", "start_layer": 1},
    "raw_attention": {"layer": 0, "fusion": "min"},
    "flow": {"fusion": "max", "start_layer": 1},
    "gradient_flow": {"fusion": "max", "start_layer": 1},
    "integrated_gradients": {"steps": 2, "baseline": 0.5, "signed": False},
    "occlusion": {"baseline": 0.5, "signed": False},
}
CELLS = [(name, method) for name in HANDS for method in METHODS]
Maps = Mapping[str, np.ndarray]


@cache
def subject(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, dict[str, Any]]:
    model, inputs = tiny(name)
    return (model if dtype == torch.float32 else deepcopy(model).to(dtype)), inputs


def asked(name: str, method: str, settings: Mapping[str, Any], dtype: torch.dtype | None = None) -> Maps:
    """Maps of `explain`, in float64; `target` among the settings takes the place of the usual one."""
    wanted = torch.float64 if method in LRP else torch.float32
    model, inputs = subject(name, dtype or wanted)
    rest = {key: value for key, value in settings.items() if key != "target"}
    found = explain(model, inputs, settings.get("target", HANDS[name].target), method, **rest)
    return arrays(found)


def arrays(found: Relevance) -> Maps:
    return {kind: values.double().numpy() for kind, values in found.maps.items()}


def gap(found: Maps, wanted: Maps) -> float:
    """The largest difference, as a part of the largest value wanted of its map; what is NaN is not asked."""
    assert found.keys() == wanted.keys()
    parts = []
    for kind, values in wanted.items():
        assert found[kind].shape == values.shape
        there = ~np.isnan(values)
        difference, largest = np.abs(found[kind] - values)[there].max(), np.abs(values[there]).max()
        parts.append(difference / largest if largest else (np.inf if difference else 0.0))
    return max(parts)


@pytest.mark.parametrize(("name", "method"), CELLS)
def test_a_cell_equals_its_reference_or_is_refused(name: str, method: str) -> None:
    family = family_of(subject(name)[0])
    assert ((name, method) in REFUSED) == (method in family.refuses)
    if method in family.refuses:
        with pytest.raises(UnsupportedMethodError, match=re.escape(family.refuses[method])):
            asked(name, method, {})
        return
    largest: dict[str, float] = {}
    between = method == "generic" and not isinstance(HANDS[name].shapes[0], Stack)
    for number, settings in enumerate(PLAIN[method] + BETWEEN * between):
        wanted = reference(name, method, settings)
        with torch.set_grad_enabled(number > 0):  # first as under a caller's torch.no_grad()
            found = asked(name, method, settings)
        assert gap(found, wanted) < TIGHT, settings
        for kind, values in wanted.items():
            size = float(np.nanmax(np.abs(values)))
            largest[kind] = max(size, largest.get(kind, 0.0))
            if size:
                assert gap({kind: found[kind]}, {kind: values[::-1]}) > 100 * TIGHT, "inputs are told apart"
    assert all(largest.values()), "a map that is always 0 would show nothing"


@pytest.mark.parametrize("method", FURTHER)
@pytest.mark.parametrize("name", ["vit", "detr", "lxmert"])
def test_a_setting_does_what_it_says(name: str, method: str) -> None:
    found = asked(name, method, FURTHER[method])

    assert gap(found, reference(name, method, FURTHER[method])) < TIGHT
    assert gap(found, reference(name, method, PLAIN[method][0])) > 100 * TIGHT


@pytest.mark.parametrize("name", ["vit", "dinov2_registers", "detr"])
def test_the_saliency_of_pixels_may_keep_its_sign(name: str) -> None:
    signed = {"signed": True}
    assert gap(asked(name, "saliency", signed), reference(name, "saliency", signed)) < TIGHT


@pytest.mark.parametrize("name", [name for name in HANDS if HANDS[name].zero is not None])
def test_the_first_class_box_or_word_is_one(name: str) -> None:
    wanted = reference(name, "generic", {"target": 0})

    assert gap(asked(name, "generic", {"target": 0}), wanted) < TIGHT
    assert gap(asked(name, "generic", {"target": 1}), wanted) > 100 * TIGHT


@pytest.mark.parametrize("method", ["generic", "attribution", "legrad", "saliency"])
@pytest.mark.parametrize("name", HANDS)
def test_two_inputs_are_two_single_ones(name: str, method: str) -> None:
    if (name, method) in REFUSED:
        pytest.skip("refused")
    model, inputs = subject(name, torch.float64)
    both = asked(name, method, {}, torch.float64)
    for row in range(2) if method == "generic" else [1]:  # the second is the smaller one
        alone = arrays(explain(model, single(inputs, row), HANDS[name].target, method))
        assert gap(alone, {kind: values[row : row + 1] for kind, values in both.items()}) < TIGHT


@pytest.mark.parametrize("name", [name for name in HANDS if HANDS[name].zero is not None])
def test_two_targets_of_one_input_are_two_rows(name: str) -> None:
    model, inputs = subject(name, torch.float64)
    alone = single(inputs, 1)
    both = arrays(explain(model, alone, [0, 1]))
    for target in (0, 1):
        wanted = arrays(explain(model, alone, target))
        assert gap({kind: values[target : target + 1] for kind, values in both.items()}, wanted) < TIGHT


@pytest.mark.parametrize("name", HANDS)
def test_bfloat16_is_finite(name: str) -> None:
    model, inputs = subject(name, torch.bfloat16)
    family = family_of(model)
    layers = [layer for each in family.layers(model).values() for layer in each]
    watch = (*family.embeddings(model).values(), *layers)
    sources = Sources(model, family, prepared(model, inputs), HANDS[name].target, watch)
    for method in RULES.keys() - family.refuses:  # on the same three forwards, which take the time
        for readout in sources().reading.readouts:
            found = RULES[method](sources, readout, slice(0, 2))
            assert all(values.isfinite().all() for values in found.values()), method
    for method in ("saliency", "occlusion"):  # the other two take saliency's gradients, too
        found = asked(name, method, {}, torch.bfloat16)
        assert all(np.isfinite(values).all() for values in found.values()), method


@pytest.mark.parametrize("name", HANDS)
def test_noise_is_drawn_by_its_seed(name: str) -> None:
    first, again, other = (asked(name, "smoothgrad", {"samples": 1, "seed": seed}) for seed in (3, 3, 4))

    assert gap(first, again) == 0
    assert gap(first, other) > 100 * TIGHT


def reversed_layers(found: Left) -> Left:
    """Each family's attentions of one kind in the wrong order: those of equal shape change places."""
    shapes = [each.shape for each in found.maps]
    order = list(range(len(shapes)))
    for shape in set(shapes):
        same = [number for number in order if shapes[number] == shape]
        for place, number in zip(same, reversed(same), strict=True):
            order[place] = number
    return replace(
        found, maps=[found.maps[each] for each in order], slopes=[found.slopes[each] for each in order]
    )


def slopes_of_another_layer(found: Left) -> Left:
    return replace(found, slopes=reversed_layers(found).slopes)


BY_LAYERS = [
    "generic", "libra", "attribution", "partial_lrp", "grad_cam", "gradient_rollout", "rollout",
    "raw_attention", "flow", "gradient_flow",
]  # fmt: skip
BY_GRADIENT = ["generic", "libra", "attribution", "grad_cam", "gradient_rollout", "gradient_flow"]
FAULTS = [(reversed_layers, each) for each in BY_LAYERS]
FAULTS += [(slopes_of_another_layer, each) for each in BY_GRADIENT]


@pytest.mark.parametrize(("fault", "method"), FAULTS)
@pytest.mark.parametrize("name", ["vit", "detr", "lxmert"])
def test_the_comparison_sees_a_wrong_layer(
    name: str, fault: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PLAIN[method][-1] if method == "grad_cam" else PLAIN[method][0]
    found = asked(name, method, settings)
    monkeypatch.setattr(explain_reference_methods, "left", lambda *given: fault(left(*given)))

    assert gap(found, reference(name, method, settings)) > 100 * TIGHT


def test_the_comparison_sees_layers_of_legrad_and_tokens_that_are_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {method: asked("vit", method, {}) for method in ("legrad", "generic")}
    with monkeypatch.context() as patch:
        patch.setattr(explain_reference, "left", lambda *given: reversed_layers(left(*given)))
        assert gap(found["legrad"], reference("vit", "legrad", {})) > 100 * TIGHT
    elsewhere = replace(HANDS["vit"], reads=lambda outputs, target: {"image": ({3: 1.0}, {3: 1.0})})
    monkeypatch.setitem(HANDS, "vit", elsewhere)
    assert gap(found["generic"], reference("vit", "generic", {})) > 100 * TIGHT


def test_the_page_is_what_the_tests_found() -> None:
    own = {each.name for each in families() if type(each).__module__.startswith("heedful.explain.models")}
    assert set(shown_families()) == own, "every family is in the matrix"
    assert set(names()) == set(HANDS)
    page = rendered()
    if os.environ.get("HEEDFUL_WRITE_DOCS") == "1":
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "docs/methods.md is old: run this test with HEEDFUL_WRITE_DOCS=1"
