"""Every method once more, on the maps of `explain_reference`, by the loops of the oracles, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from explain_oracles import (
    detr,
    fused,
    grad_cammed,
    legrad,
    lxmert,
    mixed,
    read,
    rolled,
    rolled_across,
    self_relevance,
    times,
)
from explain_oracles_flow import flow_graph, pair_flow
from explain_reference import Left, layer_slopes, left
from explain_reference_families import HANDS
from explain_reference_outside import cut, from_outside
from explain_reference_shapes import CoAttention, Decoder, Shape, Stack
from heedful.explain.wiring import CrossStep, SelfStep, Site, TogetherStep, Wiring
from numpy.typing import NDArray

Array = NDArray[np.float64]
Streams = dict[str, Array]
Settings = Mapping[str, Any]


class Row:
    """One input of one forward: its maps by number, their slopes, where its score is read."""

    def __init__(self, name: str, row: int, mode: str = "plain", target: Any = None) -> None:
        found: Left = left(name, mode, target)
        hand = HANDS[name]
        self.maps = [each[row].detach().numpy() for each in found.maps]
        self.slopes = [each[row].detach().numpy() for each in found.slopes]
        reads = hand.reads(found.outputs, hand.target if target is None else target)
        self.reads = {stream: shares[row] for stream, shares in reads.items()}

    def weights(self, shape: Shape) -> Array:
        """The shares of the stream's tokens in the score."""
        own = shape.layers[0] if isinstance(shape, Stack) else numbers(shape)[0][0]
        weights = np.zeros(self.maps[own].shape[1])
        for token, share in self.reads[shape.stream].items():
            weights[token] = share
        return weights

    def cams(self, fusion: str = "mean", signed: bool = False) -> list[Array]:
        """Eq. 5."""
        return [fused(a, g, fusion, signed) for a, g in zip(self.maps, self.slopes, strict=True)]

    def plain(self, fusion: str = "mean") -> list[Array]:
        return [fused(a, None, fusion) for a in self.maps]


def numbers(shape: Shape) -> tuple[list[int], dict[str, list[int]]]:
    """The attentions of the stream to itself, and to each context, bottom layer first."""
    if isinstance(shape, Stack):
        return [*shape.layers, *([] if shape.pool is None else [shape.pool])], {}
    if isinstance(shape, Decoder):
        return [own for own, _ in shape.layers], {shape.context: [cross for _, cross in shape.layers]}
    return (
        [*shape.own, *(layer[2] for layer in shape.layers)],
        {shape.context: [layer[0] for layer in shape.layers]},
    )


def row_of(shape: Shape, weights: Array, maps: list[Array], number: int, own: bool) -> Array:
    """What the tokens that are read see in one map."""
    if isinstance(shape, Stack) and number == shape.pool:
        return maps[number][0]
    return read(weights, maps[number], own=own)


def look(
    shape: Shape, weights: Array, maps: list[Array], layer: int = -1, query: int | None = None
) -> Streams:
    """One layer's maps, at what is read or at one token."""
    own, crosses = numbers(shape)
    if query is not None:
        own = [each for each in own if not (isinstance(shape, Stack) and each == shape.pool)]
        result = {shape.stream: maps[own[layer]][query]}
        return result | {context: maps[each[layer]][query] for context, each in crosses.items()}
    result = {shape.stream: row_of(shape, weights, maps, own[layer], True)}
    return result | {
        context: row_of(shape, weights, maps, each[layer], False) for context, each in crosses.items()
    }


