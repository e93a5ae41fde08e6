"""Runs real pipelines around a denoiser without weights, so that what they cost can be counted anywhere.

The denoiser is on torch's `meta` device, where a tensor is a shape and nothing is computed. Everything else
of the pipeline runs as ever, on the CPU. Two gates lie between: latents go into the denoiser and noise comes
out of it; and where attention is looked at, made-up attention takes its place. Gradients pass both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from ..guidance.attach import lend
from ..guidance.processors import Recorder
from ..guidance.sums import AttentionSums

Gaze = Callable[[Sequence[int]], Tensor]
"""Makes up attention of a shape (..., position, token), which sums to 1 over the tokens."""


def neglecting(shape: Sequence[int]) -> Tensor:
    """Every position attends to all tokens nearly alike, so that no word has much anywhere."""
    return torch.softmax(torch.rand(*shape), dim=-1)


def heeding(tokens: Sequence[int]) -> Gaze:
    """Each of these tokens has a share of the positions for itself alone."""

    def gaze(shape: Sequence[int]) -> Tensor:
        *leading, positions, length = shape
        owner = torch.arange(positions) * len(tokens) // positions
        whole = functional.one_hot(torch.tensor(tokens)[owner], length).float()
        return whole.expand(*leading, positions, length).clone()

    return gaze


@contextmanager
def weightless(denoiser: nn.Module, gaze: Gaze = neglecting) -> Iterator[None]:
    """Within the block a denoiser on `meta` is called from the CPU, and its attention is what `gaze` makes
    up."""

    def forward(inherited: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _through(_Enter, (args, kwargs))
        return _through(_Leave, inherited(*args, **kwargs))

    with ExitStack() as stack:
        stack.enter_context(lend(denoiser, forward=forward))
        for owner, name, made_up in _lookers(gaze):
            stack.enter_context(mock.patch.object(owner, name, made_up))
        stack.enter_context(_FusedOnMeta())
        yield


def _lookers(gaze: Gaze) -> Iterator[tuple[type, str, Callable[..., Any]]]:
    """All that looks at attention: our recorder, our running sums, diffusers' own store."""
    keep, add = Recorder.keep, AttentionSums.add

    def kept(self: Any, layer: Any, probabilities: Tensor) -> None:
        keep(self, layer, _looked_at(probabilities, gaze))

    def added(self: Any, layer: str, grid: Any, portions: Any) -> None:
        add(self, layer, grid, (_looked_at(portion, gaze) for portion in portions))

    yield Recorder, "keep", kept
    yield AttentionSums, "add", added
    store = _store()
    stored = store.__call__

    def told(self: Any, attention: Tensor, is_cross: bool, place: str) -> None:
        wanted = is_cross and attention.shape[1] == self.attn_res[0] * self.attn_res[1]
        stored(self, _looked_at(attention, gaze) if wanted else attention, is_cross, place)

    yield store, "__call__", told


def _store() -> Any:
    from diffusers.pipelines.deprecated.stable_diffusion_attend_and_excite import (
        pipeline_stable_diffusion_attend_and_excite as theirs,
    )

    return theirs.AttentionStore


def _through(gate: type[torch.autograd.Function], tree: Any) -> Any:
    return tree_map(lambda one: gate.apply(one) if isinstance(one, Tensor) else one, tree)


def _looked_at(attention: Tensor, gaze: Gaze) -> Tensor:
    return _Look.apply(attention, gaze) if attention.is_meta else attention


class _Enter(torch.autograd.Function):
    """From the CPU to where nothing is computed; the gradient that comes back is noise."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return torch.empty_like(given, device="meta")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _noise(gradient)


class _Leave(torch.autograd.Function):
    """The denoiser's prediction: noise."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return _noise(given)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.empty_like(gradient, device="meta")


class _Look(torch.autograd.Function):
    """Attention as somebody made it up."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, gaze: Gaze) -> Tensor:
        return gaze(given.shape).to(given.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.empty_like(gradient, device="meta"), None


def _noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape).to(like.dtype)


def again_fused(module: Callable[..., Any], *args: Any) -> Any:
    """Gradient checkpointing on `meta`, for diffusers' `enable_gradient_checkpointing`.

    A backward runs outside of all modes that were there when it was called, so parts that it runs again are
    told once more how a GPU computes attention.
    """
    return checkpoint(
        module,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _FusedOnMeta()),
    )


class _FusedOnMeta(TorchFunctionMode):
    """Attention as a GPU computes it, without the matrix of all scores, which `meta` would hold."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention and args[0].is_meta and _is_simple(args, given):
            attend = torch.ops.aten._scaled_dot_product_flash_attention
            return attend(*args[:3], 0.0, False, False, scale=given.get("scale"))[0]
        return func(*args, **given)


def _is_simple(args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """Neither a mask nor dropout nor a causal order."""
    return (
        len(args) == 3
        and not any(given.get(name) for name in ("dropout_p", "is_causal", "enable_gqa"))
        and (given.get("attn_mask") is None)
    )
