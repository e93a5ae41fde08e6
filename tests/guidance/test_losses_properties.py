"""What holds for every loss on any maps: bounds, images apart, order, gradients that point the right way."""

from __future__ import annotations

import math

import pytest
import torch
from heedful.guidance import losses
from heedful.guidance.errors import GuidanceError, TokenNotFoundError
from heedful.guidance.groups import Group
from heedful.guidance.maps import AttentionMaps
from heedful.guidance.regions import Box
from heedful.guidance.tokens import Span
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st
from loss_cases import (
    BOW,
    BOXES,
    CAT,
    FROG,
    GRID,
    GROUPS,
    LAST,
    LEFT,
    RED,
    SPANS,
    given,
    previous,
    random_maps,
)

CELLS = GRID[0] * GRID[1]
KL_BOUND = math.log(CELLS / 1e-3)
RANGES = {
    "attention_peak": (0, -math.log(1e-4)),
    "attend_and_excite": (0, 1),
    "total_variation": (-2 * CELLS / sum(GRID), 0),
    "jensen_shannon_binding": (0, 1),
    "symmetric_kl_binding": (-KL_BOUND, KL_BOUND),
    "nt_xent": (0, math.log(1 + 8 * math.exp(2))),
    "overlap": (0, 0.5),
    "intersection_over_union": (0, 1),
    "retention": (0, 1),
    "self_attention_conflict": (0, 0.5),
    "inner_box": (0, 1),
    "outer_box": (0, 1),
    "box_corners": (0, 1),
    "layout_energy": (0, 1),
}
NAMES = list(losses.LOSSES)


def value(name, maps, spans=SPANS, **other):
    loss = losses.LOSSES[name]
    own = {**given(maps), **other}
    return loss(maps, spans, **{key: own[key] for key in losses.taken_by(loss)})


def rows(maps, order):
    return AttentionMaps(
        {name: layer[order] for name, layer in maps.layers.items()},
        {name: layer[order] for name, layer in maps.self_layers.items()},
    )


@settings(max_examples=8)
@examples(st.integers(0, 10_000), st.floats(0.2, 20))
def test_every_loss_keeps_its_range(seed, sharpness):
    maps = random_maps(seed=seed)
    sharper = {name: layer.pow(sharpness) for name, layer in maps.layers.items()}
    sharper = {name: layer / layer.sum(-1, keepdim=True) for name, layer in sharper.items()}
    maps = AttentionMaps(sharper, maps.self_layers)
    for name, (least, most) in RANGES.items():
        found = value(name, maps)
        assert found.shape == (2,)
        assert ((found >= least - 1e-9) & (found <= most + 1e-9)).all(), name


