"""Every method on LXMERT's, DETR's and plain wirings equals a twin that is written out in that very order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import explain_oracles as twin
import numpy as np
import pytest
import torch
from heedful.explain import bimodal
from heedful.explain.bimodal import Result
from heedful.explain.errors import InputError
from heedful.explain.rules import fuse, self_relevance
from heedful.explain.wiring import CrossStep, Readout, SelfStep, Site, TogetherStep, Wiring
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

Maps = dict[Site, Tensor]


@dataclass
class Case:
    """A wiring with random attention and gradients in float64, and what they fuse to."""

    wiring: Wiring
    readout: Readout
    attention: Maps
    gradient: Maps
    cams: Maps = field(init=False)
    signed: Maps = field(init=False)

    def __post_init__(self) -> None:
        self.cams = {site: fuse(self.attention[site], self.gradient[site]) for site in self.attention}
        self.signed = {
            site: fuse(self.attention[site], self.gradient[site], signed=True) for site in self.attention
        }

    @property
    def fused(self) -> Maps:
        return {site: fuse(each) for site, each in self.attention.items()}


def case(
    wiring: Wiring,
    sizes: dict[str, int],
    stream: str,
    *,
    seed: int,
    rows: int = 2,
    heads: int = 3,
    mean: bool = False,
    pool: Site | None = None,
) -> Case:
    made = torch.Generator().manual_seed(seed)
    shapes = {
        step.site: (rows, heads, sizes[step.stream], sizes[getattr(step, "context", step.stream)])
        for step in wiring.flat
    }
    weights = torch.eye(sizes[stream], dtype=torch.float64)[1].repeat(rows, 1)
    if mean:
        weights = torch.rand(rows, sizes[stream], generator=made, dtype=torch.float64).softmax(-1)
    if pool is not None:
        shapes[pool] = (rows, heads, 1, sizes[stream])
        weights = torch.ones(rows, 1, dtype=torch.float64)
    draws = [
        {site: torch.randn(shape, generator=made, dtype=torch.float64) for site, shape in shapes.items()}
        for _ in range(2)
    ]
    attention = {site: each.softmax(-1) for site, each in draws[0].items()}
    gradient = {
        site: each + 0.5 for site, each in draws[1].items()
    }  # of both signs, no cam without a positive
    return Case(wiring, Readout(stream, weights, pool), attention, gradient)


def lxmert_wiring(language: int, vision: int, cross: int) -> Wiring:
    steps: list[SelfStep | CrossStep | TogetherStep] = []
    steps += [SelfStep("text", Site(f"language.{i}")) for i in range(language)]
    steps += [SelfStep("image", Site(f"vision.{i}")) for i in range(vision)]
    for i in range(cross):
        to_image = CrossStep("text", "image", Site(f"cross.{i}", 0))
        to_text = CrossStep("image", "text", Site(f"cross.{i}", 1))
        steps.append(TogetherStep((to_image, to_text)))
        steps += [SelfStep("text", Site(f"cross.{i}.text")), SelfStep("image", Site(f"cross.{i}.image"))]
    return Wiring(tuple(steps))


def detr_wiring(encoder: int, decoder: int) -> Wiring:
    steps: list[SelfStep | CrossStep] = [SelfStep("image", Site(f"encoder.{i}")) for i in range(encoder)]
    for i in range(decoder):
        steps += [
            SelfStep("queries", Site(f"decoder.{i}.self")),
            CrossStep("queries", "image", Site(f"decoder.{i}.cross")),
        ]
    return Wiring(tuple(steps))


def plain_wiring(layers: int) -> Wiring:
    return Wiring(tuple(SelfStep("image", Site(f"layer.{i}")) for i in range(layers)))


@dataclass(frozen=True)
class Depths:
    """How many layers an LXMERT, or DETR, has."""

    language: int
    vision: int
    cross: int


SEEDS = st.integers(0, 10**6)
SIZES = st.tuples(st.integers(3, 4), st.integers(1, 2)).map(lambda pair: (pair[0], pair[0] + pair[1]))
DEPTHS = st.builds(Depths, st.integers(1, 3), st.integers(1, 2), st.integers(2, 3))
Variant = dict[str, bool]
VARIANTS: list[Variant] = [
    {},
    {"normalise": False},
    {"self_in_rule_10": False},
    {"aggregate": False, "normalise": False},
]


def lxmert_case(
    seed: int, sizes: tuple[int, int], depths: Depths, *, mean: bool = False, rows: int = 2
) -> Case:
    wiring = lxmert_wiring(depths.language, depths.vision, depths.cross)
    return case(
        wiring, dict(zip(("text", "image"), sizes, strict=True)), "text", seed=seed, mean=mean, rows=rows
    )


def detr_case(seed: int, sizes: tuple[int, int], depths: Depths, *, mean: bool = False) -> Case:
    wiring = detr_wiring(depths.language, depths.cross)
    return case(wiring, {"queries": sizes[0], "image": sizes[1]}, "queries", seed=seed, mean=mean)


def lxmert_parts(maps: Maps, depths: Depths, row: int) -> tuple[list, list, list]:
    at = {(site.module, site.call): each[row].numpy() for site, each in maps.items()}
    return (
        [at[f"language.{i}", 0] for i in range(depths.language)],
        [at[f"vision.{i}", 0] for i in range(depths.vision)],
        [
            (at[f"cross.{i}", 0], at[f"cross.{i}", 1], at[f"cross.{i}.text", 0], at[f"cross.{i}.image", 0])
            for i in range(depths.cross)
        ],
    )


def detr_parts(maps: Maps, depths: Depths, row: int) -> tuple[list, list]:
    at = {site.module: each[row].numpy() for site, each in maps.items()}
    return (
        [at[f"encoder.{i}"] for i in range(depths.language)],
        [(at[f"decoder.{i}.self"], at[f"decoder.{i}.cross"]) for i in range(depths.cross)],
    )


def rows_of(
    case: Case, stream: str, matrix: Callable[[int], np.ndarray], identity: bool = False
) -> np.ndarray:
    """What every row reads of a twin's matrix."""
    own = stream == case.readout.stream
    weights = case.readout.weights.numpy()
    return np.array([twin.read(w, matrix(row), identity and own, own) for row, w in enumerate(weights)])


