"""Attribution, rollouts and single layers equal twins written out in each model's own order."""

from __future__ import annotations

from collections.abc import Callable

import explain_oracles as twin
import numpy as np
import pytest
import torch
from explain_cases import (
    DEPTHS,
    METHODS,
    POOL,
    SEEDS,
    SIZES,
    Case,
    Depths,
    Maps,
    case,
    detr_case,
    detr_parts,
    equal,
    lxmert_case,
    lxmert_parts,
    plain_wiring,
    rows_of,
    same,
)
from heedful.explain import bimodal
from heedful.explain.bimodal import Result
from heedful.explain.errors import InputError
from heedful.explain.rules import fuse
from heedful.explain.wiring import Site
from hypothesis import given
from hypothesis import strategies as st


@given(SEEDS, SIZES, DEPTHS, st.booleans())
def test_attribution_equals_its_twins(seed: int, sizes: tuple[int, int], depths: Depths, mean: bool) -> None:
    made = lxmert_case(seed, sizes, depths, mean=mean)
    found = bimodal.attribution(made.wiring, made.cams, made.readout)
    parts = [lxmert_parts(made.cams, depths, row) for row in range(2)]
    own = [twin.self_relevance([*language, *(layer[2] for layer in cross)]) for language, _, cross in parts]
    assert same(found["text"], rows_of(made, "text", lambda row: own[row], True))
    assert same(found["image"], rows_of(made, "image", lambda row: parts[row][2][-1][0]))
    assert not same(found["image"], rows_of(made, "image", lambda row: parts[row][2][0][0]), 1e-6)
    made = detr_case(seed, sizes, depths, mean=mean)
    found = bimodal.attribution(made.wiring, made.cams, made.readout)
    pairs = [detr_parts(made.cams, depths, row)[1] for row in range(2)]
    own = [twin.self_relevance([pair[0] for pair in decoder]) for decoder in pairs]
    assert same(found["queries"], rows_of(made, "queries", lambda row: own[row], True))
    assert same(found["image"], rows_of(made, "image", lambda row: pairs[row][-1][1]))


Roll = Callable[[Case], tuple[Maps, Result, bool]]
ROLLS: dict[str, Roll] = {
    "rollout": lambda c: (c.fused, bimodal.rollout(c.wiring, c.fused, c.readout), True),
    "product": lambda c: (c.cams, bimodal.gradient_rollout(c.wiring, c.cams, c.readout), False),
    "normalised": lambda c: (
        {site: cam.clamp(min=0) for site, cam in c.signed.items()},
        bimodal.gradient_rollout(c.wiring, c.signed, c.readout, normalise=True),
        True,
    ),
}


@pytest.mark.parametrize("name", ROLLS)
@given(seed=SEEDS, sizes=SIZES, depths=DEPTHS, mean=st.booleans())
def test_rollouts_equal_their_twins_in_lxmert(
    name: str, seed: int, sizes: tuple[int, int], depths: Depths, mean: bool
) -> None:
    made = lxmert_case(seed, sizes, depths, mean=mean)
    maps, found, normalise = ROLLS[name](made)
    own, across, wrong = [], [], []
    for row in range(2):
        language, vision, cross = lxmert_parts(maps, depths, row)
        texts = [*language, *(layer[2] for layer in cross)]
        images = [*vision, *(layer[3] for layer in cross[:-1])]
        own.append(twin.rolled(texts, normalise))
        across.append(twin.rolled_across(texts[:-1], cross[-1][0], images, normalise))
        wrong.append(twin.rolled_across(texts, cross[-1][0], images, normalise))
    assert same(found["text"], rows_of(made, "text", lambda row: own[row]))
    assert same(found["image"], rows_of(made, "image", lambda row: across[row]))
    assert not same(found["image"], rows_of(made, "image", lambda row: wrong[row]), 1e-8)


