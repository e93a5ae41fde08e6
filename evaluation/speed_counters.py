"""What a run costs: operations and bytes counted on `meta`, or seconds and bytes measured on a device."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import sdpa_flop_count

from ..guidance import prober
from ..guidance.denoiser import is_probed
from ..guidance.own_pass import OwnPass
from ..guidance.prober import Prober
from ..guidance.tap import Tap
from .operations import Operations

PARTS = ("own pass", "recording", "probe forward", "probe backward", "rest")
"""Of what a guided run's cost is made."""


@runtime_checkable
class Meter(Protocol):
    """Anything that rises while something runs."""

    def read(self) -> float:
        """How much there has been so far."""
        ...


class Counted(Operations):
    """Counts operations as the mathematics has them: what fused attention computes twice is told apart.

    Attributes:
        again: operations of scores that the backward of fused attention computes a second time, in order not
            to keep them; they are not in `total`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.again = 0.0

    def read(self) -> float:
        """Operations so far."""
        return self.total

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func._overloadpacket is torch.ops.aten._scaled_dot_product_flash_attention_backward:
            query, key, value = (one.shape for one in args[1:4])
            twice = sdpa_flop_count(query, key, value) / 2
            self.again += twice
            self.total -= twice
        return result


class LiveBytes(TorchDispatchMode):
    """Follows all memory that is made within the block until it is let go, so that the peak is known.

    On the `meta` device tensors live and die as they do on any other, graph and all, but take nothing; so
    the bytes that a GPU would need are known without one. Not counted are the scratch space within a kernel
    and what an allocator wastes.

    Attributes:
        now, peak: bytes alive, and the most there were at once.
    """

    def __init__(self, *known: nn.Module) -> None:
        """The weights of `known` modules are not counted."""
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}
        for module in known:
            for one in (*module.parameters(), *module.buffers()):
                self._alive[one.untyped_storage()._cdata] = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self._follow(one.untyped_storage())
        return result

    def _follow(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += self._alive[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._let_go, key).atexit = False

    def _let_go(self, key: int) -> None:
        self.now -= self._alive.pop(key)


class Seconds:
    """Time: on a GPU what passes until its work is done, on a CPU what this process has used of it."""

    def __init__(self, device: str) -> None:
        self.gpu = device.startswith("cuda")

    def read(self) -> float:
        """Seconds so far."""
        if self.gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


@contextmanager
def divided(denoiser: nn.Module, meter: Meter) -> Iterator[dict[str, float]]:
    """Within the block, what the meter shows is divided among `PARTS`; complete when the block has ended.

    Reading the meter on a GPU waits for it, which costs a little: take whole times from another run.
    """
    found = dict.fromkeys(PARTS, 0.0)
    started = meter.read()
    began: list[float] = []

    def entered(module: Any, args: Any) -> None:
        if not is_probed(module):
            began.append(meter.read())

    def left(module: Any, args: Any, output: Any) -> None:
        if not is_probed(module):
            found["own pass"] += meter.read() - began.pop()

    handles = [denoiser.register_forward_pre_hook(entered), denoiser.register_forward_hook(left)]
    try:
        with (
            _metered(Tap, "see", meter, found, "recording"),
            _metered(OwnPass, "see", meter, found, "recording"),
            _metered(Prober, "probe", meter, found, "probe forward"),
            _metered(prober, "_gradient", meter, found, "probe backward"),
        ):
            yield found
    finally:
        for handle in handles:
            handle.remove()
    found["own pass"] -= found["recording"] + found["probe forward"]  # probes run before it, in a hook of it
    found["probe forward"] -= found["probe backward"]
    found["rest"] = meter.read() - started - sum(found.values())


def _metered(owner: Any, name: str, meter: Meter, found: dict[str, float], part: str) -> Any:
    wrapped: Callable[..., Any] = getattr(owner, name)

    def measured(*args: Any, **kwargs: Any) -> Any:
        before = meter.read()
        try:
            return wrapped(*args, **kwargs)
        finally:
            found[part] += meter.read() - before

    return mock.patch.object(owner, name, measured)
