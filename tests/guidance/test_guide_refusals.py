"""What cannot be guided is refused clearly, before anything has run, and leaves nothing behind."""

from __future__ import annotations

import diffusers
import pytest
import torch
from guiding import CAT_AND_FROG, PROMPT, SIZE, run, state
from heedful.guidance import (
    AttendAndExcite,
    GuidanceError,
    LayerNotFoundError,
    TokenNotFoundError,
    UnsupportedError,
    guide,
)
from tiny import tiny_pipeline as build


@pytest.fixture(scope="module")
def pipe():
    """One pipeline for the whole file: each test finds it as it was."""
    return build()


@pytest.mark.parametrize(
    ("objective", "call", "error", "message"),
    [
        (
            AttendAndExcite(words=["frgo"]),
            {},
            TokenNotFoundError,
            'word "frgo" is not in the prompt .*cat, and, frog',
        ),
        (AttendAndExcite(), {"prompt": ""}, TokenNotFoundError, "empty"),
        (AttendAndExcite(token_indices=[2, 90]), {}, TokenNotFoundError, "90 is out of range"),
        (
            AttendAndExcite(words=[["cat"], ["dog"]]),
            {},
            GuidanceError,
            "words has 2 lists for 1 prompt; give one",
        ),
        (
            CAT_AND_FROG,
            {"prompt": None, "prompt_embeds": torch.zeros(1, 77, 16)},
            GuidanceError,
            "give token_indices",
        ),
        (
            AttendAndExcite(),
            {"prompt": None, "prompt_embeds": torch.zeros(1, 77, 16)},
            GuidanceError,
            "token_indices",
        ),
        (CAT_AND_FROG, {"clip_skip": 1}, UnsupportedError, "clip_skip"),
    ],
)
def test_bad_calls_are_met_before_anything_runs(pipe, objective, call, error, message):
    before = state(pipe)
    with pytest.raises(error, match=message), guide(pipe, objective):
        pipe(**{"prompt": PROMPT, "num_inference_steps": 2, **SIZE, **call})
    assert state(pipe) == before


def test_prompt_embeds_with_token_indices(pipe):
    embeds, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
    negative, _ = pipe.encode_prompt("", "cpu", 1, False)
    with guide(pipe, AttendAndExcite(token_indices=[2, 5], max_refinements=0)) as session:
        pipe(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            num_inference_steps=2,
            output_type="latent",
            **SIZE,
        )
    assert [span.text for span in session.run.spans[0]] == ["token 2", "token 5"]
    assert session.run.steps


def test_inference_mode_is_refused(pipe):
    with (
        torch.inference_mode(),
        guide(pipe, CAT_AND_FROG),
        pytest.raises(GuidanceError, match="inference_mode"),
    ):
        run(pipe)


def test_a_layer_choice_that_matches_nothing_is_refused(pipe):
    before = state(pipe)
    with pytest.raises(LayerNotFoundError, match="the layers are"), guide(pipe, CAT_AND_FROG, layers=(5, 5)):
        run(pipe)
    assert state(pipe) == before


def test_an_unknown_pipeline_or_scheduler_is_refused_by_name():
    class SomeOtherPipeline:
        pass

    with (
        pytest.raises(UnsupportedError, match="SomeOtherPipeline; it knows: StableDiffusionPipeline"),
        guide(SomeOtherPipeline(), CAT_AND_FROG),
    ):
        pass
    pipe = build()
    pipe.scheduler = diffusers.SASolverScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(UnsupportedError, match="SASolverScheduler"), guide(pipe, CAT_AND_FROG):
        run(pipe)


def test_words_and_indices_together_are_refused():
    with pytest.raises(GuidanceError, match="not both"):
        AttendAndExcite(words=["cat"], token_indices=[2])


def test_asking_for_a_run_before_there_is_one(pipe):
    with guide(pipe, CAT_AND_FROG) as session, pytest.raises(GuidanceError, match="call the pipeline"):
        _ = session.run
