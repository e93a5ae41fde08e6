"""All studies by name: what builds each, from the modules that bind models and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from ..explain.evaluation.study import Study
from .methods_settings import STUDIES
from .settings import UsageError

Builder = Callable[..., Study]
"""Takes (count, device, dtype, methods, seed); None for each study's own."""
MODULES: Final = ("studies_vision", "studies_families")
"""Where builders are looked for, in this order: a model's code is not imported before it is needed."""


def builder(name: str) -> Builder:
    """What builds the study of this name.

    Raises:
        UsageError: a study that is not there.
    """
    for module in MODULES:
        found: Mapping[str, Builder] = import_module(f".{module}", __package__).STUDIES
        if name in found:
            return found[name]
    raise UsageError(f'there is no study "{name}"; choose of {", ".join(STUDIES)}')


def all_builders() -> dict[str, Builder]:
    """Every one of them."""
    return {
        name: build
        for module in MODULES
        for name, build in import_module(f".{module}", __package__).STUDIES.items()
    }
