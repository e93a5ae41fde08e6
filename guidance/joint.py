"""Joint attention of text and image, as transformers have it: its layers, which are read, its backend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from .errors import UnsupportedError
from .layers import Layer


@dataclass(frozen=True)
class Depth:
    """Which of a stack of blocks are read by default: those from one share of its depth to another."""

    stack: str
    first: float
    last: float

    def blocks(self, count: int) -> range:
        """The numbers of these blocks among so many; at least one."""
        first = min(round(self.first * count), count - 1)
        return range(first, max(round(self.last * count), first + 1))


def joint_layers(
    transformer: nn.Module, level: int, text: Literal["first", "last"], stacks: Sequence[str]
) -> tuple[Layer, ...]:
    """All joint attention of a transformer of diffusers, in the order in which it runs.

    Args:
        transformer: the denoiser.
        level: how often it halves the latents' sides, log2 of the patches'.
        text: where the text stands in the joint sequence.
        stacks: names of the lists of blocks, in their order.

    Raises:
        UnsupportedError: no block has a module `attn`.
    """
    found = [
        Layer(f"{stack}.{index}.attn", level, block.attn, text=text)
        for stack in stacks
        for index, block in enumerate(getattr(transformer, stack, ()))
        if isinstance(getattr(block, "attn", None), nn.Module)
    ]
    if not found:
        raise UnsupportedError(
            f"{type(transformer).__name__} has no joint attention in blocks named {' or '.join(stacks)}"
        )
    return tuple(found)


def image_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The image's attention over itself in the same joint attention, as far as it is over the image."""
    return tuple(replace(layer, name=f"{layer.name}.image", over_image=True) for layer in layers)


def at_depth(transformer: nn.Module, layers: Sequence[Layer], depth: Depth) -> tuple[Layer, ...]:
    """Those of the layers that stand at a depth; all of them where none does."""
    blocks = depth.blocks(len(getattr(transformer, depth.stack)))
    names = {f"{depth.stack}.{block}.attn" for block in blocks}
    return tuple(layer for layer in layers if layer.name in names) or tuple(layers)


def patch_level(transformer: Any) -> int:
    """How often patches halve the latents' sides."""
    return round(math.log2(transformer.config.patch_size))


@contextmanager
def native_attention(transformer: nn.Module) -> Iterator[None]:
    """Within the block the attention that a probe runs is PyTorch's own, which is seen and has a gradient.

    Whatever `set_attention_backend` has put there comes back, also where nothing was put.
    """
    processors = {id(found): found for part in transformer.modules() if (found := _dispatching(part))}
    with ExitStack() as stack:
        for processor in processors.values():
            stack.enter_context(_with_backend(processor, "native"))
        yield


def _dispatching(module: nn.Module) -> Any:
    processor = getattr(module, "processor", None)
    return processor if hasattr(processor, "_attention_backend") else None


@contextmanager
def _with_backend(processor: Any, backend: str) -> Iterator[None]:
    before = {name: value for name, value in vars(processor).items() if name == "_attention_backend"}
    processor._attention_backend = backend
    try:
        yield
    finally:
        del processor._attention_backend
        vars(processor).update(before)