@pytest.mark.parametrize("name", ROLLS)
@given(seed=SEEDS, sizes=SIZES, depths=DEPTHS, mean=st.booleans())
def test_rollouts_equal_their_twins_in_detr(
    name: str, seed: int, sizes: tuple[int, int], depths: Depths, mean: bool
) -> None:
    made = detr_case(seed, sizes, depths, mean=mean)
    maps, found, normalise = ROLLS[name](made)
    own, across, wrong = [], [], []
    for row in range(2):
        encoder, decoder = detr_parts(maps, depths, row)
        queries = [pair[0] for pair in decoder]
        own.append(twin.rolled(queries, normalise))
        across.append(twin.rolled_across(queries, decoder[-1][1], encoder, normalise))
        wrong.append(twin.times(own[-1], twin.times(decoder[-1][1], twin.rolled(encoder, normalise))))
    assert same(found["queries"], rows_of(made, "queries", lambda row: own[row]))
    assert same(found["image"], rows_of(made, "image", lambda row: across[row]))
    assert not same(found["image"], rows_of(made, "image", lambda row: wrong[row]), 1e-8)  # not transposed


@pytest.mark.parametrize("name", ROLLS)
@given(seed=SEEDS, tokens=st.integers(3, 6), layers=st.integers(2, 4), mean=st.booleans())
def test_rollouts_equal_their_twins_in_one_stream(
    name: str, seed: int, tokens: int, layers: int, mean: bool
) -> None:
    made = case(plain_wiring(layers), {"image": tokens}, "image", seed=seed, mean=mean)
    maps, found, normalise = ROLLS[name](made)
    stacks = [[maps[site][row].numpy() for site in made.wiring.sites] for row in range(2)]
    assert same(found["image"], rows_of(made, "image", lambda row: twin.rolled(stacks[row], normalise)))
    upside_down = [stack[::-1] for stack in stacks]
    wrong = rows_of(made, "image", lambda row: twin.rolled(upside_down[row], normalise))
    assert not same(found["image"], wrong, 1e-8)


@given(SEEDS, st.integers(3, 6), st.integers(1, 4))
def test_rows_of_a_rollout_sum_to_one(seed: int, tokens: int, layers: int) -> None:
    made = case(plain_wiring(layers), {"image": tokens}, "image", seed=seed, mean=True)
    for found in (
        bimodal.rollout(made.wiring, made.fused, made.readout),
        bimodal.rollout(
            made.wiring, {s: fuse(a, fusion="max") for s, a in made.attention.items()}, made.readout
        ),
        bimodal.gradient_rollout(made.wiring, made.signed, made.readout, normalise=True),
    ):
        assert same(found["image"].sum(-1), np.ones(2))
    assert not same(
        bimodal.gradient_rollout(made.wiring, made.cams, made.readout)["image"].sum(-1), np.ones(2)
    )


def test_the_normalised_gradient_rollout_clamps_after_the_heads_are_fused() -> None:
    made = case(plain_wiring(3), {"image": 5}, "image", seed=0)
    after = bimodal.gradient_rollout(made.wiring, made.signed, made.readout, normalise=True)
    before = bimodal.gradient_rollout(made.wiring, made.cams, made.readout, normalise=True)
    assert not equal(after, before, 1e-6)


def test_a_gradient_belongs_to_its_own_layer() -> None:
    made = case(plain_wiring(3), {"image": 5}, "image", seed=0)
    swapped = dict(zip(made.gradient, reversed(made.gradient.values()), strict=True))
    wrong = Case(made.wiring, made.readout, made.attention, swapped)
    for name in ("gradient_rollout", "normalised", "generic"):
        assert not equal(METHODS[name](made), METHODS[name](wrong), 1e-6)


@pytest.mark.parametrize("name", ["generic", "rollout", "gradient_rollout", "attribution"])
def test_a_pooling_query_is_one_more_token_that_sees_all(name: str) -> None:
    """The twin is a stream with that token in front, which no other token sees."""
    made = case(plain_wiring(3), {"image": 4}, "image", seed=7, pool=POOL)
    found = METHODS[name](made)["image"]
    maps = made.fused if name == "rollout" else made.cams
    for row in range(2):
        layers = []
        for site in (*made.wiring.sites, POOL):
            square = np.zeros((5, 5))
            if site == POOL:
                square[0, 1:] = maps[site][row, 0].numpy()
            else:
                square[1:, 1:] = maps[site][row].numpy()
            layers.append(square)
        if name in ("generic", "attribution"):
            expected = twin.self_relevance(layers)[0, 1:]
        else:  # only the pooling layer has a pooling query to mix
            top = twin.mixed(layers[-1], name == "rollout")[:1, 1:]
            expected = twin.times(
                top, twin.rolled([each[1:, 1:] for each in layers[:-1]], name == "rollout")
            )[0]
        assert same(found[row], expected)
    doubled = Case(
        made.wiring, made.readout, {**made.attention, POOL: 2 * made.attention[POOL]}, made.gradient
    )
    assert not same(found, METHODS[name](doubled)["image"], 1e-6)