def same(found: Tensor, expected: object, tolerance: float = 1e-10) -> bool:
    return bool(np.allclose(found.numpy(), np.asarray(expected), rtol=tolerance, atol=tolerance))


def equal(found: Result, expected: Result, tolerance: float = 1e-10) -> bool:
    return found.keys() == expected.keys() and all(same(found[s], expected[s], tolerance) for s in found)


@given(SEEDS, SIZES, DEPTHS, st.sampled_from(VARIANTS), st.booleans(), st.booleans())
def test_generic_follows_lxmert(
    seed: int, sizes: tuple[int, int], depths: Depths, variant: Variant, mean: bool, signed: bool
) -> None:
    made = lxmert_case(seed, sizes, depths, mean=mean)
    cams = made.signed if signed else made.cams
    found = bimodal.generic(made.wiring, cams, made.readout, **variant)
    expected = [twin.lxmert(*lxmert_parts(cams, depths, row), **variant) for row in range(2)]
    identity = variant.get("aggregate", True)
    assert found.keys() == {"text", "image"}
    assert same(found["text"], rows_of(made, "text", lambda row: expected[row][0], identity))
    assert same(found["image"], rows_of(made, "image", lambda row: expected[row][1]))
    if not variant:
        wrong = [twin.lxmert(*lxmert_parts(cams, depths, row), one_by_one=True) for row in range(2)]
        assert not same(found["image"], rows_of(made, "image", lambda row: wrong[row][1]))
        # the order reaches R_ii in the first cross-layer, R_it in the second and R_tt in the third
        text_agrees = same(found["text"], rows_of(made, "text", lambda row: wrong[row][0], True))
        assert text_agrees == (depths.cross < 3)


@given(SEEDS, SIZES, DEPTHS, st.sampled_from(VARIANTS), st.booleans(), st.booleans())
def test_generic_follows_detr(
    seed: int, sizes: tuple[int, int], depths: Depths, variant: Variant, mean: bool, signed: bool
) -> None:
    made = detr_case(seed, sizes, depths, mean=mean)
    cams = made.signed if signed else made.cams
    found = bimodal.generic(made.wiring, cams, made.readout, **variant)
    expected = [twin.detr(*detr_parts(cams, depths, row), **variant) for row in range(2)]
    identity = variant.get("aggregate", True)
    assert found.keys() == {"queries", "image"}
    assert same(found["queries"], rows_of(made, "queries", lambda row: expected[row][0], identity))
    assert same(found["image"], rows_of(made, "image", lambda row: expected[row][1]))
    if not variant:
        wrong = [twin.detr(*detr_parts(cams, depths, row), cross_first=True) for row in range(2)]
        assert not same(found["image"], rows_of(made, "image", lambda row: wrong[row][1]))


