"""What is particular to Flux: true guidance, T5's text alone, packed latents."""

from __future__ import annotations

import hosting_transformers as hosting
import pytest
import torch
from diffusers import FluxPipeline
from heedful.guidance import AttendAndExcite, Schedule, TokenNotFoundError, guide, record
from heedful.guidance.hosts.flux import FluxCall
from hosting_transformers import inputs_of
from hypothesis import given
from hypothesis import strategies as st
from tiny_transformers import tiny_flux
from torch import nn

ONCE = Schedule({}, until=1, unit="step")
CASES = {case.name: case for case in hosting.CASES}
FLUX, TRUE_FLUX = CASES["FluxPipeline"], CASES["FluxPipeline, true guidance"]


@pytest.fixture(scope="module")
def flux():
    return tiny_flux()


def test_both_calls_of_true_guidance_get_the_same_latents(flux):
    with guide(flux, TRUE_FLUX.objective()) as session, record(flux, TRUE_FLUX.words) as recording:
        calls = inputs_of(flux, lambda: TRUE_FLUX.run(flux))
    assert len(calls) == 4
    assert torch.equal(calls[0], calls[1])
    assert torch.equal(calls[2], calls[3])
    assert len(session.run.steps) == len(recording.record.steps) == 2
    unguided = inputs_of(flux, lambda: TRUE_FLUX.run(flux))
    assert not torch.equal(calls[0], unguided[0])


def test_flux_looks_for_words_in_the_text_that_t5_is_given(flux):
    with guide(flux, AttendAndExcite(words=["frog"], schedule=ONCE)) as session:
        FLUX.run(flux, "a dog", prompt_2="a red frog")
    assert session.run.spans[0][0].indices == (2,)
    assert session.run.prompts == ("a red frog",)
    with pytest.raises(TokenNotFoundError, match="dog"), guide(flux, AttendAndExcite(words=["dog"])):
        FLUX.run(flux, "a dog", prompt_2="a red frog")


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_packing_is_the_pipelines(batch, channels, height, width):
    latents = torch.randn(batch, channels, 2 * height, 2 * width)
    packed = FluxPipeline._pack_latents(latents, batch, channels, 2 * height, 2 * width)
    ids = FluxPipeline._prepare_latent_image_ids(batch, height, width, "cpu", torch.float32)
    call = FluxCall(nn.Identity(), {"hidden_states": packed, "img_ids": ids})
    assert call.grid == (2 * height, 2 * width)
    assert torch.equal(call.latents, latents)
    assert torch.equal(call.packed(latents), packed)
    assert torch.equal(call.moved(call.packed(torch.ones_like(latents)))["hidden_states"], packed + 1)


def test_places_are_not_taken_for_rows():
    """As many images as positions: the tensors of places are not cut with the batch."""
    ids = FluxPipeline._prepare_latent_image_ids(4, 2, 2, "cpu", torch.float32)
    named = {"hidden_states": torch.randn(4, 4, 16), "img_ids": ids, "txt_ids": torch.zeros(4, 3)}
    chosen = FluxCall(nn.Identity(), named).rows(torch.tensor([2]))
    assert chosen.sample.shape == (1, 4, 16)
    assert chosen.arguments["img_ids"] is ids
    assert len(chosen.arguments["txt_ids"]) == 4


def test_what_is_no_latents_stays_where_it_is():
    """A reference image's tokens behind, and further channels of each token, are not moved."""
    ids = FluxPipeline._prepare_latent_image_ids(1, 2, 3, "cpu", torch.float32)
    other = ids.clone()
    other[:, 0] = 1
    states = torch.randn(1, 12, 24)
    call = FluxCall(nn.Identity(), {"hidden_states": states, "img_ids": torch.cat([ids, other])}, 1.0, 16)
    assert call.latents.shape == (1, 4, 4, 6)
    moved = call.moved(torch.ones(1, 6, 16))["hidden_states"]
    assert torch.equal(moved[:, :6, :16], states[:, :6, :16] + 1)
    assert torch.equal(moved[:, :6, 16:], states[:, :6, 16:])
    assert torch.equal(moved[:, 6:], states[:, 6:])
