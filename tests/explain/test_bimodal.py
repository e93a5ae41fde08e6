"""The generic rules on LXMERT's, DETR's and plain wirings equal twins written out in that very order."""

from __future__ import annotations

from dataclasses import replace

import explain_oracles as twin
import pytest
import torch
from explain_cases import (
    DEPTHS,
    METHODS,
    POOL,
    SEEDS,
    SIZES,
    VARIANTS,
    Case,
    Depths,
    Variant,
    all_cases,
    case,
    detr_case,
    detr_parts,
    equal,
    lxmert_case,
    lxmert_parts,
    lxmert_wiring,
    plain_wiring,
    rows_of,
    same,
)
from heedful.explain import bimodal
from heedful.explain.errors import InputError
from heedful.explain.rules import self_relevance
from heedful.explain.wiring import CrossStep, Site, Wiring
from hypothesis import given
from hypothesis import strategies as st


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
