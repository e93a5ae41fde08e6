"""The graph that attention flow runs in: a node for every token after every step, edges for attentions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .wiring import CrossStep, SelfStep, Site, TogetherStep, Wiring

Array = NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """The tokens of a stream after so many of its steps: `count` nodes from `start` on."""

    start: int
    count: int

    @property
    def nodes(self) -> slice:
        """Where they lie among all nodes."""
        return slice(self.start, self.start + self.count)


@dataclass(frozen=True)
class Block:
    """Edges from every node of one state to nodes of another; a vector joins equal tokens only."""

    tail: State
    head: State
    capacity: Array

    def push(self, mass: Array) -> Array:
        """Mass (case, tail) times capacity, arriving at the head."""
        return mass * self.capacity if self.capacity.ndim == 1 else mass @ self.capacity

    def pull(self, mass: Array) -> Array:
        """Mass (case, head) times capacity, seen from the tail."""
        return mass * self.capacity if self.capacity.ndim == 1 else mass @ self.capacity.T

    def reversed(self) -> Block:
        """The same edges, turned round."""
        return Block(self.head, self.tail, self.capacity.T)

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """Tail nodes, head nodes and capacities of the edges that can carry anything."""
        if self.capacity.ndim == 1:
            tail = head = np.flatnonzero(self.capacity)
            values = self.capacity[tail]
        else:
            tail, head = np.nonzero(self.capacity)
            values = self.capacity[tail, head]
        return tail + self.tail.start, head + self.head.start, values


@dataclass(frozen=True)
class FlowGraph:
    """A directed graph without cycles, for one row.

    `blocks` are in the order of the flow: all edges into a node come before those out of it.
    """

    blocks: tuple[Block, ...]
    states: Mapping[str, tuple[State, ...]]
    """The states of every stream, its inputs first."""
    size: int
    upward: bool = False
    """Whether the edges lead from the inputs to the last states; as attention is read, they lead down."""

    def reversed(self) -> FlowGraph:
        """All edges turned round."""
        blocks = tuple(block.reversed() for block in reversed(self.blocks))
        return replace(self, blocks=blocks, upward=not self.upward)

    def holder(self, node: int) -> State | None:
        """The state that a node belongs to; none for a source that was added."""
        every = (state for states in self.states.values() for state in states)
        return next((state for state in every if state.start <= node < state.start + state.count), None)

    def chain(self, first: State, *, along: bool) -> list[State]:
        """The states of a stream from one on, with the flow (`along`) or against it, to the last or first."""
        states = next(own for own in self.states.values() if first in own)
        place = states.index(first)
        return list(states[place:] if along == self.upward else states[place::-1])

    def push(self, seed: Array) -> Array:
        """For each case (case, node) the sum over all paths from the seed of their capacities' product."""
        mass = seed.copy()
        for block in self.blocks:
            mass[:, block.head.nodes] += block.push(mass[:, block.tail.nodes])
        return mass

    def pull(self, seed: Array) -> Array:
        """As `push`, over all paths that end where the seed is."""
        return self.reversed().push(seed)

    def reach(self, seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """For each case the nodes that some path leads to; immune to products that vanish."""
        found = seed.copy()
        for block in self.blocks:
            step = replace(block, capacity=(block.capacity > 0).astype(np.float64))
            found[:, block.head.nodes] |= step.push(found[:, block.tail.nodes].astype(np.float64)) > 0
        return found

    def out_capacity(self) -> Array:
        """What may leave each node."""
        total = np.zeros(self.size)
        for block in self.blocks:
            total[block.tail.nodes] += block.pull(np.ones((1, block.head.count)))[0]
        return total

    def leaving(self, node: int) -> Array:
        """The capacities of the edges from one node to every other."""
        total = np.zeros(self.size)
        for block in self.blocks:
            if block.tail.start <= node < block.tail.start + block.tail.count:
                seed = np.zeros((1, block.tail.count))
                seed[0, node - block.tail.start] = 1.0
                total[block.head.nodes] += block.push(seed)[0]
        return total

    def arriving(self, nodes: State) -> Array:
        """The capacities (node of the state, node) of the edges that end in a state."""
        total = np.zeros((nodes.count, self.size))
        for block in self.blocks:
            if block.head == nodes:
                dense = np.diag(block.capacity) if block.capacity.ndim == 1 else block.capacity
                total[:, block.tail.nodes] += dense.T
        return total

    def with_source(self, capacity: Mapping[State, Array]) -> tuple[FlowGraph, int]:
        """One more node, before all others, with edges to states; returns the graph and that node."""
        one = State(self.size, 1)
        blocks = tuple(Block(one, state, values[None]) for state, values in capacity.items())
        return replace(self, blocks=blocks + self.blocks, size=self.size + 1), self.size


def build(
    wiring: Wiring, capacities: Mapping[Site, Array], *, residual: float, start_layer: int = 0
) -> FlowGraph:
    """The graph of one row, its edges from the last states down to the inputs.

    A step makes a new state of its stream. Token q of it has an edge to every token k that it attends to, of
    capacity (1 - residual) * capacities[q, k], and one to itself a state below, of capacity `residual`.

    Args:
        wiring: the attentions, in the order of the forward.
        capacities: (query, key) for every site, not negative.
        residual: the share of the residual connection; 0 leaves those edges out.
        start_layer: how many of a stream's self-attentions to leave out, from the bottom; negative ones count
            from the last.

    Raises:
        InputError: where sites are missing, sizes do not fit together, or there is no such layer.
    """
    counts = token_counts(wiring, capacities)
    skipped = {
        step.site for stream in wiring.streams for step in _skipped(wiring.of(stream), stream, start_layer)
    }
    size, states = 0, {}
    for stream, count in counts.items():
        states[stream] = [State(size, count)]
        size += count
    blocks: list[Block] = []
    for step in wiring.steps:
        before = {stream: own[-1] for stream, own in states.items()}
        for part in step.steps if isinstance(step, TogetherStep) else (step,):
            if part.site in skipped:
                continue
            old, new = states[part.stream][-1], State(size, counts[part.stream])
            blocks += _blocks(part, new, old, before, (1 - residual) * capacities[part.site], residual)
            states[part.stream].append(new)
            size += new.count
    return FlowGraph(tuple(reversed(blocks)), {name: tuple(own) for name, own in states.items()}, size)


def _blocks(
    step: SelfStep | CrossStep,
    new: State,
    old: State,
    before: Mapping[str, State],
    capacity: Array,
    residual: float,
) -> list[Block]:
    if isinstance(step, SelfStep):
        return [Block(new, old, capacity + residual * np.eye(new.count))]
    own = Block(new, old, np.full(new.count, residual))
    return [own, Block(new, before[step.context], capacity)]


def _skipped(layers: tuple[SelfStep, ...], stream: str, start_layer: int) -> tuple[SelfStep, ...]:
    if start_layer == 0 or not layers:
        return ()
    if not -len(layers) <= start_layer < len(layers):
        raise InputError(
            f"start_layer {start_layer}: stream {stream!r} has {len(layers)} self-attention layers; "
            f"give one of {-len(layers)} to {len(layers) - 1}"
        )
    return layers[: start_layer % len(layers)]


def token_counts(wiring: Wiring, capacities: Mapping[Site, Array]) -> dict[str, int]:
    """How many tokens each stream has, by the sizes of its maps; refuses sizes that contradict each other."""
    counts: dict[str, int] = {}
    for step in wiring.flat:
        if step.site not in capacities:
            raise InputError(f"no capacities for {step.site}; give one map for every site of the wiring")
        context = step.context if isinstance(step, CrossStep) else step.stream
        for stream, count in zip((step.stream, context), capacities[step.site].shape[-2:], strict=True):
            if counts.setdefault(stream, count) != count:
                raise InputError(
                    f"{step.site}: {count} tokens of stream {stream!r}, but {counts[stream]} in other maps; "
                    "maps are (row, query, key), all of one forward"
                )
    return counts
