"""Turns the backward of an unmodified model into layer-wise relevance propagation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map_only

from .errors import UnsupportedMethodError
from .lrp_rules import RULES, carries, spelled

_MOVES = frozenset(
    spelled(
        "view view_as reshape reshape_as transpose swapaxes swapdims movedim moveaxis permute t"
        " adjoint flatten unflatten ravel squeeze unsqueeze expand expand_as broadcast_to repeat"
        " repeat_interleave tile roll flip cat concat concatenate stack split tensor_split chunk"
        " unbind select narrow index_select gather take_along_dim masked_select masked_fill where"
        " diagonal pad __getitem__ contiguous clone to type type_as float double half bfloat16 cpu"
        " cuda requires_grad_"
    )
) | {Tensor.T.__get__, Tensor.mT.__get__}  # type: ignore[attr-defined]
"""What only moves, copies or drops elements: its derivative is its rule (copies' relevance is summed)."""


class _Refused(torch.autograd.Function):
    """Lets a value pass, and raises if relevance comes back through it."""

    @staticmethod
    def forward(ctx: Any, name: str, value: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.name = name
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *relevances: Any) -> Any:
        if relevances[0] is None:
            return None, None
        raise UnsupportedMethodError(
            f"layer-wise relevance propagation has no rule for {ctx.name}, which lies between the attention "
            "and the score. If it is attention, run the model inside `with lrp(), capture(model):`; or else "
            "use a method that needs no LRP, such as generic, or a score computed without it"
        )


def _refuse(name: str, value: Tensor) -> Tensor:
    return _Refused.apply(name, value) if value.requires_grad else value


class _LayerwiseRelevance(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not tensors or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if not any(map(carries, tensors)):
            with torch.no_grad():  # weights and what is made of them are constants, frozen or not
                return func(*args, **kwargs)
        versions = [each._version for each in tensors]
        value = self._answer(func, args, kwargs)
        if versions != [each._version for each in tensors]:
            raise UnsupportedMethodError(
                f"layer-wise relevance propagation cannot follow {resolve_name(func) or func}, which "
                "overwrites a tensor that carries relevance. Use a method that needs no LRP, such as generic"
            )
        return value

    def _answer(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        if func in RULES:
            return RULES[func](func, *args, **kwargs)
        value = func(*args, **kwargs)
        if func in _MOVES:
            return value
        return tree_map_only(Tensor, partial(_refuse, resolve_name(func) or str(func)), value)


def lrp() -> TorchFunctionMode:
    """A context in which gradients of a forward are relevances: Chefer, Gur, Wolf, CVPR 2021, section 3.

    `with lrp(): with capture(model) as seen: outputs = model(**inputs)`, then `seen.gradients(scores)` are
    the relevances R_A of the attention probabilities, for relevance 1 at each score, as for the one-hot
    start of the paper. The forward is unchanged. Relevance flows into whatever tensor requires a gradient
    and is no weight, by these rules (eps 1e-9, in float32 or above):

    - linear layers: positive contributions alone, x⁺w⁺ + x⁻w⁻ (alpha 1, beta 0); biases take nothing;
    - a + b: contributions a/(a+b), b/(a+b), then rescaled by the size of their sums, for each sample (first
      axis) by itself. Position embeddings count as any operand, as in the paper; the authors' DETR leaves
      them out. Additive masks take nothing;
    - matrix products of two activations: contributions, half to each;
    - softmax, activations, tanh, layer norm, times or over a constant or a norm: unchanged;
    - elementwise products of two activations (gates): half to each, so that x · sigmoid(x) as a whole is
      unchanged;
    - sums and means: in proportion to the summands; indexing, reshaping, joining: moved along.

    All of these conserve the sum of relevance up to eps, unless contributions are all zero. Convolutions
    have no rule: what lies below the first attention is nothing that a method reads from here.

    Use float32. Contributions are divided by sums that may all but cancel, so rounding of the activations
    grows on the way down: in float16 and bfloat16 only the last layers keep what float32 gives them, whatever
    the precision of the rules. Libra gradients do not suffer from this.

    Raises (in the forward or, at the latest, in the backward):
        UnsupportedMethodError: relevance meets a function that has no rule, or a tensor overwritten in place.
    """
    return _LayerwiseRelevance()
