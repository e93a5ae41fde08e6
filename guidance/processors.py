"""Sees the cross-attention that a pipeline's own processors compute, and changes no pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .attach import lend
from .errors import UnsupportedError
from .layers import Grid, Layer
from .maps import AttentionMaps


class AllRecorded(Exception):
    """Signals that every chosen layer has recorded, so that a probe need not run the rest of the denoiser."""


class Recorder:
    """Collects the attention probabilities of chosen layers during one pass of a denoiser.

    Of layers over the text all heads are kept, of self-attention, which is larger, their mean. Of a joint
    attention the image's queries are kept, with the text's keys alone (or the image's): the softmax is that
    over them all, divided by its sum over these, so that the text's positions add up to 1 as a UNet's do.

    Attributes:
        layers: the layers to record, by their modules.
        beside: those that share their module with one of these: the image's part of a joint attention.
        text_length: number of text tokens; calls with another number of keys (an image prompt's, say) are
            passed by.
        stop: raise `AllRecorded` as soon as the last chosen layer has recorded.
    """

    insists = True  # attention that is not seen is an error

    def __init__(
        self, layers: Sequence[Layer], latents_grid: Grid, text_length: int, stop: bool = False
    ) -> None:
        self.layers: dict[int, Layer] = {}
        self.beside: dict[int, Layer] = {}
        for layer in layers:
            found = self.beside if id(layer.module) in self.layers else self.layers
            found[id(layer.module)] = layer
        self.latents_grid = latents_grid
        self.text_length = text_length
        self.stop = stop
        self._recorded: dict[str, Float[Tensor, "batch heads height width token"]] = {}

    @property
    def maps(self) -> AttentionMaps:
        """What was recorded, in float32.

        Raises:
            UnsupportedError: a chosen layer did not run, or its processor computed attention in a way not
            seen.
        """
        layers = (*self.layers.values(), *self.beside.values())
        for layer in layers:
            if layer.name not in self._recorded:
                raise UnsupportedError(
                    f"{layer.name} took no part in this pass of the denoiser: there is no attention to record"
                )
        own = {layer.name for layer in layers if layer.over_image}
        return AttentionMaps(
            {name: found for name, found in self._recorded.items() if name not in own},
            {name: found for name, found in self._recorded.items() if name in own},
        )

    @property
    def complete(self) -> bool:
        """Whether every layer has recorded."""
        return all(one.name in self._recorded for one in (*self.layers.values(), *self.beside.values()))

    def forget(self) -> None:
        """Begin anew, for another pass."""
        self._recorded = {}

    def layer_of(self, module: Any) -> Layer | None:
        """The layer that a module's attention is to be filed under; None for one that is passed by."""
        return self.layers.get(id(module))

    def keys_of(self, layer: Layer) -> int:
        """How many keys the layer's attention has: the text's tokens, the image's own positions, or both.

        A joint attention may have more: those of a reference image, which come after these.
        """
        height, width = layer.grid(self.latents_grid)
        if layer.text is not None:
            return height * width + self.text_length
        return height * width if layer.over_image else self.text_length

    def watch(self, layer: Layer, rows: int) -> _Watch:
        """What to run one call of the layer's processor in."""
        return _Watch(self, layer, rows)

    def see(
        self, layer: Layer, query: Tensor, key: Tensor, scale: float | None, mask: Tensor | None = None
    ) -> None:
        """Told of one layer's queries and keys, (row, heads, position, channel)."""
        self.keep(layer, probabilities(query, key, scale, mask))

    def keep(self, layer: Layer, probabilities: Float[Tensor, "batch heads query token"]) -> None:
        """File one layer's probabilities under its name, laid out on its grid."""
        self._check_positions(layer, probabilities.shape[2])
        grid = layer.grid(self.latents_grid)
        if layer.over_image:
            self._recorded[layer.name] = probabilities.mean(1).unflatten(2, grid).unflatten(1, grid)
        else:
            self._recorded[layer.name] = probabilities.unflatten(2, grid)
        if self.stop and len(self._recorded) == len(self.layers) + len(self.beside):
            raise AllRecorded

    def _check_positions(self, layer: Layer, found: int) -> None:
        height, width = layer.grid(self.latents_grid)
        if found != height * width:
            raise UnsupportedError(
                f"{layer.name} has {found} image tokens, but its place in the denoiser "
                f"and latents of {self.latents_grid[0]}x{self.latents_grid[1]} mean {height}x{width}; "
                "please report this model"
            )


class _Watch(TorchFunctionMode):
    """Takes queries and keys from the first attention over the text within one call of a processor."""

    def __init__(self, recorder: Recorder, layer: Layer, rows: int) -> None:
        super().__init__()
        self.recorder, self.layer, self.rows = recorder, layer, rows
        self.done = False
        self._flat: list[Tensor] = []
        self._slices: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and not self.done:
            with _kept():
                self._see_fused(*args, **kwargs)
        return func(*args, **kwargs)

    def _see_fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        found, wanted = key.shape[-2], self.recorder.keys_of(self.layer)
        if found < wanted or (found > wanted and self.layer.text is None):
            return
        if is_causal or enable_gqa:
            raise UnsupportedError(f"{self.layer.name} uses causal or grouped-query attention")
        self.done = True
        for layer in (self.layer, self.recorder.beside.get(id(self._module))):
            if layer is not None:
                text = self.recorder.text_length
                part = part_of(layer, text, self.recorder.keys_of(layer) - text, query, key, attn_mask)
                self.recorder.see(layer, part[0], part[1], scale, part[2])

    def see_scores(self, query: Tensor, key: Tensor, attention_mask: Tensor | None = None) -> None:
        """Told of `Attention.get_attention_scores`, called once or (sliced) for a few heads at a time."""
        if self.done or key.shape[-2] != self.recorder.keys_of(self.layer):
            return
        self._slices.append(probabilities(query, key, self._module.scale, attention_mask))
        if sum(len(part) for part in self._slices) == self.rows * self._module.heads:
            self.done = True
            found = torch.cat(self._slices).unflatten(0, (self.rows, self._module.heads))
            self._slices = []
            self.recorder.keep(self.layer, found)

    def see_flat(self, heads: Tensor) -> None:
        """Told what `Attention.head_to_batch_dim` returns: queries first, then keys (xFormers)."""
        if self.done:
            return
        self._flat.append(heads)
        if len(self._flat) == 2:
            query, key = (part.unflatten(0, (self.rows, self._module.heads)) for part in self._flat)
            self._flat = []
            self.done = True
            self.recorder.see(self.layer, query, key, self._module.scale)

    @property
    def _module(self) -> Any:
        return self.layer.module


def part_of(
    layer: Layer, text_length: int, positions: int, query: Tensor, key: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A layer's part of queries, keys and mask: all of them, or of a joint attention what belongs to it.

    There the image has so many `positions`, before the text or after it.
    """
    if layer.text is None:
        return query, key, mask
    first, total = layer.text == "first", key.shape[-2]
    text = slice(0, text_length) if first else slice(total - text_length, total)
    image = slice(text_length, text_length + positions) if first else slice(0, positions)
    keys = image if layer.over_image else text
    if mask is not None:
        mask = mask[..., keys] if mask.shape[-2] == 1 else mask[..., image, keys]
    return query[..., image, :], key[..., keys, :], mask


@torch.autocast("cuda", enabled=False)
@torch.autocast("cpu", enabled=False)
def probabilities(
    query: Float[Tensor, "*batch query channel"],
    key: Float[Tensor, "*batch token channel"],
    scale: float | None = None,
    mask: Tensor | None = None,
) -> Float[Tensor, "*batch query token"]:
    """softmax(q k^T scale + mask) over the tokens, in float32 whatever the inputs are; `scale` None is
    1/sqrt(channel).

    A boolean mask is True where attention is allowed, as in
    `torch.nn.functional.scaled_dot_product_attention`.
    """
    scores = (
        query.float() @ key.float().transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    )
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask.float()
    return scores.softmax(dim=-1)


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Let the processors of the recorder's layers be seen for the length of the block.

    The host's own processors go on making the output; whatever sits on a layer at this moment (scaled
    dot-product, xFormers, sliced, LoRA's, an IP-Adapter's) is what is recorded, also where one object serves
    several layers.
    """
    processors = {id(layer.module.processor): layer.module.processor for layer in recorder.layers.values()}
    with ExitStack() as stack:
        for processor in processors.values():
            stack.enter_context(observed(processor, recorder))
        yield recorder


def observed(processor: Any, recorder: Recorder) -> AbstractContextManager[None]:
    """Let one processor be seen by a recorder for the length of the block."""
    return lend(processor, __call__=_observed(recorder))


def observe(recorder: Recorder, stack: ExitStack, lent: dict[int, Any]) -> None:
    """Let the processors that sit on the recorder's layers now be seen, until the stack is unwound.

    `lent` holds those which are seen already, by id. A callback may have put new ones there; old ones are
    kept, so that all are given back in order.
    """
    for layer in recorder.layers.values():
        processor: Any = layer.module.processor
        if id(processor) not in lent:
            lent[id(processor)] = processor
            stack.enter_context(observed(processor, recorder))


def _observed(recorder: Recorder) -> Callable[..., Any]:
    def call(
        inherited: Callable[..., Any], self: Any, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        layer = recorder.layer_of(attn)
        if layer is None:
            return inherited(attn, hidden_states, *args, **kwargs)
        if _is_xformers(self) and layer.text is not None:
            raise UnsupportedError(
                f"the joint attention of {layer.name} is not seen with xFormers; use the default processor"
            )
        if _is_xformers(self) and kwargs.get("attention_mask") is not None:
            raise UnsupportedError(
                f"{layer.name} masks the text, which is not seen with xFormers; use the default processor"
            )
        watch = recorder.watch(layer, rows=hidden_states.shape[0])
        with watch, lend(attn, **_eager_observers(watch, _is_xformers(self))):
            output = inherited(attn, hidden_states, *args, **kwargs)
        if not watch.done and recorder.insists:
            raise UnsupportedError(
                f"the attention of {layer.name} was not seen: {type(self).__name__} computes it in a way "
                "heedful does not know; use the default processor (AttnProcessor2_0), xFormers or sliced "
                'attention, or set_attention_backend("native"), or leave this layer out'
            )
        return output

    return call


def _is_xformers(processor: Any) -> bool:
    return "XFormers" in type(processor).__name__


def _eager_observers(watch: _Watch, xformers: bool) -> dict[str, Callable[..., Any]]:
    def scores(
        inherited: Callable[..., Any], self: Any, query: Tensor, key: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        with _kept():
            watch.see_scores(query, key, *args, **kwargs)
        return inherited(query, key, *args, **kwargs)

    def flat(inherited: Callable[..., Any], self: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        heads = inherited(tensor, *args, **kwargs)
        with _kept():
            watch.see_flat(heads)
        return heads

    return {"head_to_batch_dim": flat} if xformers else {"get_attention_scores": scores}


def _kept() -> AbstractContextManager[Any]:
    """What the backward needs of the computations within is kept, whatever is done with the host's.

    Gradient checkpointing computes a block anew in the backward, where nobody looks; so it must not count
    what looking has added.
    """
    return saved_tensors_hooks(_same, _same)


def _same(tensor: Tensor) -> Tensor:
    return tensor
