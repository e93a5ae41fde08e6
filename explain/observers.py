"""Sees every attention that runs inside a model, and keeps its probabilities in the autograd graph."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .errors import CaptureError
from .wiring import Site

_SOFTMAX = frozenset({F.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax})
_PRODUCTS = frozenset({torch.matmul, torch.bmm, torch.einsum, Tensor.matmul, Tensor.bmm})
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


Scores = Float[Tensor, "*batch query key"]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of probabilities: float32, or float64 for a float64 model."""
    return torch.promote_types(dtype, torch.float32)


def masked_softmax(scores: Scores, mask: Tensor | None, is_causal: bool) -> Scores:
    """Softmax over the keys that a mask leaves: of booleans (True may be seen) or of numbers that are added.

    A query that sees no key at all gets zeros, as from `scaled_dot_product_attention`, not NaN.
    """
    if is_causal:
        past = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~past, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    blind = (scores == -math.inf).all(-1, keepdim=True)
    if not blind.any():
        return torch.softmax(scores, -1)
    return torch.softmax(scores.masked_fill(blind, 0), -1).masked_fill(blind, 0)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of `nn.MultiheadAttention` (True may *not* be seen) as numbers that are added to the scores."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


class Observer(TorchFunctionMode):
    """Answers the attention calls of a forward, and keeps their probabilities.

    Three kinds of calls are attention: `scaled_dot_product_attention`; `multi_head_attention_forward`, which
    `nn.MultiheadAttention` makes; and a `softmax` over the last axis whose result then enters a matrix
    product in the same module, as in models that are always eager. The first two are computed anew with
    `torch.matmul` and `torch.softmax`, which a mode that was entered earlier sees as ordinary calls. Each
    attention belongs to the innermost module that runs, `nn.Softmax` aside.

    Attributes:
        attention: the probabilities by site, in the order of the calls.
        running: names of the modules that run, outermost first.
        half: whether float16 took part, by the model's weights or by autocast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention: dict[Site, Tensor] = {}
        self.running: list[str] = []
        self.half = False
        self._calls: Counter[str] = Counter()
        self._pending: dict[str, Tensor] = {}

    def enter(self, name: str) -> None:
        """Note that a module begins to run."""
        self.running.append(name)

    def leave(self, name: str) -> None:
        """Note that a module has run: a softmax in it that met no matrix product was no attention."""
        if name in self.running:  # not if another hook failed before this one could enter it
            del self.running[self.running.index(name) :]
        self._pending.pop(name, None)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.running:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func, *args, **kwargs)
        if func in _PRODUCTS:
            self._confirm(args)
        return func(*args, **kwargs)

    def _rooted(self, probabilities: Tensor) -> Tensor:
        """Probabilities that carry a graph: where all below them is frozen, they become its leaf."""
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise CaptureError(
                f"autograd is off inside the capture, at {self.running[-1]!r}: the model, or the code in the "
                "block, uses torch.no_grad() or torch.inference_mode(). Take that away"
            )
        return probabilities if probabilities.requires_grad else probabilities.requires_grad_()

    def _keep(self, name: str, probabilities: Tensor, operands: Iterable[Any]) -> None:
        self.half |= any(getattr(each, "dtype", None) == torch.float16 for each in operands)
        self.attention[Site(name, self._calls[name])] = probabilities
        self._calls[name] += 1

    def _softmax(
        self, func: Callable[..., Any], input: Tensor, dim: int | None = None, *rest: Any, **kwargs: Any
    ) -> Any:
        """A model's own softmax, in float32 and given back in the type that the model asked for."""
        if dim not in (-1, input.dim() - 1) or input.dim() < 3:
            return func(input, dim, *rest, **kwargs)
        asked = kwargs.get("dtype") or next((each for each in rest if isinstance(each, torch.dtype)), None)
        if asked is None and not torch.is_autocast_enabled(input.device.type):
            asked = input.dtype
        probabilities = self._rooted(torch.softmax(input, -1, dtype=wide(input.dtype)))
        self._pending[self.running[-1]] = probabilities
        return probabilities if asked is None else probabilities.to(asked)

    def _confirm(self, operands: tuple[Any, ...]) -> None:
        """A softmax is attention once a tensor of its shape enters a product in the same module."""
        name = self.running[-1]
        pending = self._pending.get(name)
        if pending is not None and any(getattr(each, "shape", None) == pending.shape for each in operands):
            self._keep(name, self._pending.pop(name), operands)

    def _attend(
        self,
        query: Float[Tensor, "*query_batch query channel"],
        key: Float[Tensor, "*key_batch key channel"],
        value: Float[Tensor, "*value_batch key value_channel"],
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """softmax(Q Kᵀ · scale + mask) V, as `scaled_dot_product_attention` defines it."""
        name = self.running[-1]
        if dropout_p > 0:
            raise CaptureError(f"{name!r} drops attention at random ({dropout_p=}): call model.eval()")
        kind = wide(query.dtype)
        with torch.autocast(query.device.type, enabled=False):
            query, key, wide_value = query.to(kind), key.to(kind), value.to(kind)
            if enable_gqa:
                key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
                wide_value = wide_value.repeat_interleave(query.shape[-3] // wide_value.shape[-3], -3)
            scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
            scores = torch.matmul(query, key.transpose(-2, -1)) * scale
            probabilities = self._rooted(masked_softmax(scores, attn_mask, is_causal))
            self._keep(name, probabilities, (value,))
            return torch.matmul(probabilities, wide_value).to(value.dtype)

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """`multi_head_attention_forward`, over (token, batch, channel) or (token, channel)."""
        bound = _MULTI_HEAD.bind(*args, **kwargs)
        bound.apply_defaults()
        call = SimpleNamespace(**bound.arguments)
        name = self.running[-1]
        if call.add_zero_attn or any(
            each is not None for each in (call.bias_k, call.static_k, call.static_v)
        ):
            raise CaptureError(
                f"{name!r} attends to keys that are no tokens (add_bias_kv, add_zero_attn or static keys): "
                "no relevance of tokens can be read from it"
            )
        dropout = call.dropout_p if call.training else 0.0
        batched = call.query.dim() == 3
        tokens = [each if batched else each.unsqueeze(1) for each in (call.query, call.key, call.value)]
        query, key, value = _projected(call, tokens)
        batch, heads, length, _ = query.shape
        single = call.attn_mask is None or call.attn_mask.dim() == 2
        shapes = ((1, 1) if single else (batch, heads)) + (length, -1), (batch, 1, 1, -1)
        masks = [
            _added(each, query.dtype).reshape(shape)
            for each, shape in zip((call.attn_mask, call.key_padding_mask), shapes, strict=True)
            if each is not None
        ]
        mixed = self._attend(query, key, value, sum(masks[1:], masks[0]) if masks else None, dropout)
        gathered = mixed.permute(2, 0, 1, 3).reshape(length, batch, -1)
        output = F.linear(gathered, call.out_proj_weight, call.out_proj_bias)
        weights = None
        if call.need_weights:
            weights = self.attention[Site(name, self._calls[name] - 1)].to(output.dtype)
            weights = weights.mean(1) if call.average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return output if batched else output.squeeze(1), weights


def _projected(call: SimpleNamespace, tokens: list[Tensor]) -> list[Tensor]:
    """Queries, keys and values of every head, each (batch, head, token, channel)."""
    weights = (
        (call.q_proj_weight, call.k_proj_weight, call.v_proj_weight)
        if call.use_separate_proj_weight
        else call.in_proj_weight.chunk(3)
    )
    biases = (None,) * 3 if call.in_proj_bias is None else call.in_proj_bias.chunk(3)
    return [
        F.linear(each, weight, bias).unflatten(-1, (call.num_heads, -1)).permute(1, 2, 0, 3)
        for each, weight, bias in zip(tokens, weights, biases, strict=True)
    ]
