"""Each loss beside Attend-and-Excite's equals its slow twin, and the comparison can fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracles_losses as slow
import pytest
import torch
from heedful.guidance import losses
from loss_cases import (
    BOXES,
    GRID,
    GROUPS,
    LAST,
    SPANS,
    given,
    previous,
    random_maps,
    slow_attention,
    slow_map,
)


def maps_of(maps, image):
    return [slow_map(maps, image, span) for span in SPANS[image]]


def total_variation(maps, image):
    return slow.total_variation(maps_of(maps, image))


def jensen_shannon_binding(maps, image):
    return slow.jensen_shannon_binding(
        [
            (slow_map(maps, image, group.noun), slow_map(maps, image, modifier))
            for group in GROUPS[image]
            for modifier in group.modifiers
        ]
    )


def symmetric_kl_binding(maps, image, floor=1e-3):
    pairs = []
    for group in GROUPS[image]:
        outside = [index for index in range(1, LAST[image]) if index not in group.indices]
        others = [slow_attention(maps, image, (index,)) for index in outside]
        noun = slow_attention(maps, image, group.noun.indices)
        pairs += [(noun, slow_attention(maps, image, m.indices), others) for m in group.modifiers]
    return slow.symmetric_kl_binding(pairs, floor)


def nt_xent(maps, image, tau=0.5):
    found, classes = [], []
    for index, span in enumerate(SPANS[image]):
        words = [
            word
            for group in GROUPS[image]
            if set(group.noun.indices) & set(span.indices)
            for word in (group.noun, *group.modifiers)
        ] or [span]
        found += [slow_map(maps, image, word) for word in words]
        classes += [index] * len(words)
    before = previous()[image].numpy()
    return slow.nt_xent([*found, *before], [*classes, *range(len(before))], tau)


def attention_peak(maps, image, share=1 / 16, reduction="mean"):
    attention = [slow_attention(maps, image, span.indices) for span in SPANS[image]]
    return slow.attention_peak(attention, share, reduction)


def intersection_over_union(maps, image):
    return slow.intersection_over_union(maps_of(maps, image))


def retention(maps, image):
    return slow.retention(maps_of(maps, image), list(previous()[image].numpy()))


def self_attention_conflict(maps, image):
    layers = [layer[image].detach().numpy() for layer in maps.self_layers.values()]
    return slow.self_attention_conflict(maps_of(maps, image), layers)


def placed(cost):
    def mean(maps, image):
        boxed = [(span, box) for span, box in zip(SPANS[image], BOXES[image], strict=True) if box]
        return np.mean([cost(maps, image, span, dataclasses.astuple(box)) for span, box in boxed])

    return mean


@placed
def inner_box(maps, image, span, box):
    return slow.inner_box(slow_map(maps, image, span), slow.inside(box, GRID), 0.2)


@placed
def outer_box(maps, image, span, box):
    return slow.outer_box(slow_map(maps, image, span), slow.inside(box, GRID), 0.2)


@placed
def box_corners(maps, image, span, box):
    return slow.box_corners(slow_map(maps, image, span), slow.inside(box, GRID), 1)


@placed
def layout_energy(maps, image, span, box):
    return slow.layout_energy(slow_attention(maps, image, span.indices), box)


TWINS = {name: twin for name, twin in list(globals().items()) if name in losses.LOSSES and callable(twin)}


def fast(name, maps, **settings):
    loss = losses.LOSSES[name]
    taken = {key: value for key, value in given(maps).items() if key in losses.taken_by(loss)}
    return loss(maps, SPANS, **taken, **settings).detach().numpy()


def test_every_loss_has_a_twin():
    assert set(TWINS) | {"attend_and_excite", "overlap"} == set(losses.LOSSES)


@pytest.mark.parametrize("name", TWINS)
def test_the_loss_equals_its_slow_twin(name):
    maps = random_maps(seed=3)
    expected = [TWINS[name](maps, image) for image in range(2)]
    np.testing.assert_allclose(fast(name, maps), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", TWINS)
def test_the_comparison_can_fail(name):
    """The twin of other maps gives another number, and so does that of the images swapped."""
    maps = random_maps(seed=3)
    found = fast(name, maps)
    other = random_maps(seed=4)
    assert not np.isclose(found[0], TWINS[name](other, 0), rtol=1e-4)
    assert not np.isclose(found[0], TWINS[name](maps, 1), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "setting", "slow_setting"),
    [
        ("nt_xent", {"tau": 0.2}, lambda maps: nt_xent(maps, 0, 0.2)),
        ("symmetric_kl_binding", {"floor": 0.1}, lambda maps: symmetric_kl_binding(maps, 0, 0.1)),
        ("attention_peak", {"share": 0.5}, lambda maps: attention_peak(maps, 0, 0.5)),
        ("attention_peak", {"reduction": "max"}, lambda maps: attention_peak(maps, 0, reduction="max")),
    ],
)
def test_settings_change_loss_and_twin_alike(name, setting, slow_setting):
    maps = random_maps(seed=5)
    assert fast(name, maps, **setting)[0] == pytest.approx(slow_setting(maps), rel=1e-8)
    assert fast(name, maps)[0] != pytest.approx(slow_setting(maps), rel=1e-3)


@pytest.mark.parametrize(("name", "setting"), [("inner_box", {"share": 1.0}), ("box_corners", {"reach": 2})])
def test_settings_of_boxes_change_loss_and_twin_alike(name, setting):
    maps, box = random_maps(seed=5), BOXES[1][0]
    cells = slow.inside(dataclasses.astuple(box), GRID)
    image = slow_map(maps, 1, SPANS[1][0])
    expected = getattr(slow, name)(image, cells, *setting.values())
    boxes = [[None] * 3, [box, None]]
    found = losses.LOSSES[name](maps, SPANS, boxes=boxes, last=LAST, **setting)
    assert found[1].item() == pytest.approx(expected, rel=1e-8)
    assert found[0] == 0


def test_self_attention_of_another_grid_is_pooled():
    """Pooled by area on both sides: a layer that repeats each cell four times is the coarse one, smaller."""
    maps = random_maps(seed=6)
    fine = dict(maps.self_layers)
    for axis in (1, 2, 3, 4):
        fine = {name: layer.repeat_interleave(2, axis) for name, layer in fine.items()}
    pooled = dataclasses.replace(maps, self_layers=fine).self_attention()
    torch.testing.assert_close(pooled, maps.self_attention())
