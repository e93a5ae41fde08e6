"""Counts operations, so that what methods cost can be compared on any machine, busy or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from ..guidance.denoiser import by_name

_CPU_ATTENTION: Final = "_scaled_dot_product_flash_attention_for_cpu"
"""torch has no formula for this operator and its backward."""
_BACKWARD_SHARE: Final = 2.5
"""Five products of matrices in the backward of fused attention, where the forward has two."""


class Operations(TorchDispatchMode):
    """Counts, within a `with`, the operations of matrix products, convolutions and attention.

    A multiplication and its addition are two; those of a backward count, too. What torch has no formula for
    (norms, activations) counts nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        operator = func._overloadpacket
        if operator in flop_registry:
            self.total += flop_registry[operator](*args, **given, out_val=result)
        elif _CPU_ATTENTION in str(operator):
            self.total += _attention(args, backward="backward" in str(operator))
        return result


def _attention(args: tuple[Any, ...], *, backward: bool) -> float:
    """The backward is given the output's gradient before query, key and value."""
    query, key, value = args[1:4] if backward else args[:3]
    forward = sdpa_flop_count(query.shape, key.shape, value.shape)
    return forward * _BACKWARD_SHARE if backward else forward


@dataclass(frozen=True)
class Prices:
    """What is counted of one image without guidance.

    Attributes:
        forward: operations of the denoiser's forward of one row (an image has two with guidance by text).
        besides: of everything else for one image: text encoders, autoencoder.
    """

    forward: float
    besides: float

    def forwards(self, operations: float, images: int) -> float:
        """Denoiser forwards that an image cost, everything besides apart."""
        return (operations / images - self.besides) / self.forward

    @classmethod
    def measure(cls, pipe: Any, **arguments: Any) -> Prices:
        """Count one step of one plain image; `arguments` are those of the pipeline's call."""
        denoiser = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
        inside, rows = [0.0], [0]

        with Operations() as counted:

            def begun(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                inside[0] -= counted.total
                rows[0] += len(next(iter(by_name(denoiser, args, kwargs).values())))

            def ended(*_: Any) -> None:
                inside[0] += counted.total

            hooks = [
                denoiser.register_forward_pre_hook(begun, with_kwargs=True),
                denoiser.register_forward_hook(ended),
            ]
            try:
                generator = torch.Generator().manual_seed(0)
                pipe("a cat", **{**arguments, "num_inference_steps": 1}, generator=generator)
            finally:
                for hook in hooks:
                    hook.remove()
        return cls(inside[0] / rows[0], counted.total - inside[0])
