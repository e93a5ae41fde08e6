"""What computes attention, and whether the denoiser is compiled: the settings that a GPU is timed with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch

from .errors import EvaluationError

ATTENTION: Final = ("sdpa", "xformers")


@dataclass(frozen=True)
class Kernel:
    """How a denoiser computes.

    Attributes:
        attention: "sdpa", torch's own fused attention, or "xformers", that library's.
        compiled: the denoiser is compiled (`torch.compile`); probes of guidance run it as it is.
    """

    attention: Literal["sdpa", "xformers"] = "sdpa"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.attention}, compiled" if self.compiled else self.attention


EAGER: Final = Kernel()


@contextmanager
def with_kernel(pipe: Any, kernel: Kernel) -> Iterator[None]:
    """Within the block the pipeline's denoiser computes so.

    Raises:
        EvaluationError: xFormers is not installed.
    """
    denoiser = pipe.unet
    before = denoiser.attn_processors
    try:
        if kernel.attention == "xformers":
            if not has_xformers():
                raise EvaluationError(
                    "xformers is not installed; pip install 'heedful[xformers]', or take --attention sdpa"
                )
            denoiser.enable_xformers_memory_efficient_attention()
        if kernel.compiled:
            pipe.unet = torch.compile(denoiser)
        yield
    finally:
        pipe.unet = denoiser
        denoiser.set_attn_processor(before)


def has_xformers() -> bool:
    """Whether xFormers is installed."""
    return find_spec("xformers") is not None
