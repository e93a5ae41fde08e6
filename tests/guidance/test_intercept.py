"""A module's calls are changed where they are made, outside of compiled code, and in their own layout."""

from __future__ import annotations

import pytest
import torch
from heedful.guidance.denoiser import by_name
from heedful.guidance.intercept import as_given, intercepted, is_compiled, unwrapped
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


class Sum(nn.Module):
    """What it is given, by name."""

    def forward(self, first, second=2.0, third=3.0, **kwargs):
        return {"first": first, "second": second, "third": third, **kwargs}


def compiled_in_place():
    """A module whose compiled code is a stand-in that says it ran."""
    module, ran = Sum(), []

    def code(*args, **kwargs):
        ran.append((args, kwargs))
        return module._call_impl(*args, **kwargs)

    module._compiled_call_impl = code
    return module, ran


@given(positional=st.integers(0, 3), named=st.permutations(["second", "third", "scale"]))
def test_arguments_keep_their_layout(positional, named):
    values = {"first": 1.0, "second": 5.0, "third": 6.0, "scale": 7.0}
    names = ["first", "second", "third"]
    args = tuple(values[name] for name in names[:positional])
    kwargs = {name: values[name] for name in ["first", *named] if name not in names[:positional]}
    found = by_name(Sum(), args, kwargs)
    assert found == values
    again = as_given(Sum(), (args, kwargs), {**found, "third": 0.0, "extra": 9.0})
    assert len(again[0]) == positional
    assert list(again[1]) == [*kwargs, "extra"]
    assert by_name(Sum(), *again) == {**values, "third": 0.0, "extra": 9.0}


def test_an_argument_that_is_taken_away_is_gone():
    assert as_given(Sum(), ((1.0,), {"second": 5.0}), {"first": 4.0}) == ((4.0,), {})


@pytest.mark.parametrize("compiled", [False, True])
def test_calls_are_changed_within_the_block_only(compiled):
    module, ran = compiled_in_place() if compiled else (Sum(), [])
    before = module._compiled_call_impl
    with (
        pytest.raises(KeyboardInterrupt),
        intercepted(module, lambda args, kwargs: ((10.0,), {**kwargs, "third": 0.0})),
    ):
        assert module(1.0, second=5.0) == {"first": 10.0, "second": 5.0, "third": 0.0}
        raise KeyboardInterrupt
    assert module(1.0) == {"first": 1.0, "second": 2.0, "third": 3.0}
    assert module._compiled_call_impl is before
    assert not module._forward_pre_hooks
    assert ran == ([((10.0,), {"second": 5.0, "third": 0.0}), ((1.0,), {})] if compiled else [])


@pytest.mark.parametrize("compiled", [False, True])
def test_blocks_may_be_nested(compiled):
    module = compiled_in_place()[0] if compiled else Sum()

    def add(number):
        return lambda args, kwargs: ((args[0] + number,), kwargs)

    with intercepted(module, add(10.0)):
        with intercepted(module, add(100.0)):
            assert module(1.0)["first"] == 111.0
        assert module(1.0)["first"] == 11.0
    assert module(1.0)["first"] == 1.0


def test_compiled_code_is_known_wherever_it_is():
    whole = nn.Sequential(Sum(), Sum())
    assert not is_compiled(whole)
    assert unwrapped(whole) is whole
    part, _ = compiled_in_place()
    assert is_compiled(nn.Sequential(Sum(), part))
    by_forward = Sum()
    by_forward.forward = lambda first: first
    assert not is_compiled(by_forward)
    by_forward.forward._torchdynamo_orig_callable = Sum.forward
    assert is_compiled(by_forward)
    wrapper = nn.Module()
    wrapper._orig_mod = whole
    assert unwrapped(wrapper) is whole
    assert is_compiled(wrapper)


def test_what_is_looked_at_is_kept_while_a_checkpoint_recomputes():
    """Recomputing sees nothing of the recorder, so nothing of the recorder may be counted."""
    from heedful.guidance.processors import _kept
    from torch.utils.checkpoint import CheckpointError, checkpoint

    def gradient(kept):
        seen = []

        def block(value):
            value = value.sin()
            if not seen:  # as a recorder, which is gone by the backward
                if kept:
                    with _kept():
                        seen.append(value.exp().tanh())
                else:
                    seen.append(value.exp().tanh())
            return value.cos()

        leaf = torch.linspace(0, 1, 5, requires_grad=True)
        checkpoint(block, leaf, use_reentrant=False)
        return torch.autograd.grad(seen[0].sum(), leaf)[0], leaf.detach()

    found, leaf = gradient(kept=True)
    inner = leaf.sin().exp()
    torch.testing.assert_close(found, (1 - inner.tanh() ** 2) * inner * leaf.cos())
    with pytest.raises(CheckpointError):
        gradient(kept=False)
