"""What a forward leaves for the methods, had without `heedful.explain.capture` and without any adapter.

In float64, by other roads: a function of transformers' attention interface where the model has one, hooks
on the dropout behind the softmax where it has none, SigLIP's pooling attention by hand. Libra gradients come
from attentions that are leaves, and from hooks on norms and activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from explain_reference_families import HANDS
from explain_reference_shapes import Hand, Stack
from explain_tiny import tiny
from heedful.explain.lrp import lrp
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "heedful_reference"
ACTIVATIONS = ("transformers.activations", "torch.nn.modules.activation")


@dataclass
class Left:
    """Of one forward: both scores, the answer, and lists by number of the attention."""

    outputs: Any
    scores: Tensor
    maps: list[Tensor]
    slopes: list[Tensor]
    """d score / d map; under "lrp" the relevance of the map."""
    tokens: dict[str, Tensor]
    hidden: dict[str, list[Tensor]]

    def slope(self, scores: Tensor, inner: list[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(scores.sum(), inner, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(own) if each is None else each for own, each in zip(inner, found, strict=True)
        ]


class Keeper:
    """Takes every map as the forward comes by, and hands it on: itself, or a leaf in its place."""

    def __init__(self, leaves: bool) -> None:
        self.leaves, self.maps = leaves, []

    def __call__(self, probabilities: Tensor) -> Tensor:
        if self.leaves:
            probabilities = probabilities.detach()
        if not probabilities.requires_grad:
            probabilities.requires_grad_()
        self.maps.append(probabilities)
        return probabilities


def attend(
    keep: Keeper, _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
    scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    maps = keep((scores if mask is None else scores + mask).softmax(-1))
    return (maps @ value).transpose(1, 2).contiguous(), None


def pooled(keep: Keeper, module: Any, args: tuple[Tensor, ...], _output: Any) -> tuple[Tensor, None]:
    """torch's multi-head attention by hand."""
    batch, heads = len(args[1]), module.num_heads
    parts = zip(args, module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
    query, key, value = (
        linear(each, weight, bias).reshape(batch, each.shape[1], heads, -1).transpose(1, 2)
        for each, weight, bias in parts
    )
    mixed, _ = attend(keep, module, query, key, value, None)
    return module.out_proj(mixed.reshape(batch, args[0].shape[1], -1)), None


def behind_softmax(keep: Keeper, _module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor | None:
    return keep(args[0]) if args[0].ndim == 4 else None


def constant_gate(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    """x · [f(x) / x]."""
    return args[0] * (output / args[0]).detach()


def constant_norm(module: Any, args: tuple[Tensor], _output: Tensor) -> Tensor:
    """(x - mean) / [sigma]."""
    centred = args[0] - args[0].mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + module.eps).sqrt().detach()
    return centred / sigma * module.weight + module.bias


@cache
def made(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The tiny model in float64, its weights frozen, on the reference's own attention."""
    model, inputs = tiny(name)
    model = model.double().requires_grad_(False)
    for module in model.modules():
        if HANDS[name].interface and hasattr(module, "config"):
            module.config._attn_implementation = NAME
    floats = (isinstance(value, Tensor) and value.is_floating_point() for value in inputs.values())
    wide = {
        key: value.double() if is_float else value
        for (key, value), is_float in zip(inputs.items(), floats, strict=True)
    }
    return model, wide


@contextmanager
def kept(name: str, *, leaves: bool = False) -> Iterator[list[Tensor]]:
    """The maps of the forwards inside, in the order of the calls."""
    model, keep = made(name)[0], Keeper(leaves)
    AttentionInterface.register(NAME, partial(attend, keep))
    AttentionMaskInterface.register(NAME, eager_mask)
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                hook = module.register_forward_hook(partial(pooled, keep))
                stack.callback(hook.remove)
            if isinstance(module, nn.Dropout) and not HANDS[name].interface:
                stack.callback(module.register_forward_hook(partial(behind_softmax, keep)).remove)
        yield keep.maps


@contextmanager
def swapped(model: nn.Module, values: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Outputs of modules changed on their way."""

    def hook(change: Callable[[Tensor], Tensor]) -> Any:
        def run(_module: nn.Module, _args: Any, output: Any) -> Any:
            return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

        return run

    with ExitStack() as stack:
        for name, change in values.items():
            stack.callback(model.get_submodule(name).register_forward_hook(hook(change)).remove)
        yield


@contextmanager
def constants(model: nn.Module) -> Iterator[None]:
    """Norms and activations of which the fraction is a constant."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                stack.callback(module.register_forward_hook(constant_norm).remove)
            elif is_activation(module):
                stack.callback(module.register_forward_hook(constant_gate).remove)
        yield


def is_activation(module: nn.Module) -> bool:
    kind = type(module)
    own = kind.__module__ in ACTIVATIONS and not isinstance(module, nn.MultiheadAttention | nn.Softmax)
    return own or kind.__name__ == "GeLU"  # LXMERT's


@cache
def left(name: str, mode: str = "plain", target: Any = None) -> Left:
    """A forward of both inputs: "plain", "lrp" (its rules have an oracle of their own) or "libra"."""
    hand, (model, inputs) = HANDS[name], made(name)
    tokens: dict[str, Tensor] = {}
    hidden: dict[str, list[Tensor]] = {stream: [] for stream in hand.blocks}

    def leaf(stream: str, value: Tensor) -> Tensor:
        tokens[stream] = value.detach().requires_grad_()
        return tokens[stream]

    def note(stream: str, value: Tensor) -> Tensor:
        hidden[stream].append(value)
        return value

    changes = {} if mode == "lrp" else {m: partial(leaf, stream) for stream, m in hand.tokens.items()}
    layers = {shape.stream: len(shape.layers) for shape in hand.shapes}
    notes = {
        block.format(layer): partial(note, stream)
        for stream, block in hand.blocks.items()
        for layer in range(layers[stream])
    }
    libra = mode == "libra"
    with (
        torch.enable_grad(), constants(model) if libra else nullcontext(),
        swapped(model, {**changes, **notes}), kept(name, leaves=libra) as maps,
        lrp() if mode == "lrp" else nullcontext(),
    ):  # fmt: skip
        outputs = model(**inputs)
        apart = hand.paired and libra
        count = len(maps)
        ends = {stream: hand.head(model, stream, hidden[stream][-1]) for stream in hidden} if apart else {}
        found_maps = pools_of(hand, maps[:count], maps[count:])
    with torch.enable_grad():
        chosen = hand.target if target is None else target
        scores = compared(model, ends, constant=True) if apart else hand.scores(outputs, chosen)
        found = Left(outputs, scores, found_maps, [], tokens, hidden)
        found.slopes = found.slope(scores, found_maps)
    return found


def pools_of(hand: Hand, maps: list[Tensor], again: list[Tensor]) -> list[Tensor]:
    """A pooling attention that was run again for the ends of the towers is the one that counts."""
    for shape in hand.shapes:
        if isinstance(shape, Stack) and shape.pool is not None and again:
            maps[shape.pool] = again[0]
    return maps


def compared(model: Any, ends: Mapping[str, Tensor], *, constant: bool = False) -> Tensor:
    """The logits of the first text with the first image, and of the second with the second."""
    units = []
    for end in ends.values():
        size = end.square().sum(-1, keepdim=True).sqrt()
        units.append(end / (size.detach() if constant else size))
    bias = getattr(model, "logit_bias", 0.0)
    return (units[0] * units[1]).sum(-1) * model.logit_scale.exp() + bias


def layer_slopes(name: str, stream: str, attention: int | None) -> list[Tensor]:
    """LeGrad: of every layer the slope of the score read from its tokens, by its own attention."""
    hand, (model, _) = HANDS[name], made(name)
    found, result = left(name), []
    first = next(shape for shape in hand.shapes if shape.stream == stream).layers[0]
    for layer, hidden in enumerate(found.hidden[stream]):
        with torch.enable_grad(), kept(name) as pools:
            answer = hand.head(model, stream, hidden)
            scores = as_before(name, stream, answer)
        by = found.maps[first + layer] if attention is None else pools[0]
        result += found.slope(scores, [by])
    return result


def as_before(name: str, stream: str, answer: Tensor) -> Tensor:
    """The scores that an answer of a lower layer gives to the model's final classes, words or partners."""
    hand, (model, _), found = HANDS[name], made(name), left(name)
    if hand.paired:
        ends = {tower: hand.head(model, tower, hidden[-1]).detach() for tower, hidden in found.hidden.items()}
        return compared(model, {**ends, stream: answer})
    final = found.outputs.logits
    if final.ndim == 3:
        answer, final = answer[:, hand.target], final[:, hand.target]
    return torch.stack([own[kind] for own, kind in zip(answer, final.argmax(-1).tolist(), strict=True)])


def again(name: str, stream: str | None, value: Tensor, target: Any = None) -> Tensor:
    """The scores for other pixels (stream None), or for other tokens of a stream."""
    hand, (model, inputs) = HANDS[name], made(name)
    given = {**inputs, "pixel_values": value} if stream is None else inputs
    changes = {} if stream is None else {hand.tokens[stream]: lambda _: value}
    with swapped(model, changes), kept(name):
        outputs = model(**given)
    return chosen_again(name, outputs, hand.target if target is None else target)


def chosen_again(name: str, outputs: Any, target: Any) -> Tensor:
    """The scores of what the unchanged inputs chose: the same class, box or word."""
    hand: Hand = HANDS[name]
    first = left(name, target=None if target == hand.target else target).outputs
    if hand.paired or hasattr(outputs, "itm_score"):
        return hand.scores(outputs, target)
    lxmert = hasattr(outputs, "question_answering_score")
    before, now = (each.question_answering_score if lxmert else each.logits for each in (first, outputs))
    if before.ndim == 2:
        kinds = before.argmax(1).tolist() if target is None else [target, target]
        return torch.stack([now[0, kinds[0]], now[1, kinds[1]]])
    reads = next(iter(hand.reads(first, target).values()))
    places = [next(iter(each)) for each in reads]
    last = -1 if hasattr(first, "pred_boxes") else None  # "no object" is no answer
    return torch.stack(
        [now[row, place, before[row, place, :last].argmax()] for row, place in enumerate(places)]
    )