def test_the_variants_of_generic_differ_from_each_other() -> None:
    depths = Depths(2, 1, 3)
    for made in (lxmert_case(3, (3, 5), depths), detr_case(3, (3, 5), depths)):
        found = [bimodal.generic(made.wiring, made.cams, made.readout, **variant) for variant in VARIANTS]
        found.append(bimodal.generic(made.wiring, made.signed, made.readout))
        for i, one in enumerate(found):
            assert not any(same(one["image"], other["image"], 1e-6) for other in found[:i])


def test_the_published_ablation_loses_the_text_of_lxmert() -> None:
    """Its R_tt is replaced by cam R_it, which is 0 in the first layer, the third, and every other one."""
    made = lxmert_case(0, (3, 5), Depths(2, 2, 3))
    found = bimodal.generic(made.wiring, made.cams, made.readout, aggregate=False, normalise=False)
    assert not found["text"].any()
    assert found["image"].all()


@given(SEEDS, st.integers(3, 6), st.integers(1, 4), st.booleans(), st.integers(1, 3))
def test_generic_of_one_stream_is_a_row_of_the_matrix(
    seed: int, tokens: int, layers: int, mean: bool, rows: int
) -> None:
    made = case(plain_wiring(layers), {"image": tokens}, "image", seed=seed, mean=mean, rows=rows)
    found = bimodal.generic(made.wiring, made.cams, made.readout)
    whole = self_relevance(list(made.cams.values()))
    expected = [twin.self_relevance([cam[row].numpy() for cam in made.cams.values()]) for row in range(rows)]
    assert same(whole, expected)
    assert same(found["image"], rows_of(made, "image", lambda row: expected[row], True))
    single = {site: cam.float() for site, cam in made.cams.items()}
    narrow = bimodal.generic(made.wiring, single, replace(made.readout, weights=made.readout.weights.float()))
    assert same(narrow["image"], rows_of(made, "image", lambda row: expected[row], True), 1e-6)
    perturbed = {site: cam + 0.01 for site, cam in made.cams.items()}
    assert not equal(found, bimodal.generic(made.wiring, perturbed, made.readout))


def test_one_stream_without_aggregation_is_the_product_of_its_cams() -> None:
    made = case(plain_wiring(3), {"image": 4}, "image", seed=1, mean=True)
    found = bimodal.generic(made.wiring, made.cams, made.readout, aggregate=False)["image"]
    one, two, three = made.cams.values()
    assert same(found, (made.readout.weights[:, None] @ three @ two @ one)[:, 0])
    assert not same(found, (made.readout.weights[:, None] @ one @ two @ three)[:, 0], 1e-6)


METHODS: dict[str, Callable[[Case], Result]] = {
    "generic": lambda c: bimodal.generic(c.wiring, c.cams, c.readout),
    "attribution": lambda c: bimodal.attribution(c.wiring, c.cams, c.readout),
    "rollout": lambda c: bimodal.rollout(c.wiring, c.fused, c.readout),
    "gradient_rollout": lambda c: bimodal.gradient_rollout(c.wiring, c.cams, c.readout),
    "normalised": lambda c: bimodal.gradient_rollout(c.wiring, c.signed, c.readout, normalise=True),
    "raw_attention": lambda c: bimodal.raw_attention(c.wiring, c.attention, c.readout),
    "grad_cam": lambda c: bimodal.attention_grad_cam(
        c.wiring, c.attention, c.gradient, c.readout, signed=True
    ),
    "last_relevance": lambda c: bimodal.last_relevance(c.wiring, c.gradient, c.readout),
}
POOL = Site("head")


def all_cases(rows: int = 2) -> list[Case]:
    depths = Depths(2, 1, 2)
    return [
        lxmert_case(5, (3, 5), depths, rows=rows),
        detr_case(5, (4, 5), depths, mean=True),
        case(plain_wiring(2), {"image": 5}, "image", seed=5, pool=POOL),
    ]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", range(3))