@given(SEEDS, SIZES, DEPTHS, st.booleans(), st.booleans())
def test_single_layers_equal_their_twins(
    seed: int, sizes: tuple[int, int], depths: Depths, mean: bool, signed: bool
) -> None:
    made = lxmert_case(seed, sizes, depths, mean=mean)
    top, across = Site(f"cross.{depths.cross - 1}.text"), Site(f"cross.{depths.cross - 1}", 0)
    attention, gradient = made.attention, made.gradient
    views: list[tuple[Result, Callable[[Site, int], np.ndarray]]] = [
        (
            bimodal.raw_attention(made.wiring, attention, made.readout, fusion="max"),
            lambda site, row: twin.fused(attention[site][row].numpy(), None, "max"),
        ),
        (
            bimodal.attention_grad_cam(made.wiring, attention, gradient, made.readout, signed=signed),
            lambda site, row: twin.grad_cammed(
                attention[site][row].numpy(), gradient[site][row].numpy(), signed
            ),
        ),
        (
            bimodal.last_relevance(made.wiring, gradient, made.readout, signed=signed),
            lambda site, row: twin.fused(
                np.ones_like(gradient[site][row]), gradient[site][row].numpy(), "mean", signed
            ),
        ),
    ]
    for found, view in views:
        assert same(found["text"], rows_of(made, "text", lambda row, view=view: view(top, row)))
        assert same(found["image"], rows_of(made, "image", lambda row, view=view: view(across, row)))
    raw, view = views[0]
    below = rows_of(made, "image", lambda row: view(Site("cross.0", 0), row))
    assert not same(raw["image"], below, 1e-6)


def test_raw_attention_of_a_layer_a_head_and_a_token() -> None:
    made = lxmert_case(1, (3, 5), Depths(1, 1, 2))
    found = bimodal.raw_attention(made.wiring, made.attention, made.readout, layer=-2, head=1, query=2)
    assert same(found["text"], made.attention[Site("cross.0.text")][:, 1, 2])
    assert same(found["image"], made.attention[Site("cross.0", 0)][:, 1, 2])
    assert same(found["text"].sum(-1), np.ones(2))  # the token keeps what it pays itself
    read = bimodal.raw_attention(made.wiring, made.attention, made.readout, head=-1)
    whole = made.attention[Site("cross.1.text")][:, 2, 1]
    assert same(read["text"], torch.stack([whole[:, 0], torch.zeros(2), whole[:, 2]], dim=1))


def test_raw_attention_of_a_pooling_head_and_below_it() -> None:
    made = case(plain_wiring(2), {"image": 4}, "image", seed=0, pool=POOL)
    look = bimodal.raw_attention
    assert same(look(made.wiring, made.attention, made.readout)["image"], made.attention[POOL].mean(1)[:, 0])
    below = look(made.wiring, made.attention, made.readout, query=3)["image"]
    assert same(below, made.attention[Site("layer.1")].mean(1)[:, 3])
    with pytest.raises(InputError, match="pooling attention, its layer 2"):
        look(made.wiring, made.attention, made.readout, layer=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 9}, "no attention layer of stream 'text' 9: give one from -3 to 2"),
        ({"layer": 2}, "of stream 'text' to 'image' 2: give one from -2 to 1"),
        ({"head": 3}, "no head 3: give one from -3 to 2"),
        ({"query": -4}, "no token -4: give one from -3 to 2"),
    ],
)
def test_what_raw_attention_cannot_find_is_named(settings: dict[str, int], message: str) -> None:
    made = lxmert_case(1, (3, 5), Depths(1, 1, 2))
    with pytest.raises(InputError, match=message):
        bimodal.raw_attention(made.wiring, made.attention, made.readout, **settings)
