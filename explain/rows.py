"""What a readout sees of a wiring, and the row that it starts: what every attention-based method shares."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from .errors import InputError
from .rules import position, row_relevance, row_times, without_readout
from .wiring import CrossStep, Readout, SelfStep, Site, Wiring

Cams = Mapping[Site, Float[Tensor, "row _ _"]]
"""Attentions with their heads fused, (row, query, key)."""
Heads = Mapping[Site, Float[Tensor, "row _ _ _"]]
"""Attentions or their gradients, (row, head, query, key)."""
Result = dict[str, Float[Tensor, "row _"]]


def seen(wiring: Wiring, readout: Readout, start_layer: int = 0) -> Wiring:
    """The steps that the readout can see, less the self-attentions below the start layer of their stream."""
    if readout.stream not in wiring.streams:
        raise InputError(
            f"there is no stream {readout.stream!r}: there are {', '.join(wiring.streams) or 'none'}"
        )
    wiring = wiring.part(readout.stream)
    skipped: set[Site] = set()
    for stream in wiring.streams:
        if steps := wiring.of(stream):
            first = position(start_layer, len(steps), f"self-attention layer of stream {stream!r}")
            skipped |= {step.site for step in steps[:first]}
    return Wiring(tuple(s for s in wiring.steps if not (isinstance(s, SelfStep) and s.site in skipped)))


def get(maps: Mapping[Site, Tensor], site: Site) -> Tensor:
    """The map of a site, or an error that names it."""
    if site not in maps:
        raise InputError(
            f"{site.module} (call {site.call}) can be seen by the readout, but its map is not among the "
            f"{len(maps)} that were given"
        )
    return maps[site]


def start_row(maps: Cams, readout: Readout) -> Tensor:
    """The row that is carried down: the readout's weights, or what its pooling queries attend to."""
    return readout.weights if readout.pool is None else row_times(readout.weights, get(maps, readout.pool))


def finish(row: Tensor, readout: Readout, *, has_identity: bool = False) -> Tensor:
    """Take off what the tokens that are read say of themselves; a pooling query is no token of the stream."""
    if readout.pool is not None:
        return row
    return without_readout(row - readout.weights if has_identity else row, readout.weights)


def plain(wiring: Wiring, cams: Cams, readout: Readout, aggregate: bool) -> Tensor:
    """One stream of self-attentions: the row alone."""
    row = start_row(cams, readout)
    top_first = [get(cams, site) for site in reversed(wiring.sites)]
    if aggregate:
        return finish(row_relevance(top_first, row), readout, has_identity=True)
    for cam in top_first:
        row = row_times(row, cam)
    return finish(row, readout)


def last_crosses(wiring: Wiring, stream: str) -> dict[str, int]:
    """For every context of a stream where its last attention to it is, among all attentions in order."""
    return {
        step.context: index
        for index, step in enumerate(wiring.flat)
        if isinstance(step, CrossStep) and step.stream == stream
    }
