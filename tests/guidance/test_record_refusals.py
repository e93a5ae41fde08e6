"""What cannot be recorded is refused clearly and leaves nothing behind; recording costs next to nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from guiding import PROMPT, state
from heedful.guidance import (
    GridMismatchError,
    GuidanceError,
    LayerNotFoundError,
    TokenNotFoundError,
    UnsupportedError,
    record,
)
from heedful.guidance.hosts import Host
from heedful.guidance.record import RecordedCall
from tiny import tiny_pipeline as build
from tiny import tiny_tokenizer
from torch.utils.flop_counter import FlopCounterMode

SMALL = {"num_inference_steps": 1, "height": 64, "width": 64, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe():
    """One pipeline for the whole file: each test finds it as it was."""
    return build()


@pytest.mark.parametrize(
    ("options", "call", "error", "message"),
    [
        ({"words": ["frgo"]}, {}, TokenNotFoundError, 'word "frgo" is not in the prompt .*cat, and, frog'),
        ({"words": [["cat"], ["dog"]]}, {}, GuidanceError, "words has 2 lists for 1 prompt"),
        ({"layers": "down_blocks.9"}, {}, LayerNotFoundError, "the layers are"),
        ({"layers": (5, 5)}, {}, LayerNotFoundError, "the grid 5x5 matches no"),
        (
            {"words": ["cat"]},
            {"prompt": None, "prompt_embeds": torch.zeros(1, 77, 16)},
            GuidanceError,
            "without a prompt.*leave words out",
        ),
        ({}, {"prompt": None}, GuidanceError, "give the pipeline a prompt"),
    ],
)
def test_bad_calls_leave_nothing_behind(pipe, options, call, error, message):
    before = state(pipe)
    with pytest.raises(error, match=message), record(pipe, **options):
        pipe(**{"prompt": PROMPT, **SMALL, **call})
    assert state(pipe) == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resolve": ["steps"]}, GuidanceError, "resolve takes any of step, layer, head; got 'steps'"),
        ({"grid": (0, 4)}, GridMismatchError, r"both at least 1; got \(0, 4\)"),
    ],
)
def test_bad_settings_are_met_at_once(pipe, options, error, message):
    with pytest.raises(error, match=message), record(pipe, **options):
        pass


def test_one_axis_may_be_given_without_a_list(pipe):
    with record(pipe, resolve="step") as recording:
        pipe(PROMPT, **SMALL)
    assert len(recording.record.by_step("cat")) == 1


def test_unknown_pipelines_and_compiled_denoisers_are_refused():
    with (
        pytest.raises(UnsupportedError, match="record does not know SimpleNamespace; it knows: StableDiff"),
        record(SimpleNamespace()),
    ):
        pass
    pipe = build()
    pipe.unet.mid_block.compile(backend="eager")
    with pytest.raises(UnsupportedError, match="before it is compiled"), record(pipe):
        pipe(PROMPT, **SMALL)


def test_asking_before_there_is_a_record(pipe):
    with record(pipe) as recording, pytest.raises(GuidanceError, match="call the pipeline inside"):
        _ = recording.record


def test_a_call_without_a_step_has_nothing_to_record():
    call = RecordedCall(Host(build(), {"prompt": PROMPT}))
    with pytest.raises(GuidanceError, match="has not called its denoiser"):
        call.result()


def test_rows_that_are_not_known_to_be_conditional_are_refused(pipe):
    pipe._guidance_scale = 1.0
    call = RecordedCall(Host(pipe, {"prompt": PROMPT}))
    with pytest.raises(UnsupportedError, match=r"3 rows for 1 images and 1 part"), call.attached():
        pipe.unet(torch.zeros(3, 4, 8, 8), torch.tensor(1), torch.zeros(3, 77, 16))


def test_recording_all_layers_of_stable_diffusion_1_costs_a_hundredth_of_sampling():
    """Counted operations of the denoiser's calls, classifier-free guidance and all."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()
        inputs = (torch.zeros(2, 4, 64, 64), torch.ones(1), torch.zeros(2, 77, 768))
    pipe = SimpleNamespace(
        unet=unet, tokenizer=tiny_tokenizer(), do_classifier_free_guidance=True, scheduler=DDIMScheduler()
    )

    def counted():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            unet(*inputs)
        return counter.get_total_flops()

    plain = counted()
    call = RecordedCall(Host(pipe, {"prompt": PROMPT}), resolve=["step"])
    with call.attached():
        recorded = counted()
    assert call.tap is not None
    assert len(call.tap.layers) == 16
    assert 1 < recorded / plain < 1.01
