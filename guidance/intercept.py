"""Changes the arguments of a module's calls, compiled or not, without making it compile anew."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and the named arguments of one call."""


@contextmanager
def intercepted(module: nn.Module, change: Callable[..., Given]) -> Iterator[None]:
    """Within the block, every call of the module gets the arguments that `change(args, kwargs)` returns.

    A hook does it where the module runs as it is, and where `torch.compile(module)` has wrapped it. A module
    compiled in place (`module.compile()`) would run its hooks inside the compiled code, and compile anew for
    each of them, so there the compiled code itself is wrapped.
    """
    compiled = module._compiled_call_impl
    if compiled is None:
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: change(args, kwargs), with_kwargs=True
        )
        try:
            yield
        finally:
            handle.remove()
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = change(args, kwargs)
        return compiled(*args, **kwargs)

    module._compiled_call_impl = call
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


@contextmanager
def overheard(module: nn.Module, hear: Callable[[Given, Any], None]) -> Iterator[None]:
    """Within the block, `hear((args, kwargs), output)` is told of every call of the module once it has run.

    Compiled code is not touched, see `intercepted`.
    """
    compiled = module._compiled_call_impl
    if compiled is None:
        handle = module.register_forward_hook(
            lambda _, args, kwargs, output: hear((args, kwargs), output), with_kwargs=True
        )
        try:
            yield
        finally:
            handle.remove()
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        output = compiled(*args, **kwargs)
        hear((args, kwargs), output)
        return output

    module._compiled_call_impl = call
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


@contextmanager
def answered(module: nn.Module, answer: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block, every call of the module returns `answer(output)`; not for compiled code."""
    handle = module.register_forward_hook(lambda _, args, output: answer(output))
    try:
        yield
    finally:
        handle.remove()


def as_given(module: nn.Module, given: Given, named: Mapping[str, Any]) -> Given:
    """Arguments by name laid out as another call of the module was, for compiled code tells layouts apart."""
    args, kwargs = given
    positions = list(inspect.signature(module.forward).parameters)[: len(args)]
    order = [*kwargs, *(name for name in named if name not in kwargs)]
    rest = {name: named[name] for name in order if name in named and name not in positions}
    return tuple(named[name] for name in positions), rest


def unwrapped(module: nn.Module) -> nn.Module:
    """The model itself, where `torch.compile(model)` has put a wrapper around it."""
    return getattr(module, "_orig_mod", module)


def is_compiled(module: nn.Module) -> bool:
    """Whether the module or a part of it runs as compiled code."""
    return unwrapped(module) is not module or any(_compiled(part) for part in module.modules())


def _compiled(part: nn.Module) -> bool:
    forward = part.__dict__.get("forward")
    return part._compiled_call_impl is not None or hasattr(forward, "_torchdynamo_orig_callable")


def eagerly(module: nn.Module) -> AbstractContextManager[Any]:
    """Within the block, compiled code in the module runs as the Python that it was made of."""
    return torch.compiler.set_stance("force_eager") if is_compiled(module) else nullcontext()
