"""Attention flow: how much can run, at most, between a token and the inputs through all attentions at once.

Abnar & Zuidema 2020 (Quantifying Attention Flow in Transformers, 3) read attentions as pipes, and the flow
between a hidden token and an input token is the maximum flow between their nodes. Metzger et al. 2022
(Attention Flows for General Transformers) let the inputs be the sources, all together, and go on to
encoder-decoders. Values are exact: by a certificate where it holds (closed_form.py), else by scipy's Dinic
on int32 capacities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor

from .closed_form import certify, upper_bound
from .errors import InputError
from .flow_graph import Array, FlowGraph, State, build, token_counts
from .solver import maximum_flows
from .wiring import Readout, Site, Wiring

UNITS = 2**30
"""The integer that the largest possible flow is given: every capacity and every flow then fits an int32."""
CLOSE = 1e-6
"""Relative difference below which two flows count as equal, well above what rounding to integers costs."""


@dataclass(frozen=True)
class Flow:
    """Attention flow of every row to, or from, the tokens of every stream that takes part."""

    values: dict[str, Float[Tensor, "row _"]]
    saturated: Float[Tensor, "row"]
    """Share of the tokens whose own flow is all that the one end (the readout) lets through: they cannot be
    told apart."""
    certified: Float[Tensor, "row"]
    """Share of the tokens whose own flow was proven without a solver."""


def attention_flow(
    wiring: Wiring,
    capacities: Mapping[Site, Float[Tensor, "row _ _"]],
    readout: Readout,
    *,
    direction: str = "to_inputs",
    residual: float = 0.5,
    start_layer: int = 0,
) -> Flow:
    """Flow between what a score is read from and every input token of the streams below it.

    Every attention gets the capacities residual * I + (1 - residual) * C. In vanilla flow C is A, the
    attention averaged over heads (Abnar & Zuidema 2020, 3); class-specific flow takes E_h[(gradient * A)^+],
    which is not normalised, so that the flow has the gradients' scale. Cross-attention adds edges to the
    context as it is at that step, and the residual stays in the token's own stream.

    A readout of one token starts there. One of several tokens starts at a node above them with an edge of
    weight * (what can leave the token); a pooling attention is such a node, with the pool's own capacities.

    - `"to_inputs"`: the maximum flow from the readout to each input token, each for itself. Turning all edges
      round leaves it as it is, so this also is Metzger's flow from one input token alone.
    - `"from_inputs"`: all input tokens are sources together (Metzger et al. 2022), and the values sum to the
      one maximum flow to the readout. How it divides among them is not unique. Here it is the
      lexicographically optimal division for the tokens' own flows (Megiddo 1974; Fujishige 1980): in
      proportion to what each could deliver alone, and only where a cut forbids that, less.

    Args:
        wiring: the model's attentions.
        capacities: (row, query, key) for every site, and for `readout.pool`; finite and not negative.
        readout: the tokens of a stream, after its last layer.
        direction: see above.
        residual: share of the residual connection, at least 0 and below 1.
        start_layer: how many self-attentions of every stream are left out, from the bottom; negative ones
            count from the last.

    Returns:
        The values (row, token), float32. In those that the solver gives, rounding to integers costs at most
        2^-28 of `closed_form.upper_bound` for every edge of the minimum cut.

    Raises:
        InputError: for capacities that are negative, not finite, missing or of sizes that do not fit; a
            readout that names no token; an unknown direction, a residual or a start layer out of range.
    """
    if direction not in ("to_inputs", "from_inputs"):
        raise InputError(f"direction {direction!r} is not known; give 'to_inputs' or 'from_inputs'")
    part = wiring.part(readout.stream)
    maps = _checked(part, capacities, readout, residual)
    rows = []
    for row in range(len(readout.weights)):
        own = {site: values[row] for site, values in maps.items()}
        graph = build(part, own, residual=residual, start_layer=start_layer)
        graph, source = _with_readout(graph, readout, row, own)
        rows.append(_row(graph, source, together=direction == "from_inputs"))
    return _stacked(rows, readout.weights.device)


def token_flow(
    wiring: Wiring,
    capacities: Mapping[Site, Float[Tensor, "row _ _"]],
    stream: str,
    token: int,
    *,
    depth: int = -1,
    direction: str = "to_inputs",
    residual: float = 0.5,
    start_layer: int = 0,
) -> Flow:
    """Maximum flow from one hidden token to every input token, or to every token after the last step.

    Args:
        wiring: the model's attentions.
        capacities: as for `attention_flow`.
        stream: the token's stream.
        token: its place there.
        depth: after how many updates of the stream it is taken: 0 is the input, -1 the last.
        direction: which way the flow leads; turned round, the flow of a pair stays the same.
        residual: as for `attention_flow`.
        start_layer: as for `attention_flow`.

    Raises:
        InputError: as `attention_flow`, and for a token or a depth that is not there.
    """
    if direction not in ("to_inputs", "to_outputs"):
        raise InputError(f"direction {direction!r} is not known; give 'to_inputs' or 'to_outputs'")
    maps = _checked(wiring, capacities, None, residual)
    rows = []
    for row in range(len(next(iter(maps.values())))):
        own = {site: values[row] for site, values in maps.items()}
        graph = build(wiring, own, residual=residual, start_layer=start_layer)
        graph = graph.reversed() if direction == "to_outputs" else graph
        rows.append(_row(graph, _node(graph, stream, token, depth)))
    return _stacked(rows, next(iter(capacities.values())).device)


@dataclass(frozen=True)
class _Row:
    values: dict[str, Array]
    saturated: float
    certified: float


def _row(graph: FlowGraph, source: int, *, together: bool = False) -> _Row:
    """One row: each token's own flow, and if asked the division of the flow of all together."""
    ends = {name: states[-1 if graph.upward else 0] for name, states in graph.states.items()}
    if graph.holder(source) in ends.values():
        raise InputError("the token itself is where its flow would end; take another depth or direction")
    found = {name: pair_flows(graph, source, end) for name, end in ends.items()}
    own = np.concatenate([values for values, _ in found.values()])
    certain = np.concatenate([proven for _, proven in found.values()])
    limit = graph.leaving(source).sum()
    nodes = np.concatenate([np.arange(end.start, end.start + end.count) for end in ends.values()])
    division = divide(graph, source, nodes, own) if together else own
    places = np.split(division, np.cumsum([end.count for end in ends.values()])[:-1])
    saturated = ((own >= limit * (1 - CLOSE)) & (limit > 0)).mean()
    return _Row(dict(zip(ends, places, strict=True)), float(saturated), float(certain.mean()))


