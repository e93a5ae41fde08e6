"""Attention probabilities of any model, in the autograd graph, and their gradients by any score."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import CaptureError
from .observers import Observer
from .wiring import Site

_LOSS_SCALES = (2.0**15, 2.0**10, 2.0**5, 1.0)
"""Tried in turn in float16, whose largest number is 65504; powers of two, so that nothing is rounded."""


class Capture:
    """What one forward showed: the attention of every site, and the outputs of the watched modules.

    Attributes:
        attention: probabilities (batch, head, query, key) by site, in the order of the forward: float32
            (float64 in a float64 model), the very tensors from which the output was computed.
        outputs: for every watched module its output, the first tensor of several, in the graph.
    """

    def __init__(self, model: nn.Module, wanted: tuple[Site, ...] | None, observer: Observer) -> None:
        self.attention = observer.attention
        self.outputs: dict[str, Tensor] = {}
        self._model = model
        self._wanted = wanted
        self._forwards = 0
        self._observer = observer

    @property
    def half(self) -> bool:
        """Whether float16 took part, so that gradients need a loss scale to neither vanish nor overflow."""
        return self._observer.half

    @property
    def scales(self) -> tuple[float, ...]:
        """What scores are multiplied by for a backward, in turn: the first finite gradient counts."""
        return _LOSS_SCALES if self.half else (1.0,)

    def gradients(
        self,
        scores: Float[Tensor, "row"],
        sites: Collection[Site] | None = None,
        *,
        grad_outputs: Float[Tensor, "*together row"] | None = None,
        retain_graph: bool = True,
    ) -> dict[Site, Tensor]:
        """d(sum of the scores)/dA for every site, shaped and typed as its attention.

        A float16 model's scores are scaled up for the backward, so that small gradients do not vanish, and
        the gradients scaled down again. A site that the scores are not computed from (the last cross layer
        towards a stream that nobody reads) has gradient zero. So may a single site that they are computed
        from: DETR's first decoder layer attends among queries whose values are still all equal. All sites at
        once may not.

        Args:
            scores: one score a row.
            sites: which ones (default: all).
            grad_outputs: a weight for each score instead of 1: (row,), or (several, row) for as many
                backwards in one, which put an axis of that length before the others.
            retain_graph: whether another backward will follow.

        Raises:
            CaptureError: the scores carry no graph or depend on no attention, or a gradient is not finite.
        """
        self.check()
        sites = tuple(self.attention) if sites is None else tuple(sites)
        if strange := [site for site in sites if site not in self.attention]:
            raise CaptureError(
                f"no attention was captured at {_named(strange)}; it was at {_named(self.attention)}"
            )
        if not torch.isfinite(scores).all():
            raise CaptureError(f"the scores are not finite{self._culprit()}")
        if not scores.requires_grad:
            raise CaptureError(
                "the scores carry no graph: they do not depend on the model's attention, or were detached, "
                "or computed under torch.no_grad(). Compute them from the outputs, with autograd on"
            )
        weights = torch.ones_like(scores) if grad_outputs is None else grad_outputs.to(scores.dtype)
        gradients = self._scaled(scores, [self.attention[site] for site in sites], weights, retain_graph)
        if not any(each.any() for each in gradients):
            raise CaptureError(
                f"the gradient of the scores is zero at every attention ({_named(sites)}): they do not "
                "depend on it, or are saturated. Choose a score from before a softmax or sigmoid, computed "
                "from what the attentions lead to"
            )
        return dict(zip(sites, gradients, strict=True))

    def _scaled(
        self, scores: Tensor, attentions: list[Tensor], weights: Tensor, retain_graph: bool
    ) -> list[Tensor]:
        """Gradients by the largest loss scale at which they are finite."""
        for scale in _LOSS_SCALES if scores.dtype == torch.float16 else self.scales:
            found = torch.autograd.grad(
                scores,
                attentions,
                grad_outputs=weights * scale,
                retain_graph=retain_graph or scale > 1,
                is_grads_batched=weights.dim() == 2,
                allow_unused=True,
                materialize_grads=True,
            )
            if all(torch.isfinite(each).all() for each in found):
                # of a site outside the graph torch returns zeros without the axis of several backwards
                leading = weights.shape[:-1]
                return [
                    (each / scale).expand(*leading, *attention.shape)
                    for each, attention in zip(found, attentions, strict=True)
                ]
        raise CaptureError(f"the gradient of the attention is not finite{self._culprit()}")

    def check(self) -> None:
        """Make sure that the forward showed what was wanted: every site once, whole, and nothing else.

        Raises:
            CaptureError: says what is amiss, and the remedy.
        """
        if self._forwards > 1:
            raise CaptureError(
                f"the model ran {self._forwards} times in one capture: open a new `with capture(...)` for "
                "each forward"
            )
        if not self.attention:
            raise CaptureError(
                "no attention was seen: run the model inside the `with` block. If it did run there, its "
                "attention is a kernel of its own: load it with attn_implementation='sdpa' or 'eager'"
            )
        self._check_sites()
        for site, probabilities in self.attention.items():
            self._check_map(site, probabilities)

    def _check_sites(self) -> None:
        if self._wanted is None:
            return
        missing = [site for site in self._wanted if site not in self.attention]
        extra = [site for site in self.attention if site not in self._wanted]
        if missing:
            raise CaptureError(
                f"no attention was seen at {_named(missing)}{', but at ' + _named(extra) if extra else ''}. "
                "Load the model with attn_implementation='sdpa' or 'eager', give it all its inputs, and name "
                "the modules that compute attention themselves"
            )
        if extra:
            raise CaptureError(
                f"attention outside the {len(self._wanted)} sites was seen at {_named(extra)}: add it to the "
                "sites, for whatever flows through it would be left out"
            )

    def _check_map(self, site: Site, probabilities: Tensor) -> None:
        if probabilities.dim() != 4:
            raise CaptureError(
                f"the attention at {_named([site])} has shape {tuple(probabilities.shape)}; wanted are four "
                "axes, (batch, head, query, key): the model has to split batch and heads before its softmax"
            )
        if not torch.isfinite(probabilities).all():
            raise CaptureError(f"the attention at {_named([site])} is not finite{self._culprit()}")
        sums = probabilities.detach().sum(-1)
        if not (((sums - 1).abs() < 1e-3) | (sums == 0)).all():
            raise CaptureError(
                f"the attention at {_named([site])} has rows that sum to {sums.min():.4f} and up to "
                f"{sums.max():.4f}, not to 1"
            )

    def _culprit(self) -> str:
        for name, parameter in self._model.named_parameters():
            if not torch.isfinite(parameter).all():
                return f": the weights {name!r} hold NaN or infinity. Load the model anew"
        if self.half:
            return ", though all weights are: float16 overflows here. Use bfloat16 or float32"
        return ", though all weights are: look for NaN or infinity in the inputs"


@contextmanager
def capture(
    model: nn.Module,
    sites: Collection[Site] | None = None,
    *,
    watch: Collection[str] = (),
    frozen: bool = True,
) -> Iterator[Capture]:
    """Show the attention of the one forward that runs inside the block, on the model as it is.

    Every attention is computed as softmax(Q Kᵀ · scale + mask) V with its probabilities in float32 and in
    the autograd graph; masks, scale and grouped heads are the model's own, and its output is the same up to
    rounding. Meanwhile autograd is on and all weights are frozen, so that the graph begins at the lowest
    attention, or at the lowest watched module. All of it is undone on every exit, and then the capture
    checks itself.

    Args:
        model: any model in eval mode whose attention is `scaled_dot_product_attention`,
            `nn.MultiheadAttention`, or a softmax over the keys before a matrix product.
        sites: the attentions that the forward must show, no more and no less (default: those that it shows).
        watch: names of modules whose outputs are wanted as well.
        frozen: False leaves the weights as they are, for whoever trains them on what attention shows.

    Raises:
        CaptureError: for a model in training mode or under torch.inference_mode, for flash or flex
            attention, for names that are no modules, and for a forward that did not show what was wanted.
    """
    modules = _modules(model)
    _check_model(model, modules)
    _check_names(modules, [*watch, *(site.module for site in sites or ())])
    observer = Observer()
    seen = Capture(model, None if sites is None else tuple(sites), observer)
    with ExitStack() as undo:
        if frozen:
            undo.enter_context(_frozen(model))
        for name, module in modules.items():
            if not isinstance(module, nn.Softmax):
                undo.callback(module.register_forward_pre_hook(partial(_enter, observer, name)).remove)
                leave = partial(_leave, observer, name)
                undo.callback(module.register_forward_hook(leave, always_call=True).remove)
        undo.callback(model.register_forward_pre_hook(partial(_count, seen)).remove)
        for name in watch:
            undo.callback(modules[name].register_forward_hook(partial(_watch, seen, name)).remove)
        if any(_is_compiled(module) for module in model.modules()):
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        undo.enter_context(torch.enable_grad())
        undo.enter_context(observer)
        yield seen
    seen.check()
    if unseen := [name for name in watch if name not in seen.outputs]:
        raise CaptureError(f"the watched modules did not run: {', '.join(unseen)}")


def _enter(observer: Observer, name: str, module: nn.Module, args: Any) -> None:
    observer.enter(name)


def _leave(observer: Observer, name: str, module: nn.Module, args: Any, output: Any) -> None:
    observer.leave(name)


def _count(seen: Capture, module: nn.Module, args: Any) -> None:
    seen._forwards += 1


def _watch(seen: Capture, name: str, module: nn.Module, args: Any, output: Any) -> None:
    """Keep an output; where all below it is frozen, it becomes the leaf of the graph."""
    if name in seen.outputs:
        raise CaptureError(f"the watched module {name!r} ran twice: which of its outputs is meant is unclear")
    first = output
    while not isinstance(first, Tensor) and first:
        first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise CaptureError(
            f"the watched module {name!r} gives no tensor of numbers but {type(first).__name__}"
        )
    seen.outputs[name] = first if first.requires_grad else first.requires_grad_()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by their names, which `torch.compile` does not change here."""
    return {
        ".".join(part for part in name.split(".") if part != "_orig_mod"): module
        for name, module in model.named_modules()
    }


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _check_model(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    if torch.is_inference_mode_enabled():
        raise CaptureError("torch.inference_mode() leaves no gradients: run the capture outside of it")
    if training := [name for name, module in modules.items() if module.training]:
        raise CaptureError(
            f"the model is in training mode ({training[0] or type(model).__name__!r}), where dropout changes "
            "the attention: call model.eval() first"
        )
    for module in modules.values():
        kind = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if isinstance(kind, str) and any(word in kind for word in ("flash", "flex", "paged")):
            raise CaptureError(
                f"{type(module).__name__} runs {kind!r}, whose probabilities never exist: load it with "
                "attn_implementation='sdpa' or 'eager', or call model.set_attn_implementation('sdpa')"
            )


def _check_names(modules: Mapping[str, nn.Module], names: Iterable[str]) -> None:
    for name in names:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, 4) or [each for each in modules if each][:8]
            raise CaptureError(f"the model has no module {name!r}; it has, for instance: {', '.join(close)}")


def _named(sites: Iterable[Site]) -> str:
    names = [
        f"{site.module or 'the model itself'}{f' (call {site.call})' * (site.call > 0)}" for site in sites
    ]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
