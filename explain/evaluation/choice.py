"""Which methods a study compares, with the settings at which hundreds of cases stay affordable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..methods import METHODS

_CHEAPER: Final[Mapping[str, Mapping[str, Any]]] = {
    "smoothgrad": {"samples": 8},
    "integrated_gradients": {"steps": 8},
}
"""Settings with which the methods that need many forwards stay affordable on hundreds of cases."""
_QUICK: Final = ("generic", "libra", "grad_cam", "rollout", "raw_attention", "gradient_x_input")


@dataclass(frozen=True)
class Method:
    """A relevance method with its settings, under the name that tables show."""

    name: str
    rule: str
    settings: Mapping[str, Any] = field(default_factory=dict)


ABLATIONS: Final = (
    Method("generic, no normalisation", "generic", {"normalise": False}),
    Method("generic, no aggregation", "generic", {"aggregate": False}),
)
"""The two ablations of Chefer et al. 2021 (ICCV): without Eq. 8 and 9, and with the last layer alone."""


def all_methods(*, ablations: bool = True, quick: bool = False) -> tuple[Method, ...]:
    """Every method of `explain.METHODS`, those of many forwards with smaller settings than their defaults.

    Args:
        ablations: both of the generic rule, too.
        quick: only a handful that each need one forward.
    """
    rules = _QUICK if quick else METHODS
    found = tuple(Method(rule, rule, _CHEAPER.get(rule, {})) for rule in rules)
    return found + (ABLATIONS if ablations and not quick else ())
