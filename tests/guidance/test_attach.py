"""A lent method is seen by its one object only, and everything is given back on every exit."""

from __future__ import annotations

import inspect

import pytest
from heedful.guidance.attach import lend


class Host:
    def __init__(self) -> None:
        self.weights = [1, 2]

    def run(self, x: int, *, scale: int = 2) -> int:
        """Host's own."""
        return x * scale


def doubled(inherited, self, *args, **kwargs):
    return 2 * inherited(*args, **kwargs)


def test_only_the_one_object_is_changed_and_only_within_the_block():
    host, other = Host(), Host()
    with lend(host, run=doubled):
        assert host.run(3) == 12
        assert other.run(3) == 6
        assert isinstance(host, Host)
        assert type(host).__name__ == "Host"
        assert host.weights == [1, 2]
    assert host.run(3) == 6
    assert type(host) is Host


def test_signature_and_docstring_stay():
    host = Host()
    before = inspect.signature(host.run)
    with lend(host, run=doubled):
        assert inspect.signature(host.run) == before
        assert host.run.__doc__ == "Host's own."


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_given_back_on_an_exception(error):
    host = Host()
    with pytest.raises(error), lend(host, run=doubled):
        raise error
    assert type(host) is Host


def test_nested_lending_stacks_and_unstacks():
    host = Host()
    with lend(host, run=doubled):
        with lend(host, run=doubled):
            assert host.run(1) == 8
        assert host.run(1) == 4
    assert host.run(1) == 2


def test_unknown_method_is_refused_by_name():
    with pytest.raises(AttributeError, match="Host has no method 'walk'"), lend(Host(), walk=doubled):
        pass