def _stacked(rows: list[_Row], device: torch.device) -> Flow:
    values = {name: np.stack([row.values[name] for row in rows]) for name in rows[0].values}
    return Flow(
        {name: torch.from_numpy(each).float().to(device) for name, each in values.items()},
        torch.tensor([row.saturated for row in rows], device=device),
        torch.tensor([row.certified for row in rows], device=device),
    )


def pair_flows(
    graph: FlowGraph, source: int, targets: State, *, closed_form: bool = True
) -> tuple[Array, NDArray[np.bool_]]:
    """The maximum flow from a node to each node of a state, and for which it was proven without a solver."""
    bound = upper_bound(graph, source, targets)
    certain = certify(graph, source, targets, bound) if closed_form else bound <= 0
    values, open_ = bound.copy(), np.flatnonzero(~certain)
    open_ = open_[np.argsort(-bound[open_], kind="stable")]
    while len(open_):
        top = bound[open_[0]]
        places = open_[bound[open_] >= top / 8]  # small flows get a finer grid of integers
        flows = maximum_flows(_edges(graph, top), source, targets.start + places)
        values[places] = np.minimum(flows * (top / UNITS), bound[places])
        open_ = open_[len(places) :]
    return values, certain


def divide(graph: FlowGraph, source: int, ends: NDArray[np.int64], weights: Array) -> Array:
    """Divide the maximum flow between a node and all `ends`: lexicographically optimal for the weights.

    All ends rise in proportion to their weights until a cut holds some of them back; those stay, the others
    rise on. The level at which that happens is found by Newton's steps from cut to cut.
    """
    top = graph.leaving(source).sum()
    values, rising = np.zeros(len(ends)), weights > 0
    if not rising.any() or top <= 0:
        return values
    edges = _edges(graph, top, sink=True)
    total = _joint(edges, source, ends, np.full(len(ends), top), top)[0]
    while rising.any():
        level = max(total - values[~rising].sum(), 0.0) / weights[rising].sum()
        held = np.zeros(len(ends), dtype=bool)
        for _ in ends:
            values[rising] = level * weights[rising]
            flow, blocked = _joint(edges, source, ends, values, top)
            if flow >= values.sum() * (1 - CLOSE) or not (blocked & rising).any():
                break
            held = blocked & rising
            room = flow - values[~blocked].sum() - values[blocked & ~rising].sum()
            level = max(room, 0.0) / weights[held].sum()
        rising = rising & ~held if held.any() else held
    return values