def test_a_batch_of_two_equals_two_singles(name: str, which: int) -> None:
    made = all_cases()[which]

    def only(row: int) -> Case:
        part = slice(row, row + 1)
        readout = replace(made.readout, weights=made.readout.weights[part])
        attention = {site: each[part] for site, each in made.attention.items()}
        return Case(made.wiring, readout, attention, {s: each[part] for s, each in made.gradient.items()})

    both = METHODS[name](made)
    singles = [METHODS[name](only(row)) for row in range(2)]
    assert equal(both, {s: torch.cat([one[s] for one in singles]) for s in both}, 1e-12)
    assert not equal(both, {s: torch.cat([one[s] for one in singles[::-1]]) for s in both}, 1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", range(3))
def test_no_gradient_at_all_stays_finite(name: str, which: int) -> None:
    made = all_cases()[which]
    still = Case(
        made.wiring, made.readout, made.attention, {s: torch.zeros_like(g) for s, g in made.gradient.items()}
    )
    found = METHODS[name](still)
    assert all(each.isfinite().all() for each in found.values())
    if name in ("generic", "grad_cam", "last_relevance"):
        assert not any(each.any() for each in found.values())


def test_every_attention_that_is_seen_counts_and_no_other_is_asked_for() -> None:
    for made in all_cases():
        seen = made.wiring.part(made.readout.stream).sites + ((POOL,) if made.readout.pool else ())
        cams = {site: made.cams[site] for site in seen}
        found = bimodal.generic(made.wiring, cams, made.readout)
        for site in seen:
            assert not equal(
                found, bimodal.generic(made.wiring, {**cams, site: 2 * cams[site]}, made.readout)
            )
            with pytest.raises(InputError, match=site.module):
                bimodal.generic(made.wiring, {s: c for s, c in cams.items() if s != site}, made.readout)
    wiring = lxmert_wiring(1, 1, 2)
    unseen = set(wiring.sites) - set(wiring.part("text").sites)
    assert unseen == {Site("cross.1", 1), Site("cross.1.image")}


def test_without_attention_back_nothing_is_added_to_the_own_stream() -> None:
    """DETR's encoder attends to no query: Eq. 11 has no R_qs, and R_ss is that of self-attentions alone."""
    made = detr_case(2, (3, 5), Depths(2, 1, 3))
    found = bimodal.generic(made.wiring, made.cams, made.readout)["queries"]
    alone = Wiring(made.wiring.of("queries"))
    assert same(found, bimodal.generic(alone, made.cams, made.readout)["queries"])
    both_ways = lxmert_case(2, (3, 5), Depths(2, 1, 3))
    found = bimodal.generic(both_ways.wiring, both_ways.cams, both_ways.readout)["text"]
    alone = Wiring(both_ways.wiring.of("text"))
    assert not same(found, bimodal.generic(alone, both_ways.cams, both_ways.readout)["text"], 1e-6)


def test_relevance_passes_through_a_context_to_what_that_attends_to() -> None:
    steps = (CrossStep("b", "c", Site("bc")), CrossStep("a", "b", Site("ab")))
    made = case(Wiring(steps), {"a": 2, "b": 3, "c": 4}, "a", seed=0, mean=True)
    found = bimodal.generic(made.wiring, made.cams, made.readout)
    assert found.keys() == {"a", "b", "c"}
    start = made.readout.weights[:, None]
    assert same(found["b"], (start @ made.cams[Site("ab")])[:, 0])
    assert same(found["c"], (start @ made.cams[Site("ab")] @ made.cams[Site("bc")])[:, 0])
    assert not found["a"].any()


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


@pytest.mark.parametrize("name", ["generic", "rollout", "gradient_rollout", "attribution"])
def test_every_stream_starts_at_its_own_layer(name: str) -> None:
    """As if the layers below were not there."""
    method = getattr(bimodal, name)
    made = detr_case(0, (3, 5), Depths(3, 1, 2))
    steps = [s for s in made.wiring.steps if s.site not in (Site("encoder.0"), Site("decoder.0.self"))]
    expected = method(Wiring(tuple(steps)), made.cams, made.readout)
    found = method(made.wiring, made.cams, made.readout, start_layer=1)
    assert equal(found, expected)
    assert not equal(found, method(made.wiring, made.cams, made.readout), 1e-8)
    top = [s for s in steps if s.site != Site("encoder.1")]
    last = method(made.wiring, made.cams, made.readout, start_layer=-1)
    assert equal(last, method(Wiring(tuple(top)), made.cams, made.readout))
    with pytest.raises(InputError, match="of stream 'queries' 2: give one from -2 to 1"):
        method(made.wiring, made.cams, made.readout, start_layer=2)


def test_normalisation_without_aggregation_is_refused() -> None:
    made = detr_case(0, (3, 5), Depths(1, 1, 1))
    with pytest.raises(InputError, match="normalise=False too"):
        bimodal.generic(made.wiring, made.cams, made.readout, aggregate=False)


def test_a_stream_that_is_not_there_names_the_streams() -> None:
    made = detr_case(0, (3, 5), Depths(1, 1, 1))
    with pytest.raises(InputError, match="no stream 'text': there are image, queries"):
        bimodal.generic(made.wiring, made.cams, replace(made.readout, stream="text"))
