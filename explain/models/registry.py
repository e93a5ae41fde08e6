"""Finds the adapter for a model by its class, and takes adapters of a user's own."""

from __future__ import annotations

from torch import nn

from ..errors import UnknownFamilyError
from .family import Family

_families: list[Family] = []


def register(family: Family) -> Family:
    """Make an adapter known; the latest one that takes a class wins."""
    _families.insert(0, family)
    return family


def families() -> tuple[Family, ...]:
    """All adapters, the latest first."""
    return tuple(_families)


def family_of(model: nn.Module) -> Family:
    """The adapter for a model: by the name of its class, then by those of its base classes.

    Raises:
        UnknownFamilyError: names the families, and says how to write an adapter.
    """
    for kind in type(model).__mro__:
        for family in _families:
            if kind.__name__ in family.classes:
                return family
    known = "; ".join(f"{family.name} ({', '.join(family.classes)})" for family in reversed(_families))
    raise UnknownFamilyError(
        f"no adapter takes a {type(model).__name__}. Known families: {known or 'none'}. For another model "
        "write a subclass of heedful.explain.models.Family and pass it to heedful.explain.models.register: "
        "docs/adapters.md shows one in full"
    )