def _joint(
    edges: csr_array, source: int, ends: NDArray[np.int64], limits: Array, top: float
) -> tuple[float, NDArray[np.bool_]]:
    """The flow to all ends, each up to its limit, and which of them a cut holds back."""
    sink = edges.shape[0] - 1
    caps = np.rint(np.minimum(limits, top) * (UNITS / top)).astype(np.int32)
    last = csr_array((caps, (ends.astype(np.int32), np.full(len(ends), sink, np.int32))), shape=edges.shape)
    full = csr_array(edges + last)
    result = maximum_flow(full, source, sink, method="dinic")
    spare = csr_array(full - result.flow)
    spare.eliminate_zeros()
    reached = breadth_first_order(spare, source, return_predecessors=False)
    return result.flow_value * top / UNITS, ~np.isin(ends, reached)


def _edges(graph: FlowGraph, top: float, *, sink: bool = False) -> csr_array:
    """The graph in integers: `top`, which no flow exceeds, is UNITS, and so is any capacity above."""
    edges = [block.edges() for block in graph.blocks]
    tail, head = (np.concatenate([edge[end] for edge in edges]).astype(np.int32) for end in (0, 1))
    values = np.concatenate([edge[2] for edge in edges])
    size = graph.size + sink
    found = csr_array((values, (tail, head)), shape=(size, size))
    found.data = np.rint(np.minimum(found.data, top) * (UNITS / top)).astype(np.int32)
    return found


def _with_readout(
    graph: FlowGraph, readout: Readout, row: int, capacities: Mapping[Site, Array]
) -> tuple[FlowGraph, int]:
    """The node that the score is read from: a token, or one above several."""
    state = graph.states[readout.stream][-1]
    weights = _array(readout.weights[row])
    if readout.pool is not None:
        return graph.with_source({state: weights @ capacities[readout.pool]})
    tokens = np.flatnonzero(weights)
    if len(tokens) == 1:
        return graph, state.start + int(tokens[0])
    return graph.with_source({state: weights * graph.out_capacity()[state.nodes]})


def _node(graph: FlowGraph, stream: str, token: int, depth: int) -> int:
    if stream not in graph.states:
        raise InputError(f"no stream {stream!r} in this wiring; there are: {', '.join(graph.states)}")
    states = graph.states[stream]
    if not -len(states) <= depth < len(states):
        raise InputError(f"depth {depth}: stream {stream!r} has states 0 (its input) to {len(states) - 1}")
    if not 0 <= token < states[0].count:
        raise InputError(f"token {token}: stream {stream!r} has tokens 0 to {states[0].count - 1}")
    return states[depth].start + token


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()


def _checked(
    wiring: Wiring, capacities: Mapping[Site, Tensor], readout: Readout | None, residual: float
) -> dict[Site, Array]:
    """The capacities in float64, after everything that would make a flow meaningless is refused."""
    if not 0 <= residual < 1:
        raise InputError(f"residual {residual}: the residual's share is at least 0 and below 1")
    pool = () if readout is None or readout.pool is None else (readout.pool,)
    wanted = (*wiring.sites, *pool)
    if missing := [site for site in wanted if site not in capacities]:
        raise InputError(f"no capacities for {missing[0]}; give one (row, query, key) map for every site")
    if not wiring.sites:
        raise InputError("no attention updates the stream that is read, so nothing flows to it")
    maps = {site: _array(capacities[site]) for site in wanted}
    for site, values in maps.items():
        if not np.isfinite(values).all():
            raise InputError(
                f"{site}: capacities that are not finite; the model's attention or gradients are not"
            )
        if (values < 0).any():
            raise InputError(
                f"{site}: capacities below 0; clamp gradient * attention at 0 (signed maps cannot flow)"
            )
    if len(rows := {len(values) for values in maps.values()}) > 1:
        raise InputError(f"maps of {sorted(rows)} rows; give every site the same number of rows")
    if readout is not None:
        _check_readout(readout, token_counts(wiring, maps), rows.pop(), maps)
    return maps


def _check_readout(readout: Readout, counts: dict[str, int], rows: int, maps: Mapping[Site, Array]) -> None:
    """Refuse a readout that is no token of its stream."""
    count = counts[readout.stream]
    if readout.pool is not None:
        queries, keys = maps[readout.pool].shape[1:]
        if keys != count:
            raise InputError(f"{readout.pool}: {keys} keys, but stream {readout.stream!r} has {count} tokens")
        count = queries
    weights = _array(readout.weights)
    if weights.shape != (rows, count):
        raise InputError(
            f"readout weights {weights.shape} for {rows} rows and {count} tokens; they are (row, token) of "
            f"the stream {readout.stream!r}, or of the pooling queries"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not (weights.sum(axis=1) > 0).all():
        raise InputError(
            "a readout names no token: its weights are finite, not negative, and not all 0 in any row"
        )
