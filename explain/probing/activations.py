"""What modules give out: hidden states, feed-forward features, queries, by name, on any model as it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError


class Activations(dict[str, Tensor]):
    """Outputs of the latest forward by the module's name; one that did not run is an error, not a KeyError.

    Attributes:
        names: the modules that are looked at, in the model's order.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names

    def __missing__(self, name: str) -> Tensor:
        if name not in self.names:
            raise CaptureError(f"{name!r} is not looked at; these are: {_some(self.names)}")
        raise CaptureError(f"the module {name!r} has not run yet: call the model inside the `with` block")


@contextmanager
def activations(model: nn.Module, names: str | Sequence[str]) -> Iterator[Activations]:
    """Show what modules give out in each forward that runs inside the block.

    `with activations(model, "vit.layers.*.mlp.fc1") as seen: model(pixel_values=pixels)`, and then
    `seen["vit.layers.0.mlp.fc1"]`. The tensors are the module's own, in the autograd graph where autograd is
    on; what the model later does to them in place does not reach them. Where a module returns several tensors
    it is the first. Each forward of the model replaces the one before. The model's answer stays the same to
    the last bit, and all is undone on every exit.

    Args:
        model: any torch module in eval mode; compiled ones run eagerly meanwhile.
        names: modules by `named_modules()`; `*` stands for any one part between dots.

    Raises:
        CaptureError: for a model in training mode, names that match nothing, modules that give no floating
            tensor or run twice in one forward, and on leaving, for modules that did not run.
    """
    modules = {_plain(name): module for name, module in model.named_modules()}
    if any(module.training for module in modules.values()):
        raise CaptureError(
            f"{type(model).__name__} is in training mode, where dropout and batch norm change what layers "
            "give out: call model.eval() first"
        )
    seen = Activations(matching(model, names))
    with ExitStack() as undo:
        undo.callback(model.register_forward_pre_hook(partial(_begin, seen)).remove)
        for name in seen.names:
            undo.callback(modules[name].register_forward_hook(partial(_keep, seen, name)).remove)
        if any(hasattr(each, "_orig_mod") or _compiled(each) for each in model.modules()):
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield seen
    if unseen := [name for name in seen.names if name not in seen]:
        raise CaptureError(
            f"these modules did not run: {_some(unseen)}. Call the whole model inside the `with` block, with "
            "all inputs that they need"
        )


def matching(model: nn.Module, names: str | Sequence[str]) -> tuple[str, ...]:
    """The modules that names and patterns stand for, each once, in the model's order.

    Raises:
        CaptureError: for no name at all, or one that matches nothing, naming what is there.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    there = [_plain(name) for name, _ in model.named_modules()]
    if not wanted:
        raise CaptureError(f"wanted at least one name of a module, such as: {_some(there[1:])}")
    found: set[str] = set()
    for pattern in wanted:
        hits = [name for name in there if _fits(name, pattern)]
        if not hits:
            close = difflib.get_close_matches(pattern.replace("*", "0"), there, 4) or there[1:]
            raise CaptureError(
                f"no module of {type(model).__name__} is called {pattern!r}; there are, for instance: "
                f"{_some(close)} ('*' stands for one part between dots)"
            )
        found.update(hits)
    return tuple(name for name in there if name in found)


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(
        want in ("*", part) for part, want in zip(parts, wanted, strict=True)
    )


def _begin(seen: Activations, module: nn.Module, args: Any) -> None:
    seen.clear()


def _keep(seen: Activations, name: str, module: nn.Module, args: Any, output: Any) -> Any:
    """Keep an output; what goes on through the model is a copy, which may be changed in place."""
    if name in seen:
        raise CaptureError(
            f"the module {name!r} ran twice in one forward of the model: which output is meant is unclear"
        )
    first = output
    while not isinstance(first, Tensor) and first:
        if not isinstance(first, Mapping | Sequence) or isinstance(first, str):
            break
        first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise CaptureError(
            f"the module {name!r} gives no tensor of floating numbers but {type(first).__name__}"
        )
    seen[name] = first
    return first.clone() if first is output else None


def _plain(name: str) -> str:
    """A module's name, which `torch.compile` does not change here."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
