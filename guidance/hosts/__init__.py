"""The pipelines that guidance knows, by class name, and how it reads each of them.

To add one, name its class: `HOSTS["MyPipeline"] = Host` where it works as Stable Diffusion does, or a
subclass of `Host` that says what is different.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UnsupportedError
from .base import Host
from .controlnet import CONTROLS
from .flux import FLUX
from .modular import MODULAR
from .pag import PAG
from .sd3 import SD3
from .unets import UNETS

HOSTS: dict[str, type[Host]] = {
    **UNETS,
    **PAG,
    **CONTROLS,
    **MODULAR,
    **SD3,
    **FLUX,
}
"""By the class name of a pipeline, its subclasses included."""

__all__ = ["HOSTS", "Host", "host_of", "host_type"]


def host_type(pipe: Any, who: str = "guide") -> type[Host]:
    """How to read this pipeline.

    Raises:
        UnsupportedError: neither its class nor one of its ancestors is in `HOSTS`.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in HOSTS:
            return HOSTS[cls.__name__]
    name = type(pipe).__name__
    raise UnsupportedError(
        f"{who} does not know {name}; it knows: {', '.join(HOSTS)}. If it works like one of these, say so: "
        f'from heedful.guidance.hosts import HOSTS; HOSTS["{name}"] = HOSTS["{next(iter(HOSTS))}"] '
        "(docs/pipelines.md tells what must hold)"
    )


def host_of(
    pipe: Any,
    arguments: Mapping[str, Any],
    who: str = "guide",
    prompt: str | Sequence[str] | None = None,
) -> Host:
    """One call of a pipeline, given all its arguments by name."""
    return host_type(pipe, who)(pipe, arguments, prompt)
