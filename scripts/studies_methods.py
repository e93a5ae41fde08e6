"""Which methods a study of words, regions or boxes asks, and of how many items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from heedful.explain.evaluation import Method, all_methods
from heedful.explain.evaluation.choice import ABLATIONS

COUNT: Final = 500
"""Questions, captions or scenes of a study."""


def fitting(methods: Sequence[Method] | None, default: tuple[Method, ...]) -> tuple[Method, ...]:
    """The methods that are asked for; an ablation of this name as it fits the model."""
    known = {one.name: one for one in (*of_two(), *default)}
    return tuple(known.get(one.name, one) for one in methods) if methods else default


def of_one() -> tuple[Method, ...]:
    """All methods; of the ablations the one that means something where one stream attends to itself alone."""
    return tuple(one for one in all_methods() if one.name != ABLATIONS[0].name)


def of_two() -> tuple[Method, ...]:
    """All methods and both ablations: without aggregation there is no identity for Eq. 8 to take off."""
    alone = replace(ABLATIONS[1], settings={"aggregate": False, "normalise": False})
    return (*all_methods(ablations=False), ABLATIONS[0], alone)
