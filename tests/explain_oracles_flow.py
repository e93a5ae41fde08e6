"""Attention flow the slow way: a networkx graph built edge by edge from the wiring, and its maximum flow."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import numpy as np
from heedful.explain.wiring import CrossStep, SelfStep, Site, TogetherStep, Wiring

Node = tuple[str, int, int]
"""Stream, number of updates, token."""


def flow_graph(
    wiring: Wiring, maps: Mapping[Site, np.ndarray], residual: float, skip: frozenset[Site] = frozenset()
) -> tuple[nx.DiGraph, dict[str, int]]:
    """Edges from the attending token down to the attended one, and the number of updates of each stream."""
    graph, depth = nx.DiGraph(), dict.fromkeys(wiring.streams, 0)
    for step in wiring.steps:
        before = dict(depth)
        for part in step.steps if isinstance(step, TogetherStep) else (step,):
            if part.site in skip:
                continue
            assert isinstance(part, SelfStep | CrossStep)
            context = part.context if isinstance(part, CrossStep) else part.stream
            own, below = depth[part.stream], before[context]
            for (query, key), value in np.ndenumerate(maps[part.site]):
                _add(
                    graph, (part.stream, own + 1, query), (context, below, key), (1 - residual) * float(value)
                )
            for token in range(maps[part.site].shape[0]):
                _add(graph, (part.stream, own + 1, token), (part.stream, own, token), residual)
            depth[part.stream] += 1
    return graph, depth


def _add(graph: nx.DiGraph, tail: Node, head: Node, capacity: float) -> None:
    old = graph[tail][head]["capacity"] if graph.has_edge(tail, head) else 0.0
    graph.add_edge(tail, head, capacity=old + capacity)


def pair_flow(graph: nx.DiGraph, tail: Node, head: Node) -> float:
    """The maximum flow between two nodes; 0 where one of them has no edge at all."""
    if tail not in graph or head not in graph:
        return 0.0
    return float(nx.maximum_flow_value(graph, tail, head))


def joint_flow(graph: nx.DiGraph, tail: Node, heads: list[Node]) -> float:
    """The maximum flow from a node to several others together."""
    together = graph.copy()
    for head in heads:
        together.add_edge(head, "all")  # without a capacity: unlimited
    return float(nx.maximum_flow_value(together, tail, "all"))
