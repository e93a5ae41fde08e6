"""Everything that a capture touches is put back, on every exit."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as tf
from explain_capturing import captured, name_of, plain, state
from explain_oracles_capture import (
    WITHOUT,
    clip,
    lxmert,
    multi_head,
    vit,
)
from heedful.explain.capture import capture
from heedful.explain.wiring import Site


@pytest.mark.parametrize("make", [clip, lxmert, multi_head], ids=name_of)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_put_back(make: Any, error: type[BaseException] | None) -> None:
    case = make("" if make in WITHOUT else "sdpa")
    next(case.model.parameters()).requires_grad_(False)
    before, answer = state(case.model), plain(case)
    with pytest.raises(error) if error else nullcontext(), capture(case.model):
        assert not any(each.requires_grad for each in case.model.parameters())
        case.model(**case.inputs)
        if error:
            raise error
    assert state(case.model) == before
    assert torch.equal(plain(case), answer)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_everything_is_put_back_when_the_model_fails_halfway(error: type[BaseException]) -> None:
    case = vit("sdpa")
    before = state(case.model)

    def fail(*_: Any) -> None:
        raise error

    hook = case.model.vit.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(error), capture(case.model):
        case.model(**case.inputs)
    hook.remove()
    assert state(case.model) == before
    assert len(captured(case)[1].attention) == 3


def test_it_can_be_nested_and_repeated() -> None:
    case = vit("sdpa")
    before = state(case.model)
    with capture(case.model) as outer, capture(case.model) as inner:
        scores = case.score(case.model(**case.inputs))
    _, again = captured(case)
    assert state(case.model) == before
    assert list(outer.attention) == list(inner.attention) == list(again.attention)
    for site, probabilities in inner.attention.items():
        assert torch.equal(outer.attention[site], probabilities)
        assert torch.equal(again.attention[site], probabilities)
    wanted = inner.gradients(scores)
    assert all(torch.equal(each, wanted[site]) for site, each in outer.gradients(scores).items())


def test_a_model_that_fails_inside_the_block_can_run_there_again() -> None:
    case = vit("sdpa")
    with capture(case.model) as seen:
        with pytest.raises(ValueError, match="size"):
            case.model(pixel_values=torch.zeros(1, 3, 8, 8))
        seen._forwards = 0  # the first run showed nothing
        case.model(**case.inputs)
    assert len(seen.attention) == 3


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_runs_eagerly_meanwhile(whole: bool) -> None:
    case = vit("sdpa")
    wanted, sites = plain(case), list(captured(case)[1].attention)
    if whole:
        case = replace(case, model=torch.compile(case.model, backend="eager"))
    else:
        case.model.vit.compile(backend="eager")
    with capture(case.model, sites, watch=["vit.embeddings"]) as seen:
        scores = case.score(case.model(**case.inputs))
    torch.testing.assert_close(scores.detach(), wanted)
    assert seen.outputs["vit.embeddings"].shape == (2, 16, 24)


def test_nothing_is_held_once_the_capture_is_let_go() -> None:
    gc.disable()
    try:
        scores, seen = captured(vit("sdpa"))
        seen.gradients(scores)
        held = [weakref.ref(each) for each in seen.attention.values()]
        del scores, seen
        assert [each() for each in held] == [None] * 3
    finally:
        gc.enable()


def test_layers_that_share_their_weights_are_sites_of_one_module() -> None:
    settings = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 20, "vocab_size": 40}
    model = tf.AlbertForSequenceClassification(
        tf.AlbertConfig(**settings, embedding_size=8, num_hidden_layers=3)
    )
    with capture(model.eval()) as seen:
        scores = model(torch.arange(12).view(2, 6)).logits[:, 1]
    name = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention"
    assert list(seen.gradients(scores)) == [Site(name, call) for call in range(3)]