def test_every_loss_has_a_range():
    assert set(RANGES) == set(losses.LOSSES)


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_influence_each_other(name):
    maps = random_maps(seed=1, follow=True)
    together = value(name, maps)
    leaves = [*maps.layers.values(), *maps.self_layers.values()]
    found = torch.autograd.grad(together[0], leaves, retain_graph=True, allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    assert any(gradient[0].any() for gradient in gradients)
    assert not any(gradient[1].any() for gradient in gradients)
    for image in range(2):
        context = {key: [found[image]] for key, found in given(maps).items()}
        alone = value(name, rows(maps, [image]), [SPANS[image]], **context)
        torch.testing.assert_close(alone, together[image : image + 1])


@pytest.mark.parametrize("name", ["overlap", "intersection_over_union", "self_attention_conflict", "nt_xent"])
def test_the_order_of_the_words_does_not_matter(name):
    maps = random_maps(seed=2)
    turned = [own[::-1] for own in SPANS]
    before = [image.flip(0) for image in previous()]
    torch.testing.assert_close(value(name, maps, turned, previous=before), value(name, maps))


@pytest.mark.parametrize("name", NAMES)
def test_float16_attention_gives_float32_losses_and_finite_gradients(name):
    maps = random_maps(seed=3)
    half = AttentionMaps(
        {name: layer.half().requires_grad_() for name, layer in maps.layers.items()},
        {name: layer.half().requires_grad_() for name, layer in maps.self_layers.items()},
    )
    found = value(name, half)
    assert found.dtype == torch.float32
    leaves = [*half.layers.values(), *half.self_layers.values()]
    for gradient in torch.autograd.grad(found.sum(), leaves, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_down_the_gradient_lowers_the_loss(name):
    maps = random_maps(1, seed=4, follow=True)
    context = {key: found[:1] for key, found in given(maps).items()}
    before = value(name, maps, SPANS[:1], **context)
    leaves = {**maps.layers, **maps.self_layers}
    slopes = torch.autograd.grad(before.sum(), list(leaves.values()), allow_unused=True)
    size = math.sqrt(sum(float(slope.square().sum()) for slope in slopes if slope is not None))
    moved = {
        key: leaf.detach() if slope is None else leaf.detach() - 1e-6 / size * slope
        for (key, leaf), slope in zip(leaves.items(), slopes, strict=True)
    }
    after = AttentionMaps(
        {key: moved[key] for key in maps.layers}, {key: moved[key] for key in maps.self_layers}
    )
    change = (value(name, after, SPANS[:1], **context) - before).item()
    assert change == pytest.approx(-1e-6 * size, rel=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_images_without_words_cost_nothing_yet_stay_in_the_graph(name):
    maps = random_maps(follow=True)
    nothing = {"groups": [(), ()], "boxes": [[], []], "previous": [torch.zeros(0, *GRID)] * 2}
    found = value(name, maps, [[], []], **nothing)
    assert found.tolist() == [0, 0]
    assert found.requires_grad


def test_binding_is_lowest_where_the_modifier_lies_on_its_noun():
    group = [(Group(BOW, (RED,)),)]
    generator = torch.Generator().manual_seed(0)
    layer = torch.rand(1, 1, *GRID, 9, generator=generator, dtype=torch.float64) * 0.1
    layer[..., 4] += torch.linspace(0, 1, CELLS, dtype=torch.float64).view(GRID)
    bound = layer.clone()
    bound[..., 3] = bound[..., 4]
    apart = layer.clone()
    apart[..., 3] = layer[..., 4].flip(-1, -2)
    for loss in (losses.symmetric_kl_binding, losses.jensen_shannon_binding):
        low, high = (
            loss(AttentionMaps({"m": one}), [[BOW]], groups=group, last=[6]) for one in (bound, apart)
        )
        assert low < high
    assert losses.jensen_shannon_binding(
        AttentionMaps({"m": bound}), [[BOW]], groups=group, last=[6]
    ).item() == pytest.approx(0, abs=1e-9)


def test_boxes_are_satisfied_by_attention_that_fills_them_and_by_no_other():
    inside = torch.zeros(1, 1, *GRID, 9, dtype=torch.float64)
    inside[..., 0] = 1
    box = Box(0.2, 0.25, 0.8, 0.75)
    inside[0, 0, 1:3, 1:4] = torch.eye(9, dtype=torch.float64)[2]
    outside = inside.flip(2).roll(2, dims=2)
    good, bad = AttentionMaps({"m": inside}), AttentionMaps({"m": outside})
    exact = {"temperature": 1000.0, "sigma": None, "last": [9]}
    for name in ("inner_box", "outer_box", "box_corners"):
        loss = losses.LOSSES[name]
        assert loss(good, [[CAT]], boxes=[[box]], **exact).item() == pytest.approx(0, abs=0.15), name
        assert loss(bad, [[CAT]], boxes=[[box]], **exact).item() > 0.4, name
    energy = losses.layout_energy
    assert energy(good, [[CAT]], boxes=[[box]]).item() == pytest.approx(0, abs=1e-9)
    assert energy(bad, [[CAT]], boxes=[[box]]).item() == pytest.approx(1)


def test_a_map_kept_in_place_is_retained_and_one_that_moved_is_not():
    maps = random_maps(1, seed=7)
    own = losses.subject_maps(maps, [[CAT]], last=[7])
    solid = [(image >= image.amax() / 2).double() for image in own]
    here = losses.retention(maps, [[CAT]], previous=solid, last=[7])
    there = losses.retention(maps, [[CAT]], previous=[1 - one for one in solid], last=[7])
    assert here < there
    assert losses.retention(maps, [[CAT]], previous=None, last=[7]).tolist() == [0]


def test_contrast_without_modifiers_or_a_step_before_still_sets_words_apart():
    layer = random_maps(1, seed=8).layers["up"].clone().requires_grad_()
    loss = losses.nt_xent(AttentionMaps({"up": layer}), [[CAT, FROG]], last=[7])
    loss.sum().backward()
    assert layer.grad is not None
    assert layer.grad[..., 2].any()
    one = losses.nt_xent(AttentionMaps({"up": layer}), [[CAT]], last=[7])
    assert one.tolist() == [0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: losses.nt_xent(m, SPANS, last=LAST, tau=0.0), GuidanceError, "above 0; got 0"),
        (lambda m: losses.inner_box(m, SPANS, boxes=BOXES, share=0.0), GuidanceError, "share is a part"),
        (lambda m: losses.attention_peak(m, SPANS, share=0.0), GuidanceError, "above 0 and at most 1; got 0"),
        (lambda m: losses.attention_peak(m, SPANS, reduction="sum"), GuidanceError, '"max" or "mean"'),
        (lambda m: losses.outer_box(m, SPANS, boxes=BOXES, share=1.5), GuidanceError, "got 1.5"),
        (lambda m: losses.box_corners(m, SPANS, boxes=BOXES, reach=0), GuidanceError, "at least 1; got 0"),
        (
            lambda m: losses.layout_energy(m, SPANS, boxes=[[LEFT], []]),
            GuidanceError,
            r"for each span, \[3, 2\] an image; got \[1, 0\]",
        ),
        (
            lambda m: losses.self_attention_conflict(AttentionMaps(m.layers), SPANS, last=LAST),
            GuidanceError,
            "no self-attention",
        ),
        (
            lambda m: losses.symmetric_kl_binding(
                m, SPANS, groups=[(Group(Span("x", (8,)), (RED,)),), ()], last=LAST
            ),
            TokenNotFoundError,
            r"'x' of image 0 .*1\.\.6",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(random_maps())


def test_groups_know_all_their_tokens():
    assert GROUPS[1][0].indices == {3, 4, 5}
