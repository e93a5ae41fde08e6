"""Lends an object a subclass of its own class for the length of a `with`, to see or change one method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


@contextmanager
def lend(target: object, **methods: Callable[..., Any]) -> Iterator[None]:
    """Replace methods of one object, and of that object only, until the block ends.

    The object's class becomes, for the length of the block, a subclass of the same name. Identity, weights,
    `isinstance` and signatures stay as they are (diffusers filters keyword arguments by signature), and
    other objects of the class notice nothing. Blocks may be nested; each gives back the class that it found.

    Args:
        target: the object, of any class whose instances may change their `__class__`.
        **methods: for each method's name a replacement `f(inherited, self, *args, **kwargs)`, where
            `inherited` is the method as it was before, bound to `self`.

    Raises:
        AttributeError: the object has no method of that name.
        TypeError: the object's class has a fixed memory layout, such as a built-in type.
    """
    found = type(target)
    body = {name: _replacement(found, name, method) for name, method in methods.items()}
    lent = type(
        found.__name__, (found,), {"__module__": found.__module__, "__qualname__": found.__qualname__, **body}
    )
    target.__class__ = lent
    try:
        yield
    finally:
        target.__class__ = found


def _replacement(found: type, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    inherited = getattr(found, name, None)
    if inherited is None:
        raise AttributeError(f"{found.__name__} has no method {name!r} that could be lent another")

    @wraps(inherited)
    def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(inherited.__get__(self), self, *args, **kwargs)

    return replaced
