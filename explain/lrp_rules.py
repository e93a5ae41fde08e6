"""How each torch function hands relevance from its result to its operands, after Chefer et al. (CVPR 2021).

A rule calls the function inside an autograd step whose backward is not the derivative but the relevance rule:
so `torch.autograd.grad` of a score yields relevance. All rules are homogeneous in the relevance that comes
in, and computed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Run = Callable[..., Tensor]
Parts = Sequence[Tensor | None]

EPSILON = 1e-9
"""What keeps divisions finite, as in the authors' code."""


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / (denominator + 1e-9), and 0 where the denominator is 0."""
    shifted = denominator + EPSILON
    shifted = torch.where(shifted == 0, EPSILON, shifted)
    return torch.where(denominator == 0, 0.0, numerator / shifted)


def carries(operand: Any) -> bool:
    """Whether relevance is to flow into an operand: weights are constants."""
    return isinstance(operand, Tensor) and operand.requires_grad and not isinstance(operand, nn.Parameter)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _fold(tensor: Tensor, like: Tensor) -> Tensor:
    """Sum what was broadcast back to the operand's shape: copies share the relevance, and give it back."""
    return tensor.sum_to_size(like.shape)


class _Step(torch.autograd.Function):
    """One call of the forward, with a rule in place of its derivative."""

    @staticmethod
    def forward(ctx: Any, run: Run, rule: Callable[..., Parts] | None, *operands: Tensor) -> Tensor:
        value = run(*operands)
        ctx.set_materialize_grads(False)
        ctx.rule = rule
        if rule is not None:  # the identity needs nothing kept
            ctx.save_for_backward(value, *operands)
        return value

    @staticmethod
    def backward(ctx: Any, *relevances: Any) -> Any:
        (relevance,) = relevances
        if relevance is None or ctx.rule is None:
            return None, None, relevance, *[None] * (len(ctx.needs_input_grad) - 3)
        return None, None, *ctx.rule(_wide(relevance), *map(_wide, ctx.saved_tensors))


def _step(run: Run, rule: Callable[..., Parts] | None, *operands: Tensor) -> Tensor:
    return _Step.apply(run, rule, *operands)


# --- The arithmetic: (relevance, value, *operands) -> the operands' relevance ---


def _proportional(run: Run, relevance: Tensor, *operands: Tensor) -> list[Tensor]:
    """x ⊙ ∂z/∂x (relevance / z): each operand's contributions to z, for a z linear in each of them."""
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in operands]
        z = run(*leaves)
        gradients = torch.autograd.grad(z, leaves, safe_divide(relevance, z.detach()))
    return [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]


def _summed(run: Run, relevance: Tensor, value: Tensor, operand: Tensor) -> Parts:
    return _proportional(run, relevance, operand)


def _weighted(run: Run, weight: Tensor, relevance: Tensor, value: Tensor, operand: Tensor) -> Parts:
    """Positive contributions alone, x⁺w⁺ + x⁻w⁻ (alpha 1, beta 0); biases take none."""
    weight = _wide(weight.detach())
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    parts = _proportional(
        lambda above, below: run(above, positive) + run(below, negative),
        relevance,
        operand.clamp(min=0),
        operand.clamp(max=0),
    )
    return [parts[0] + parts[1]]


def _bilinear(run: Run, relevance: Tensor, value: Tensor, *operands: Tensor) -> Parts:
    """Contributions of both factors, which are the same products, in equal shares."""
    return [part / len(operands) for part in _proportional(run, relevance, *operands)]


def _added(signs: tuple[float, float], relevance: Tensor, value: Tensor, *operands: Tensor) -> Parts:
    """Contributions to a sum, rescaled so that operands share a sample's relevance by |Σ contribution|.

    The first axis is that of samples, each normalised by itself; the authors' code sums over the batch.
    """
    quotient = safe_divide(relevance, value)
    # An additive mask of -inf decides where relevance is zero anyway; it must not make 0 · inf of it.
    terms = [
        torch.where(term.isfinite(), term, 0.0).expand_as(value) * sign * quotient
        for term, sign in zip(operands, signs, strict=True)
    ]
    axes = tuple(range(1, value.dim()))
    total = relevance.sum(axes, keepdim=True) if axes else relevance
    sums = [term.sum(axes, keepdim=True) if axes else term for term in terms]
    sizes = sums[0].abs() + sums[1].abs()
    return [
        _fold(term * safe_divide(safe_divide(part.abs(), sizes) * total, part), operand)
        for term, part, operand in zip(terms, sums, operands, strict=True)
    ]


def _scaled(relevance: Tensor, value: Tensor, operand: Tensor) -> Parts:
    """All of it, but where a factor of 0 has left nothing."""
    return [_fold(torch.where(value == 0, 0.0, relevance), operand)]


def _shifted(relevance: Tensor, value: Tensor, operand: Tensor) -> Parts:
    return [_fold(relevance, operand)]


def _halved(relevance: Tensor, value: Tensor, first: Tensor, second: Tensor) -> Parts:
    half = relevance / 2
    return [_fold(half, first), _fold(half, second)]


# --- The calls ---


