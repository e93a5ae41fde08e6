"""Answers a maximum flow without a solver where it can be proven: by a cut and a flow that attains it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .flow_graph import Array, FlowGraph, State

TOLERANCE = 1e-9
"""How far, relatively, the feasible flow may stay below the cut: about what int32 capacities resolve."""
ROUNDS = 200
"""Rounds of the scaling at most; what has not settled by then is left to the solver."""


def upper_bound(graph: FlowGraph, source: int, targets: State) -> Array:
    """The least of the cheap cuts between the source and every target, (target,).

    The cuts: all that leaves the source towards the target; all that enters the target from where the source
    gets to; and, for either end, the same around the column of its token over 1, 2, ... states: the
    attentions into a token at every layer, say, whose residual connections stay inside the cut.
    """
    at_source = np.zeros((1, graph.size), dtype=bool)
    at_source[0, source] = True
    reached = graph.reach(at_source)[0]
    towards = np.zeros((targets.count, graph.size), dtype=bool)
    towards[:, targets.nodes] = np.eye(targets.count, dtype=bool)
    towards = graph.reversed().reach(towards)
    holder = graph.holder(source)
    below = _cuts_below(graph, source, holder, targets, towards)
    above = _cuts_above(graph, source, holder, targets, reached)
    return np.minimum(below, above)


def _cuts_above(
    graph: FlowGraph, source: int, holder: State | None, targets: State, reached: NDArray[np.bool_]
) -> Array:
    """The least of what enters {target}, {target, the same token a state nearer to the source}, ... ."""
    chain = graph.chain(targets, along=False)
    inside, cuts = np.zeros(targets.count), []
    for state, beyond in zip(chain, [*chain[1:], None], strict=True):
        arriving = graph.arriving(state) * reached
        through = np.zeros(targets.count)
        if beyond is not None:  # set apart, not taken off later: it may be a billion times the rest
            through = arriving[:, beyond.nodes].diagonal().copy()
            np.fill_diagonal(arriving[:, beyond.nodes], 0.0)
        inside = inside + arriving.sum(axis=1)
        cuts.append(inside + through)
    least = np.min(cuts, axis=0)
    if holder in chain:  # around the source's own token, the source has to stay outside
        token = source - holder.start
        least[token] = np.min(cuts[: chain.index(holder)], axis=0)[token]
    return least


def _cuts_below(
    graph: FlowGraph, source: int, holder: State | None, targets: State, towards: NDArray[np.bool_]
) -> Array:
    """The least of what leaves {source}, {source, the same token a state nearer to the targets}, ... ."""
    chain = [] if holder is None else graph.chain(holder, along=True)
    token = 0 if holder is None else source - holder.start
    nodes = [source] if holder is None else [state.start + token for state in chain]
    inside, cuts = np.zeros(targets.count), []
    for node, beyond in zip(nodes, [*nodes[1:], None], strict=True):
        leaving, through = graph.leaving(node), np.zeros(targets.count)
        if beyond is not None:
            through = leaving[beyond] * towards[:, beyond]
            leaving[beyond] = 0.0
        inside = inside + towards @ leaving
        cuts.append(inside + through)
    least = np.min(cuts, axis=0)
    if targets in chain:  # the target itself has to stay outside
        least[token] = np.min(cuts[: chain.index(targets)], axis=0)[token]
    return least


@np.errstate(all="ignore")  # where no scaling exists the factors grow without end, and the comparison fails
def certify(graph: FlowGraph, source: int, targets: State, bound: Array) -> NDArray[np.bool_]:
    """For which targets (target,) a feasible flow attains the bound, so that the bound is the maximum flow.

    The flow looked for is f[u, w] = alpha[u] * capacity[u, w] * beta[w]: what the source's edges send and
    what the target's edges take is set in proportion to their capacities, and alpha and beta between them
    are found by alternate scaling (Sinkhorn 1967) of the path sums, which keeps every node in balance. It
    respects the capacities where alpha[u] * beta[w] <= 1. All targets of a state are answered together.
    """
    leaving, arriving = graph.leaving(source), graph.arriving(targets)
    heads, tails = np.flatnonzero(leaving), np.flatnonzero(arriving.any(axis=0))
    certain = bound <= 0
    if leaving[targets.nodes].any() or not len(heads) or not len(tails):
        return certain
    seed = np.zeros((len(heads), graph.size))
    seed[np.arange(len(heads)), heads] = 1.0
    paths = graph.push(seed)[:, tails]
    able = np.flatnonzero(~certain)
    sent = leaving[heads] * ((paths > 0).astype(float) @ (arriving[able][:, tails] > 0).T.astype(float) > 0).T
    taken = arriving[able][:, tails] * (paths > 0).any(axis=0)
    left, right = _scale(paths, _shares(sent) * bound[able, None], _shares(taken) * bound[able, None])
    excess = _excess(graph, (heads, left, sent), (tails, right, taken))
    carried = (left * (right @ paths.T)).sum(axis=1)
    certain[able] = carried / np.maximum(excess, 1.0) >= bound[able] * (1 - TOLERANCE)
    return certain


def _shares(values: Array) -> Array:
    return _divide(values, values.sum(axis=1, keepdims=True))


def _divide(over: Array, under: Array) -> Array:
    """The quotient, 0 where there is nothing to divide by."""
    return np.divide(over, under, out=np.zeros(np.broadcast_shapes(over.shape, under.shape)), where=under > 0)


def _scale(paths: Array, sent: Array, taken: Array) -> tuple[Array, Array]:
    """Factors left and right with left * paths * right summing to `sent` by rows and `taken` by columns."""
    right = np.ones_like(taken)
    for _ in range(ROUNDS):
        left = _divide(sent, right @ paths.T)
        right = _divide(taken, left @ paths)
        error = np.abs(left * (right @ paths.T) - sent).max(initial=0.0)
        if error <= TOLERANCE / 10 * sent.max(initial=0.0):
            break
    return left, right


def _excess(
    graph: FlowGraph,
    begin: tuple[NDArray[np.int64], Array, Array],
    end: tuple[NDArray[np.int64], Array, Array],
) -> Array:
    """By how much, at most, the flow of each case exceeds the capacity of an edge, as a factor."""
    (heads, left, sent), (tails, right, taken) = begin, end
    seed = np.zeros((2, len(left), graph.size))
    seed[0][:, heads], seed[1][:, tails] = left, right
    alpha, beta = graph.push(seed[0]), graph.pull(seed[1])
    excess = np.maximum(
        _divide(left * beta[:, heads], sent).max(axis=1), _divide(alpha[:, tails] * right, taken).max(axis=1)
    )
    for block in graph.blocks:
        above, below = alpha[:, block.tail.nodes], beta[:, block.head.nodes]
        most = (
            (above * below).max(axis=1) if block.capacity.ndim == 1 else above.max(axis=1) * below.max(axis=1)
        )
        excess = np.maximum(excess, most)
    return excess
