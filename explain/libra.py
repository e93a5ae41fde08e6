"""Gradients that add up to the score: softmax, gates and norms count as constants (LibraGrad)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from .errors import UnsupportedMethodError
from .lrp_rules import spelled

Run = Callable[..., Tensor]
_GATE = "_heedful_gate"
"""Set on a tensor that may open and close another: sigmoid(1.702 x) in x · sigmoid(1.702 x)."""


def _constant(func: Run, *args: Any, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        return func(*args, **kwargs)


def _gelu(func: Run, input: Tensor, *, approximate: str = "none") -> Tensor:
    x = input.detach()
    if approximate == "none":
        return input * torch.special.ndtr(x)
    return input * (0.5 + 0.5 * torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _silu(func: Run, input: Tensor, inplace: bool = False) -> Tensor:
    if inplace:
        return _refused(func)
    return input * input.detach().sigmoid()


def _tanh(func: Run, input: Tensor) -> Tensor:
    """x · [tanh(x) / x]; that it is a gate itself, as in GELU written out, only a later product can tell."""
    x = input.detach()
    return _marked(input * torch.where(x == 0, 1.0, x.tanh() / x))


def _gate(func: Run, *args: Any, **kwargs: Any) -> Tensor:
    return _marked(func(*args, **kwargs))


def _marked(gate: Tensor) -> Tensor:
    setattr(gate, _GATE, True)
    return gate


def _with_number(func: Run, input: Any, other: Any, **kwargs: Any) -> Tensor:
    """Like 1 + erf(x), which is a gate still."""
    value = func(input, other, **kwargs)
    both = isinstance(input, Tensor) and isinstance(other, Tensor)
    return _marked(value) if not both and (hasattr(input, _GATE) or hasattr(other, _GATE)) else value


def _multiply(func: Run, input: Any, other: Any) -> Tensor:
    if not (isinstance(input, Tensor) and isinstance(other, Tensor)):
        return _with_number(func, input, other)
    if hasattr(input, _GATE) or hasattr(other, _GATE):
        return func(*(each.detach() if hasattr(each, _GATE) else each for each in (input, other)))
    if _is_self_gate(input, other):
        return func(_halve(input), _halve(other))
    return func(input, other)


def _is_self_gate(*operands: Tensor) -> bool:
    """Two activations, element by element; a learned scale, in the graph or not, is of another shape."""
    return operands[0].shape == operands[1].shape and all(
        each.requires_grad and not isinstance(each, nn.Parameter) for each in operands
    )


def _halve(value: Tensor) -> Tensor:
    """The same value with half its gradient: both halves of a floating-point number are exact."""
    return value / 2 + value.detach() / 2


def _divide(func: Run, input: Any, other: Any) -> Tensor:
    return func(input, other.detach() if isinstance(other, Tensor) else other)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _layer_norm(
    func: Run,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    centred = _wide(input) - _wide(input).mean(axes, keepdim=True)
    value = centred / (centred.detach().square().mean(axes, keepdim=True) + eps).sqrt()
    value = value if weight is None else value * weight
    return (value if bias is None else value + bias).to(input.dtype)


def _rms_norm(
    func: Run,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    x = _wide(input)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    value = x / (x.detach().square().mean(axes, keepdim=True) + eps).sqrt()
    return (value if weight is None else value * weight).to(input.dtype)


def _normalize(
    func: Run, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    return input / input.detach().norm(p, dim, keepdim=True).clamp_min(eps)


def _refused(func: Run, *args: Any, **kwargs: Any) -> Tensor:
    raise UnsupportedMethodError(
        f"LibraGrad has no rule here for {resolve_name(func) or func}. Use a method without libra, "
        "such as generic"
    )


def _fused(func: Run, *args: Any, **kwargs: Any) -> Tensor:
    raise UnsupportedMethodError(
        f"the softmax inside {resolve_name(func) or func} cannot be kept constant from outside: run the "
        "model inside `with libra(), capture(model):`, or load it with attn_implementation='eager'"
    )


_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    func: rule
    for names, rule in (
        ("softmax rsqrt reciprocal __rdiv__ __rtruediv__", _constant),
        ("gelu", _gelu),
        ("silu", _silu),
        ("tanh", _tanh),
        ("sigmoid erf", _gate),
        ("add __add__ __radd__", _with_number),
        ("mul multiply __mul__ __rmul__", _multiply),
        ("div divide true_divide __truediv__", _divide),
        ("layer_norm", _layer_norm),
        ("rms_norm", _rms_norm),
        ("normalize", _normalize),
        ("group_norm instance_norm mish gelu_ mul_ __imul__ div_ __idiv__ __itruediv__", _refused),
        ("scaled_dot_product_attention multi_head_attention_forward", _fused),
    )
    for func in spelled(names)
}


class _Libra(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _RULES or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        return _RULES[func](func, *args, **kwargs)


def libra() -> TorchFunctionMode:
    """A context in which a forward has Libra gradients: Mehri et al., LibraGrad, CVPR 2025.

    `with libra(): with capture(model) as seen: outputs = model(**inputs)`; gradients are taken as ever. The
    forward is unchanged up to rounding. What is in brackets counts as a constant of the backward:

    - attention [softmax(Q Kᵀ)] V: nothing flows into queries and keys, and captured probabilities are leaves;
    - gated activations: GELU x [Φ(x)] and its tanh form, SiLU and quick GELU x [sigmoid(x)], also written
      out;
    - layer and RMS norm (x - mean(x)) / [σ]; any other division by an activation, as by an embedding's norm;
    - products of two activations of one shape (SwiGLU): half the gradient to each;
    - tanh, of BERT's pooler: x [tanh(x) / x], which follows the paper's theorem on gates but is not in it.

    All else has its derivative. For a model of these, of ReLU and of linear maps, without biases, and a
    score that is linear in its outputs, Σ gradient ⊙ input equals the score, where the input is any cut
    through the graph: all embeddings, or one layer's tokens. With biases (of linear layers and norms, and
    position embeddings or [CLS] when the input lies below them) Σ gradient ⊙ input falls short of the score
    by Σ gradient ⊙ bias. A score that multiplies two towers (CLIP) has this for each tower by itself: over
    both the sum is twice the score.

    Raises:
        UnsupportedMethodError: in the forward, for a function whose Libra form is not known here.
    """
    return _Libra()