def unary(func: Run, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Softmax, activations and norms: relevance goes through unchanged."""
    return _step(lambda x: func(x, *args, **kwargs), None, input)


def reduction(func: Run, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Sums and means: in proportion to the summands."""

    def run(x: Tensor) -> Tensor:
        return func(x, *args, **kwargs)

    return _step(run, partial(_summed, run), input)


def constant(func: Run, *args: Any, **kwargs: Any) -> Tensor:
    """The inverse of a norm, by which something is multiplied: takes no relevance."""
    with torch.no_grad():
        return func(*args, **kwargs)


def linear(func: Run, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer; a "weight" that carries relevance itself makes it a product of two activations."""
    if carries(weight):
        return _step(lambda x, w: func(x, w, bias), partial(_bilinear, F.linear), input, weight)
    return _step(lambda x: func(x, weight, bias), partial(_weighted, F.linear, weight), input)


def _is_weight(operand: Tensor, other: Tensor) -> bool:
    return isinstance(operand, nn.Parameter) or (
        not carries(operand) and operand.dim() == 2 and other.dim() > 2
    )


def product(run: Run, first: Tensor, second: Tensor) -> Tensor:
    """A product of two activations, half to each; with a matrix of weights in it, a linear layer."""
    if _is_weight(second, first):
        return _step(lambda x: run(x, second), partial(_weighted, run, second), first)
    if _is_weight(first, second):
        rule = partial(_weighted, lambda x, w: run(w, x), first)
        return _step(lambda x: run(first, x), rule, second)
    return _step(run, partial(_bilinear, run), first, second)


def matmul(func: Run, input: Tensor, other: Tensor) -> Tensor:
    """Matrix products of every spelling."""
    return product(func, input, other)


def einsum(func: Run, equation: str, *operands: Any) -> Tensor:
    """A contraction of two operands is a matrix product; more of them share equally."""
    operands = tuple(operands[0]) if isinstance(operands[0], list | tuple) else operands
    run = partial(func, equation)
    if len(operands) == 2:
        return product(run, *operands)
    return _step(run, partial(_bilinear, run), *operands)


def _is_bias(operand: Any) -> bool:
    if not isinstance(operand, Tensor):
        return True
    return not carries(operand) and (
        operand.numel() == 1 or (isinstance(operand, nn.Parameter) and operand.dim() == 1)
    )


def addition(signs: tuple[float, float], func: Run, input: Any, other: Any, **kwargs: Any) -> Tensor:
    """Sums and differences of activations share; numbers and biases take nothing."""
    if _is_bias(other):
        return _step(lambda x: func(x, other, **kwargs), _shifted, input)
    if _is_bias(input):
        return _step(lambda x: func(input, x, **kwargs), _shifted, other)
    scale = float(kwargs.get("alpha", 1))
    rule = partial(_added, (signs[0], signs[1] * scale))
    return _step(lambda x, y: func(x, y, **kwargs), rule, input, other)


def multiplication(func: Run, input: Any, other: Any) -> Tensor:
    """Times a constant: unchanged. Gates: half to each, which for x · sigmoid(x) meets again in x."""
    if not carries(other):
        return _step(lambda x: func(x, other), _scaled, input)
    if not carries(input):
        return _step(lambda x: func(input, x), _scaled, other)
    return _step(func, _halved, input, other)


def division(func: Run, input: Tensor, other: Any) -> Tensor:
    """The divisor is a constant (a norm, a temperature), and so is what is inverted."""
    if not carries(input):
        return constant(func, input, other)
    return _step(lambda x: func(x, other), _scaled, input)


def addmm(
    func: Run, input: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """A matrix product and a sum, one after the other."""
    value = matmul(torch.matmul, first, second)
    if alpha != 1:
        value = multiplication(torch.mul, value, alpha)
    if beta == 0:
        return value
    shift = input if beta == 1 else input * beta
    return addition((1.0, 1.0), torch.add, value, shift)


def dropout(func: Run, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In eval mode nothing; in training mode times a constant."""
    return _step(lambda x: func(x, p, training, inplace).clone(), _scaled, input)


# --- Which function has which rule ---

_PLACES = (torch, Tensor, F, torch.special, torch.linalg)


def spelled(names: str) -> Iterable[Callable[..., Any]]:
    """Every torch function and method of these names."""
    for name in names.split():
        for place in _PLACES:
            if (found := getattr(place, name, None)) is not None:
                yield found


def _table() -> dict[Callable[..., Any], Callable[..., Any]]:
    spellings: list[tuple[str, Callable[..., Any]]] = [
        (
            "softmax gelu relu silu leaky_relu elu softplus tanh sigmoid erf pow square sqrt neg __neg__",
            unary,
        ),
        ("clamp clip layer_norm rms_norm group_norm batch_norm normalize", unary),
        ("sum mean", reduction),
        ("rsqrt reciprocal __rdiv__ __rtruediv__", constant),
        ("linear", linear),
        ("matmul mm bmm __matmul__", matmul),
        ("einsum", einsum),
        ("add __add__ __radd__", partial(addition, (1.0, 1.0))),
        ("sub subtract __sub__", partial(addition, (1.0, -1.0))),
        ("rsub __rsub__", partial(addition, (-1.0, 1.0))),
        ("mul multiply __mul__ __rmul__", multiplication),
        ("div divide true_divide __truediv__", division),
        ("addmm baddbmm", addmm),
        ("dropout", dropout),
    ]
    return {func: rule for names, rule in spellings for func in spelled(names)}


RULES = _table()
"""Rule by function: called with the function and its arguments, answers in its place."""