def raw_attention(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen = Row(name, row)
    head, query = settings.get("head"), settings.get("query")
    maps = seen.plain(settings.get("fusion", "mean")) if head is None else [each[head] for each in seen.maps]
    if shape != HANDS[name].shapes[0]:
        query = None
    return look(shape, seen.weights(shape), maps, settings.get("layer", -1), query)


def grad_cam(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen = Row(name, row)
    maps = [
        grad_cammed(a, g, settings.get("signed", False)) for a, g in zip(seen.maps, seen.slopes, strict=True)
    ]
    return look(shape, seen.weights(shape), maps, settings.get("layer", -1))


def partial_lrp(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen = Row(name, row, "lrp")
    kept = seen.slopes if settings.get("signed") else [each.clip(min=0) for each in seen.slopes]
    return look(shape, seen.weights(shape), [each.mean(0) for each in kept], settings.get("layer", -1))


def stacked(shape: Stack, cams: list[Array], weights: Array, layers: list[int]) -> Array:
    """A row of Eq. 6; what the pooling query sees is carried whole."""
    relevance = self_relevance([cams[layer] for layer in layers])
    if shape.pool is not None:
        return read(cams[shape.pool][0], relevance)
    return read(weights, relevance, identity=True, own=True)


def by_rules(shape: Shape, cams: list[Array], weights: Array, settings: Settings) -> Streams:
    """Eq. 6 to 11."""
    start = settings.get("start_layer", 0)
    ablations = {k: v for k, v in settings.items() if k in ("normalise", "aggregate", "self_in_rule_10")}
    aggregate = settings.get("aggregate", True)
    if isinstance(shape, Stack):
        if aggregate:
            return {shape.stream: stacked(shape, cams, weights, list(shape.layers[start:]))}
        product = np.eye(len(cams[shape.layers[0]]))
        for layer in shape.layers:
            product = times(cams[layer], product)
        if shape.pool is not None:
            return {shape.stream: read(cams[shape.pool][0], product)}
        return {shape.stream: read(weights, product, own=True)}
    if isinstance(shape, Decoder):
        layers = [
            (np.zeros_like(cams[own]) if number < start else cams[own], cams[cross])
            for number, (own, cross) in enumerate(shape.layers)
        ]
        own, other = detr([cams[each] for each in shape.encoder[start:]], layers, **ablations)
    else:
        layers = [tuple(cams[each] for each in layer) for layer in shape.layers]
        own, other = lxmert(
            [cams[each] for each in shape.own[start:]],
            [cams[each] for each in shape.other[start:]],
            layers,
            **ablations,
        )
    return {
        shape.stream: read(weights, own, identity=aggregate, own=True),
        shape.context: read(weights, other),
    }


def generic(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen = Row(name, row, target=settings.get("target"))
    cams = seen.cams(settings.get("fusion", "mean"), settings.get("signed", False))
    return by_rules(shape, cams, seen.weights(shape), settings)


def libra(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen = Row(name, row, "libra")
    cams = seen.cams(settings.get("fusion", "mean"), settings.get("signed", False))
    return by_rules(shape, cams, seen.weights(shape), settings)


def attribution(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    """The own stream by Eq. 6, each context by the cam of the last attention to it."""
    seen, relevance = Row(name, row), Row(name, row, "lrp").slopes
    fusion, signed = settings.get("fusion", "mean"), settings.get("signed", False)
    cams = [fused(r, g, fusion, signed) for r, g in zip(relevance, seen.slopes, strict=True)]
    start, weights = settings.get("start_layer", 0), seen.weights(shape)
    own, crosses = numbers(shape)
    if isinstance(shape, Stack):
        return {shape.stream: stacked(shape, cams, weights, list(shape.layers[start:]))}
    result = {shape.stream: stacked(Stack(shape.stream, tuple(own)), cams, weights, own[start:])}
    return result | {context: read(weights, cams[each[-1]]) for context, each in crosses.items()}


def rolling(shape: Shape, cams: list[Array], weights: Array, normalise: bool, start: int) -> Streams:
    own, crosses = numbers(shape)
    if isinstance(shape, Stack) and shape.pool is not None:
        return {shape.stream: rolled_pool(shape, cams, normalise, start)}
    result = {shape.stream: read(weights, rolled([cams[each] for each in own[start:]], normalise), own=True)}
    for context, each in crosses.items():
        if isinstance(shape, Decoder):
            mine, other = own, list(shape.encoder)
        else:
            assert isinstance(shape, CoAttention)
            mine, other = own[:-1], [*shape.other, *(layer[3] for layer in shape.layers[:-1])]
        mine, other = ([cams[number] for number in stack[start:]] for stack in (mine, other))
        result[context] = read(weights, rolled_across(mine, cams[each[-1]], other, normalise))
    return result


def rolled_pool(shape: Stack, cams: list[Array], normalise: bool, start: int) -> Array:
    """The pooling query as one more token, the first, which the others do not see."""
    assert shape.pool is not None
    size = len(cams[shape.layers[0]]) + 1
    total = np.eye(size)
    for layer in (*shape.layers[start:], shape.pool):
        whole = np.zeros((size, size))
        if layer == shape.pool:
            whole[0, 1:] = cams[layer][0]
        else:
            whole[1:, 1:] = cams[layer]
        total = times(mixed(whole, normalise), total)
    return total[0, 1:]


def rollout(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen = Row(name, row)
    cams = seen.plain(settings.get("fusion", "mean"))
    return rolling(shape, cams, seen.weights(shape), True, settings.get("start_layer", 0))


def gradient_rollout(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen, normalise = Row(name, row), settings.get("normalise", False)
    fusion = settings.get("fusion", "mean")
    cams = seen.cams(fusion, signed=normalise)
    cams = [each.clip(min=0) for each in cams] if normalise else cams
    return rolling(shape, cams, seen.weights(shape), normalise, settings.get("start_layer", 0))


def of_layers(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    assert isinstance(shape, Stack)
    slopes = layer_slopes(name, shape.stream, shape.pool)[settings.get("start_layer", 0) :]
    result = legrad([each[row].detach().numpy() for each in slopes], settings.get("signed", False))
    if shape.pool is None:
        for token, share in Row(name, row).reads[shape.stream].items():
            result[token] = 0.0 if share == 1 else result[token]
    return {shape.stream: result}


def wired(shape: Shape) -> Wiring:
    """The order of the forward; sites are numbers."""

    def own(stream: str, number: int) -> SelfStep:
        return SelfStep(stream, Site(str(number)))

    if isinstance(shape, Stack):
        return Wiring(tuple(own(shape.stream, each) for each in shape.layers))
    if isinstance(shape, Decoder):
        steps: list[Any] = [own(shape.context, each) for each in shape.encoder]
        for mine, cross in shape.layers:
            steps += [own(shape.stream, mine), CrossStep(shape.stream, shape.context, Site(str(cross)))]
        return Wiring(tuple(steps))
    steps = [own(shape.stream, each) for each in shape.own] + [own(shape.context, e) for e in shape.other]
    for there, back, mine, other in shape.layers:
        crosses = (
            CrossStep(shape.stream, shape.context, Site(str(there))),
            CrossStep(shape.context, shape.stream, Site(str(back))),
        )
        steps += [TogetherStep(crosses), own(shape.stream, mine), own(shape.context, other)]
    return Wiring(tuple(steps))


def flowing(shape: Shape, capacities: list[Array], weights: Array, start: int) -> Streams:
    """The maximum flow to three tokens of every stream; elsewhere NaN."""
    maps = {Site(str(number)): each for number, each in enumerate(capacities)}
    wiring = wired(shape)
    below = frozenset(step.site for stream in wiring.streams for step in wiring.of(stream)[:start])
    graph, depth = flow_graph(wiring, maps, 0.5, below)
    top = (shape.stream, depth[shape.stream])
    source: tuple[str, int, int] = ("score", 0, 0)
    if isinstance(shape, Stack) and shape.pool is not None:
        for token, value in enumerate(capacities[shape.pool][0]):
            graph.add_edge(source, (*top, token), capacity=value)
    elif (weights == 1).any():
        source = (*top, int(weights.argmax()))
    else:
        for token in weights.nonzero()[0]:
            leaves = sum(each["capacity"] for each in graph[*top, int(token)].values())
            graph.add_edge(source, (*top, int(token)), capacity=weights[token] * leaves)
    result = {}
    for stream in depth:
        number = numbers(shape)[0][0] if stream == shape.stream else numbers(shape)[1][stream][0]
        count = capacities[number].shape[1]
        result[stream] = np.full(count, np.nan)
        for token in {1, count // 2, count * 3 // 4}:
            result[stream][token] = pair_flow(graph, source, (stream, 0, token))
    if source == (*top, source[2]):  # what a token that is read says of itself is not told
        result[shape.stream][source[2]] = 0.0
    return result


def flow(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen = Row(name, row)
    cams = seen.plain(settings.get("fusion", "mean"))
    return flowing(shape, cams, seen.weights(shape), settings.get("start_layer", 0))


def gradient_flow(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
    seen = Row(name, row)
    cams = seen.cams(settings.get("fusion", "mean"))
    return flowing(shape, cams, seen.weights(shape), settings.get("start_layer", 0))


def times_tokens(mode: str) -> Callable[..., Streams]:
    def rule(name: str, row: int, shape: Shape, settings: Settings) -> Streams:
        found = left(name, mode)
        result = {}
        for stream in {shape.stream, getattr(shape, "context", shape.stream)}:
            if stream in found.tokens:
                tokens = found.tokens[stream]
                (slope,) = torch.autograd.grad(found.scores.sum(), tokens, retain_graph=True)
                product = (slope * tokens).detach()[row]
                # DETR's tokens are a map with its channels first.
                result[stream] = product.sum(0 if product.ndim == 3 else 1).flatten().numpy()
        return result

    return rule


INSIDE: dict[str, Callable[..., Streams]] = {
    "raw_attention": raw_attention,
    "rollout": rollout,
    "gradient_rollout": gradient_rollout,
    "grad_cam": grad_cam,
    "generic": generic,
    "attribution": attribution,
    "partial_lrp": partial_lrp,
    "legrad": of_layers,
    "libra": libra,
    "flow": flow,
    "gradient_flow": gradient_flow,
    "gradient_x_input": times_tokens("plain"),
    "libra_gradient_x_input": times_tokens("libra"),
}


def reference(name: str, method: str, settings: Settings) -> dict[str, Array]:
    """What `explain` must answer: maps by what is shown, (row, ...)."""
    hand = HANDS[name]
    if method not in INSIDE:
        return {shown.kind: from_outside(name, method, shown, settings) for shown in hand.shown}
    rows = []
    for row in range(2):
        streams: Streams = {}
        for shape in hand.shapes:
            streams |= INSIDE[method](name, row, shape, settings)
        rows.append(streams)
    return {
        shown.kind: np.stack([cut(shown, each[shown.stream], row) for row, each in enumerate(rows)])
        for shown in hand.shown
        if shown.stream in rows[0]
    }
