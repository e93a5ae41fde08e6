"""Lets a probe fit into little memory: what holds no layer that is read is run again in the backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from .intercept import is_compiled
from .layers import Layer


@contextmanager
def checkpointed(denoiser: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
    """Within the block, parts of the denoiser that hold none of the layers are checkpointed, if that is on.

    `pipe.unet.enable_gradient_checkpointing()` switches it on, as diffusers has it: such parts keep their
    inputs only, and are run again when the gradient passes them. A part that holds a layer keeps its graph:
    run again, it would do so unrecorded and find another graph. So does everything in a compiled denoiser,
    whose probes run uncompiled and whose parts would be run again compiled. The switches are given back.
    """
    compiled = is_compiled(denoiser)
    kept = [
        part
        for name, part in denoiser.named_modules()
        if getattr(part, "gradient_checkpointing", False) and (compiled or _holds(name, layers))
    ]
    for part in kept:
        _switch(part, on=False)
    try:
        yield
    finally:
        for part in kept:
            _switch(part, on=True)


def _holds(name: str, layers: Sequence[Layer]) -> bool:
    return not name or any(layer.name.startswith(f"{name}.") for layer in layers)


def _switch(part: nn.Module, *, on: bool) -> None:
    part.gradient_checkpointing = on  # type: ignore[assignment]
