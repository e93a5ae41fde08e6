"""Attention flow against networkx on small graphs of every wiring, and what holds of any maximum flow."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from explain_oracles_flow import flow_graph, joint_flow, pair_flow
from heedful.explain.closed_form import upper_bound
from heedful.explain.errors import InputError
from heedful.explain.flow import attention_flow, pair_flows, token_flow
from heedful.explain.flow_graph import build
from heedful.explain.wiring import CrossStep, Readout, SelfStep, Site, TogetherStep, Wiring
from hypothesis import given
from hypothesis import strategies as st

SITES = [Site(f"attention.{place}") for place in range(9)]
SINGLE = Wiring(tuple(SelfStep("joint", site) for site in SITES[:3]))
CO_ATTENTION = Wiring(
    (
        SelfStep("text", SITES[0]),
        SelfStep("regions", SITES[1]),
        TogetherStep((CrossStep("text", "regions", SITES[2]), CrossStep("regions", "text", SITES[3]))),
        SelfStep("text", SITES[4]),
        SelfStep("regions", SITES[5]),
        CrossStep("text", "regions", SITES[6]),
        SelfStep("text", SITES[7]),
    )
)
ENCODER_DECODER = Wiring(
    (
        SelfStep("image", SITES[0]),
        SelfStep("image", SITES[1]),
        SelfStep("queries", SITES[2]),
        CrossStep("queries", "image", SITES[3]),
        SelfStep("queries", SITES[4]),
        CrossStep("queries", "image", SITES[5]),
    )
)
WIRINGS = {
    "single": (SINGLE, "joint", {"joint": 7}),
    "co-attention": (CO_ATTENTION, "text", {"text": 4, "regions": 3}),
    "encoder-decoder": (ENCODER_DECODER, "queries", {"image": 5, "queries": 3}),
}


def random_maps(
    wiring: Wiring, counts: dict[str, int], seed: int, *, kind: str, rows: int = 1
) -> dict[Site, torch.Tensor]:
    """Attention that is blurred or sharp, or gradients times attention with half of the edges at 0."""
    generator = torch.Generator().manual_seed(seed)
    maps = {}
    for step in wiring.flat:
        context = step.context if isinstance(step, CrossStep) else step.stream
        shape = (rows, counts[step.stream], counts[context])
        sharpness = {"blurred": 0.5, "sharp": 4.0, "gradient": 2.0}[kind]
        values = torch.softmax(sharpness * torch.randn(shape, generator=generator), dim=-1)
        if kind == "gradient":
            values = (values * torch.randn(shape, generator=generator) * 1e-3).clamp(min=0)
        maps[step.site] = values
    return maps


def one_hot(stream: str, count: int, token: int, rows: int = 1) -> Readout:
    weights = torch.zeros(rows, count)
    weights[:, token] = 1
    return Readout(stream, weights)


def numbers(maps: dict[Site, torch.Tensor], row: int = 0) -> dict[Site, np.ndarray]:
    return {site: values[row].double().numpy() for site, values in maps.items()}


cases = given(
    name=st.sampled_from(list(WIRINGS)),
    kind=st.sampled_from(["blurred", "sharp", "gradient"]),
    seed=st.integers(0, 10**6),
    residual=st.sampled_from([0.5, 0.0, 0.2]),
)


@cases
def test_flow_equals_networkx(name: str, kind: str, seed: int, residual: float) -> None:
    wiring, stream, counts = WIRINGS[name]
    maps = random_maps(wiring, counts, seed, kind=kind)
    token = seed % counts[stream]
    graph, depth = flow_graph(wiring, numbers(maps), residual)
    flow = attention_flow(wiring, maps, one_hot(stream, counts[stream], token), residual=residual)
    assert set(flow.values) == set(counts)
    for other, values in flow.values.items():
        wanted = [
            pair_flow(graph, (stream, depth[stream], token), (other, 0, key)) for key in range(counts[other])
        ]
        assert values.shape == (1, counts[other])
        np.testing.assert_allclose(values[0], wanted, rtol=1e-5, atol=1e-9 * max(wanted))


@cases
def test_hidden_token_flows_both_ways_as_networkx(name: str, kind: str, seed: int, residual: float) -> None:
    wiring, stream, counts = WIRINGS[name]
    maps = random_maps(wiring, counts, seed, kind=kind)
    graph, depth = flow_graph(wiring, numbers(maps), residual)
    down = token_flow(wiring, maps, stream, 1, depth=2, residual=residual)
    up = token_flow(wiring, maps, stream, 1, depth=1, direction="to_outputs", residual=residual)
    for other, count in counts.items():
        below = [pair_flow(graph, (stream, 2, 1), (other, 0, key)) for key in range(count)]
        above = [pair_flow(graph, (other, depth[other], key), (stream, 1, 1)) for key in range(count)]
        np.testing.assert_allclose(down.values[other][0], below, rtol=1e-6, atol=1e-6 * max(below) + 1e-30)
        np.testing.assert_allclose(up.values[other][0], above, rtol=1e-6, atol=1e-6 * max(above) + 1e-30)


@cases
def test_turning_edges_round_leaves_every_pair(name: str, kind: str, seed: int, residual: float) -> None:
    wiring, stream, counts = WIRINGS[name]
    maps = random_maps(wiring, counts, seed, kind=kind)
    down = torch.stack(
        [
            token_flow(wiring, maps, stream, query, residual=residual).values[stream][0]
            for query in range(counts[stream])
        ]
    )
    up = torch.stack(
        [
            token_flow(wiring, maps, stream, key, depth=0, direction="to_outputs", residual=residual).values[
                stream
            ][0]
            for key in range(counts[stream])
        ]
    )
    torch.testing.assert_close(down, up.T, rtol=1e-5, atol=1e-6 * float(down.max()))


@cases
def test_flow_never_exceeds_its_cuts(name: str, kind: str, seed: int, residual: float) -> None:
    wiring, stream, counts = WIRINGS[name]
    maps = numbers(random_maps(wiring, counts, seed, kind=kind))
    graph = build(wiring, maps, residual=residual)
    source = graph.states[stream][-1].start
    for states in graph.states.values():
        exact, _ = pair_flows(graph, source, states[0], closed_form=False)
        leaving, arriving = graph.leaving(source).sum(), graph.arriving(states[0]).sum(axis=1)
        assert (exact <= np.minimum(leaving, arriving) * (1 + 1e-9)).all()
        assert (exact <= upper_bound(graph, source, states[0]) * (1 + 1e-9)).all()


@given(seed=st.integers(0, 10**6), sharpness=st.floats(0.2, 4.0), layers=st.integers(2, 6))
def test_certified_values_are_those_of_the_solver(seed: int, sharpness: float, layers: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    wiring = Wiring(tuple(SelfStep("joint", site) for site in SITES[:layers]))
    maps = {
        site: torch.softmax(sharpness * torch.randn(1, 40, 40, generator=generator), -1)
        for site in wiring.sites
    }
    graph = build(wiring, numbers(maps), residual=0.5)
    source, inputs = graph.states["joint"][-1].start, graph.states["joint"][0]
    values, certain = pair_flows(graph, source, inputs)
    solved, _ = pair_flows(graph, source, inputs, closed_form=False)
    np.testing.assert_allclose(values[certain], solved[certain], rtol=1e-6)


def test_blurred_attention_is_certified_in_full() -> None:
    generator = torch.Generator().manual_seed(0)
    wiring = Wiring(tuple(SelfStep("joint", site) for site in SITES))
    maps = {site: torch.softmax(torch.randn(1, 60, 60, generator=generator), -1) for site in wiring.sites}
    flow = attention_flow(wiring, maps, one_hot("joint", 60, 0))
    assert flow.certified.tolist() == [1.0]
    column = (0.5 * maps[wiring.sites[0]][0] + 0.5 * torch.eye(60)).sum(0).clamp(max=1)
    torch.testing.assert_close(flow.values["joint"][0], column)


def test_batch_of_two_is_two_singles() -> None:
    for wiring, stream, counts in WIRINGS.values():
        maps = random_maps(wiring, counts, 3, kind="sharp", rows=2)
        weights = torch.rand(2, counts[stream], generator=torch.Generator().manual_seed(1))
        for direction in ("to_inputs", "from_inputs"):
            both = attention_flow(wiring, maps, Readout(stream, weights), direction=direction)
            for row in range(2):
                single = attention_flow(
                    wiring,
                    {site: values[row : row + 1] for site, values in maps.items()},
                    Readout(stream, weights[row : row + 1]),
                    direction=direction,
                )
                for other in counts:
                    torch.testing.assert_close(
                        both.values[other][row], single.values[other][0], rtol=0, atol=0
                    )
                assert both.saturated[row] == single.saturated[0]
                assert both.certified[row] == single.certified[0]


@cases
def test_inputs_together_fill_the_maximum_flow(name: str, kind: str, seed: int, residual: float) -> None:
    wiring, stream, counts = WIRINGS[name]
    maps = random_maps(wiring, counts, seed, kind=kind)
    readout = one_hot(stream, counts[stream], 0)
    own = attention_flow(wiring, maps, readout, residual=residual).values
    share = attention_flow(wiring, maps, readout, residual=residual, direction="from_inputs").values
    graph, depth = flow_graph(wiring, numbers(maps), residual)
    tokens = [(other, 0, key) for other in share for key in range(counts[other])]
    values = dict(zip(tokens, torch.cat([share[other][0] for other in share]).tolist(), strict=True))
    top = (stream, depth[stream], 0)
    known = [token for token in tokens if token in graph]
    total = joint_flow(graph, top, known)
    assert sum(values.values()) == pytest.approx(total, rel=1e-5)
    for size in (1, 2, 3):
        for some in list(combinations(known, size))[:12]:
            assert sum(values[token] for token in some) <= joint_flow(graph, top, list(some)) + 1e-5 * total
    for other in share:
        assert (share[other] <= own[other] * (1 + 1e-5) + 1e-6 * total).all()


def test_inputs_together_are_held_back_only_by_a_cut() -> None:
    """Two tokens behind one narrow edge share it by their weights; the third takes the rest."""
    wiring = Wiring((SelfStep("joint", SITES[0]), SelfStep("joint", SITES[1])))
    below = torch.zeros(1, 4, 4)
    below[0, 1, 1], below[0, 1, 2], below[0, 2, 3] = 0.4, 0.4, 0.9
    above = torch.zeros(1, 4, 4)
    above[0, 0, 1], above[0, 0, 2] = 0.2, 0.8
    maps = {SITES[0]: below, SITES[1]: above}
    readout = one_hot("joint", 4, 0)
    alone = attention_flow(wiring, maps, readout, residual=0.0).values["joint"][0]
    torch.testing.assert_close(alone, torch.tensor([0.0, 0.2, 0.2, 0.8]))
    together = attention_flow(wiring, maps, readout, residual=0.0, direction="from_inputs").values["joint"][0]
    torch.testing.assert_close(together, torch.tensor([0.0, 0.1, 0.1, 0.8]), rtol=1e-5, atol=1e-6)


def test_saturation_is_the_share_that_takes_all_the_readout_lets_through() -> None:
    """The readout attends to token 1 alone, which offers tokens 1 and 2 enough, and token 3 too little."""
    wiring = Wiring((SelfStep("joint", SITES[0]), SelfStep("joint", SITES[1])))
    below, above = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    below[0, 1] = torch.tensor([0.0, 0.6, 0.5, 0.1])
    above[0, 0, 1] = 0.5
    flow = attention_flow(wiring, {SITES[0]: below, SITES[1]: above}, one_hot("joint", 4, 0), residual=0.0)
    torch.testing.assert_close(flow.values["joint"], torch.tensor([[0.0, 0.5, 0.5, 0.1]]))
    assert flow.saturated.tolist() == [0.5]


def test_zero_capacities_carry_nothing() -> None:
    for wiring, stream, counts in WIRINGS.values():
        maps = {
            site: torch.zeros_like(values)
            for site, values in random_maps(wiring, counts, 0, kind="sharp").items()
        }
        readout = one_hot(stream, counts[stream], 1)
        for direction in ("to_inputs", "from_inputs"):
            flow = attention_flow(wiring, maps, readout, residual=0.0, direction=direction)
            assert all((values == 0).all() for values in flow.values.values())
            assert flow.saturated.tolist() == [0.0]
            alone = attention_flow(wiring, maps, readout, direction=direction).values[stream][0]
            torch.testing.assert_close(alone, 0.5 * readout.weights[0])


def test_faint_gradients_lose_nothing_to_the_residual() -> None:
    """Where the residual never is the bottleneck, flow grows as its capacities do, however small they are."""
    maps = random_maps(SINGLE, {"joint": 7}, 3, kind="gradient")
    readout = one_hot("joint", 7, 0)
    flows = [
        attention_flow(SINGLE, {site: scale * values for site, values in maps.items()}, readout)
        for scale in (1.0, 1e-8)
    ]
    known, faint = (flow.values["joint"][0, 1:] for flow in flows)
    assert (known > 0).any()
    torch.testing.assert_close(faint * 1e8, known, rtol=1e-5, atol=0)


def test_readout_of_several_tokens_stands_above_them() -> None:
    wiring, stream, counts = WIRINGS["encoder-decoder"]
    maps = random_maps(wiring, counts, 5, kind="gradient")
    weights = torch.tensor([[0.25, 0.0, 0.75]])
    flow = attention_flow(wiring, maps, Readout(stream, weights))
    graph, depth = flow_graph(wiring, numbers(maps), 0.5)
    for token, weight in enumerate(weights[0].tolist()):
        node = (stream, depth[stream], token)
        leaving = sum(edge["capacity"] for edge in graph[node].values())
        graph.add_edge(("above", 0, 0), node, capacity=weight * leaving)
    for other, count in counts.items():
        wanted = [pair_flow(graph, ("above", 0, 0), (other, 0, key)) for key in range(count)]
        np.testing.assert_allclose(flow.values[other][0], wanted, rtol=1e-5, atol=1e-7)


def test_pool_attention_is_the_node_above() -> None:
    wiring, stream, counts = WIRINGS["single"]
    maps = random_maps(wiring, counts, 2, kind="blurred")
    pool = Site("head")
    maps[pool] = torch.softmax(torch.randn(1, 1, 7, generator=torch.Generator().manual_seed(9)), -1)
    flow = attention_flow(wiring, maps, Readout(stream, torch.ones(1, 1), pool))
    graph, depth = flow_graph(wiring, numbers({site: maps[site] for site in wiring.sites}), 0.5)
    for token, value in enumerate(maps[pool][0, 0].tolist()):
        graph.add_edge(("above", 0, 0), (stream, depth[stream], token), capacity=value)
    wanted = [pair_flow(graph, ("above", 0, 0), (stream, 0, key)) for key in range(7)]
    np.testing.assert_allclose(flow.values[stream][0], wanted, rtol=1e-6)


def test_start_layer_leaves_out_the_lowest_self_attentions() -> None:
    wiring, stream, counts = WIRINGS["encoder-decoder"]
    maps = random_maps(wiring, counts, 4, kind="sharp")
    graph, depth = flow_graph(wiring, numbers(maps), 0.5, skip=frozenset({SITES[0], SITES[2]}))
    for start in (1, -1):
        flow = attention_flow(wiring, maps, one_hot(stream, 3, 2), start_layer=start)
        for other, count in counts.items():
            wanted = [pair_flow(graph, (stream, depth[stream], 2), (other, 0, key)) for key in range(count)]
            np.testing.assert_allclose(flow.values[other][0], wanted, rtol=1e-6, atol=1e-7)


def test_causal_attention_keeps_later_words_at_zero() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.triu(torch.ones(7, 7, dtype=torch.bool), diagonal=1)
    maps = {
        site: torch.softmax(torch.randn(1, 7, 7, generator=generator).masked_fill(hidden, -torch.inf), -1)
        for site in SINGLE.sites
    }
    flow = attention_flow(SINGLE, maps, one_hot("joint", 7, 4)).values["joint"][0]
    assert (flow[5:] == 0).all()
    graph, depth = flow_graph(SINGLE, numbers(maps), 0.5)
    wanted = [pair_flow(graph, ("joint", depth["joint"], 4), ("joint", 0, key)) for key in range(5)]
    np.testing.assert_allclose(flow[:5], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps[SITES[1]].__setitem__((0, 2, 3), -0.1), "below 0"),
        (lambda maps: maps[SITES[1]].__setitem__((0, 2, 3), torch.nan), "not finite"),
        (lambda maps: maps[SITES[1]].__setitem__((0, 2, 3), torch.inf), "not finite"),
        (lambda maps: maps.pop(SITES[2]), "no capacities for"),
        (lambda maps: maps.update({SITES[2]: torch.rand(1, 6, 6)}), "6 tokens of stream 'joint', but 7"),
        (lambda maps: maps.update({SITES[2]: torch.rand(2, 7, 7)}), "rows"),
    ],
)
def test_bad_capacities_are_refused(change: object, message: str) -> None:
    maps = random_maps(SINGLE, {"joint": 7}, 0, kind="blurred")
    change(maps)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        attention_flow(SINGLE, maps, one_hot("joint", 7, 0))


@pytest.mark.parametrize(
    "weights",
    [torch.zeros(1, 7), torch.ones(1, 6), torch.ones(2, 7), torch.full((1, 7), torch.nan), -torch.ones(1, 7)],
)
def test_a_readout_that_is_no_token_is_refused(weights: torch.Tensor) -> None:
    maps = random_maps(SINGLE, {"joint": 7}, 0, kind="blurred")
    with pytest.raises(InputError, match="readout"):
        attention_flow(SINGLE, maps, Readout("joint", weights))


def test_unknown_settings_are_refused() -> None:
    maps, readout = random_maps(SINGLE, {"joint": 7}, 0, kind="blurred"), one_hot("joint", 7, 0)
    with pytest.raises(InputError, match="'to_inputs' or 'from_inputs'"):
        attention_flow(SINGLE, maps, readout, direction="sideways")
    with pytest.raises(InputError, match="below 1"):
        attention_flow(SINGLE, maps, readout, residual=1.0)
    with pytest.raises(InputError, match="-3 to 2"):
        attention_flow(SINGLE, maps, readout, start_layer=3)
    with pytest.raises(InputError, match="no attention updates"):
        attention_flow(SINGLE, maps, Readout("text", torch.ones(1, 7)))
    with pytest.raises(InputError, match="there are: joint"):
        token_flow(SINGLE, maps, "text", 0)
    with pytest.raises(InputError, match="tokens 0 to 6"):
        token_flow(SINGLE, maps, "joint", 7)
    with pytest.raises(InputError, match="states 0"):
        token_flow(SINGLE, maps, "joint", 0, depth=4)
    with pytest.raises(InputError, match="where its flow would end"):
        token_flow(SINGLE, maps, "joint", 0, depth=0)
    with pytest.raises(InputError, match="'to_outputs'"):
        token_flow(SINGLE, maps, "joint", 0, direction="up")
