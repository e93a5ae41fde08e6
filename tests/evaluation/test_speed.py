"""What guidance costs: held to what is promised, and counted without weights as it is with them."""

from __future__ import annotations

import gc

import pytest
import torch
from heedful.evaluation import EvaluationError
from heedful.evaluation.operations import Operations
from heedful.evaluation.speed import clock, count
from heedful.evaluation.speed_counters import PARTS, LiveBytes
from heedful.evaluation.speed_kernels import Kernel, has_xformers, with_kernel
from heedful.evaluation.speed_shapes import PROMPT, SHAPES, build, call_arguments, token_positions
from heedful.evaluation.speed_table import markdown, move, plain_values
from heedful.evaluation.speed_ways import WAYS, Load
from heedful.evaluation.speed_weightless import heeding, neglecting, weightless
from heedful.guidance import AttendAndExcite, guide
from heedful.guidance.optimizer import Schedule
from heedful.guidance.processors import Recorder
from speed_shapes import TINY


@pytest.fixture(scope="module")
def stable_diffusion_1():
    """Of two steps one is guided, as 25 of 50 are."""
    ways = ("plain", "guided", "guided-down", "guided-checkpointed", "refined", "diffusers")
    return {cost.way: cost for cost in count(SHAPES["sd15"], ways, steps=2)}


def test_guidance_of_half_the_steps_costs_at_most_three_tenths(stable_diffusion_1):
    costs = stable_diffusion_1
    plain, guided = costs["plain"], costs["guided"]
    assert 1.2 < guided.amount / plain.amount <= 1.30
    assert (guided.amount + guided.again) / plain.amount <= 1.30
    assert costs["diffusers"].amount / plain.amount > 1.6


def test_a_refinement_move_costs_a_forward(stable_diffusion_1):
    costs = stable_diffusion_1
    assert 0.9 < move(costs["refined"], costs["guided"], list(costs.values())) <= 1.06


def test_guidance_fits_into_the_memory_of_plain_sampling(stable_diffusion_1):
    costs = stable_diffusion_1
    plain = costs["plain"].bytes
    assert 1.05 < costs["guided"].bytes / plain <= 1.35
    assert costs["guided-down"].bytes / plain <= 1.1
    assert costs["guided-checkpointed"].bytes / plain <= 1.05
    assert costs["guided-checkpointed"].amount > costs["guided"].amount
    assert costs["diffusers"].bytes / plain > 2


@pytest.mark.parametrize(("name", "parameters"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684)])
def test_shapes_have_the_size_of_the_published_models(name, parameters):
    denoiser = build(SHAPES[name], "meta", torch.float16).unet
    assert sum(one.numel() for one in denoiser.parameters()) == parameters


@pytest.mark.parametrize("way", ["plain", "guided", "recorded", "diffusers"])
def test_counting_without_weights_finds_what_a_real_run_does(way):
    """The same pipelines with real weights on the CPU, all of whose operations and bytes are seen."""
    (counted,) = count(TINY, [way], steps=2, dtype=torch.float32)
    pipe = build(TINY, "cpu", torch.float32)
    with LiveBytes(pipe.unet) as live, Operations() as real:
        WAYS[way].draw(TINY, pipe, Load(2))
    assert counted.amount + counted.again == real.total
    beside = 0.5 if way == "recorded" else 0.25  # made-up attention stands beside what it replaces
    assert counted.peak == pytest.approx(live.peak, rel=beside)


def test_many_steps_cost_what_few_foretell():
    (foretold,) = count(TINY, ["refined"], steps=6)  # from 2 and 4
    pipe = build(TINY, "meta", torch.float16)
    with weightless(pipe.unet), Operations() as real:
        WAYS["refined"].draw(TINY, pipe, Load(6))
    assert foretold.amount + foretold.again == pytest.approx(real.total)
    assert foretold.load.steps == 6
    assert sum(foretold.parts[part] for part in PARTS) == pytest.approx(foretold.amount)


def test_a_denoiser_without_weights_is_guided_as_any_other():
    pipe = build(TINY, "meta", torch.float32)
    before, keep = type(pipe.unet), Recorder.keep
    moved = {}
    for name, gaze in {"neglecting": neglecting, "heeding": heeding(token_positions())}.items():
        wanted = AttendAndExcite(["cat", "frog"], schedule=Schedule({0.0: 0.5}), max_refinements=2)
        with weightless(pipe.unet, gaze), guide(pipe, wanted, prompt=PROMPT) as session:
            pipe(**call_arguments(TINY, 2, 1, pipe))
        moved[name] = session.run
    assert (moved["neglecting"].probes, moved["heeding"].probes) == (3, 1)  # the first is refined
    assert not any(moved["neglecting"].attended[0])
    assert all(moved["heeding"].attended[0])
    assert (type(pipe.unet), Recorder.keep) == (before, keep)


def test_no_probe_leaves_its_attention_to_the_garbage_collector():
    """On SDXL that of one probe is a third of a gigabyte."""
    pipe = build(TINY, "cpu", torch.float32)
    peaks = []
    gc.collect()
    gc.disable()
    try:
        for moves in (1, 4):
            with LiveBytes(pipe.unet) as live:
                WAYS["refined"].draw(TINY, pipe, Load(2, moves=moves))
            peaks.append(live.peak)
    finally:
        gc.enable()
    assert live.now < 0.02 * live.peak
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01)


def test_ways_are_timed_in_turns():
    told = []
    ways = ("plain", "guided", "recorded")
    costs = clock(TINY, ways, steps=2, device="cpu", dtype=torch.float32, rounds=2, batch=2, tell=told.append)
    rounds = [line.rpartition(", ")[2] for line in told if "round" in line]
    assert len(rounds) == 6
    assert rounds[:3] == rounds[3:]
    assert [cost.way for cost in costs] == list(ways)
    for cost in costs:
        assert len(cost.rounds) == 2
        assert min(cost.rounds) <= cost.amount <= max(cost.rounds)
        assert cost.peak is None
    assert costs[1].parts["probe backward"] > 0
    assert costs[2].parts["recording"] > 0
    text = markdown(costs, "a machine")
    assert "batch of 2, 2 steps, 1 of them guided, timed, sdpa, float32, 2 rounds in turns" in text
    assert "| way | CPU seconds, median |" in text
    assert "| plain, all layers recorded |" in text
    assert plain_values(costs, "a machine")["costs"][0]["load"]["batch"] == 2


@pytest.mark.gpu
def test_ways_are_timed_on_a_gpu_in_half_precision():
    kernels = [Kernel(), Kernel("xformers")] if has_xformers() else [Kernel()]
    for kernel in kernels:
        costs = clock(TINY, steps=2, device="cuda", dtype=torch.float16, rounds=1, kernel=kernel)
        assert {cost.dtype for cost in costs} == {"float16"}
        assert all(cost.peak > 0 for cost in costs)


def test_what_cannot_be_measured_is_refused_with_the_choices():
    with pytest.raises(EvaluationError, match=r"no way is called fast; there are: plain, guided"):
        count(TINY, ["fast"])
    with pytest.raises(EvaluationError, match=r"even; got 3"):
        count(TINY, steps=3)
    with pytest.raises(EvaluationError, match=r"does not draw Stable Diffusion XL"):
        count(SHAPES["sdxl"], ["diffusers"])
    with pytest.raises(ValueError, match=r"plain sampling was not measured"):
        markdown(clock(TINY, ["guided"], steps=2, device="cpu", dtype=torch.float32, rounds=1), "")


@pytest.mark.skipif(has_xformers(), reason="xFormers is installed")
def test_a_kernel_that_is_not_there_is_refused_and_the_pipeline_stays():
    pipe = build(TINY, "meta", torch.float32)
    before = pipe.unet.attn_processors
    with (
        pytest.raises(EvaluationError, match=r"xformers is not installed"),
        with_kernel(pipe, Kernel("xformers")),
    ):
        pass
    assert pipe.unet.attn_processors == before


def test_a_compiled_denoiser_is_given_back(monkeypatch):
    pipe = build(TINY, "meta", torch.float32)
    denoiser = pipe.unet
    monkeypatch.setattr(torch, "compile", lambda module: torch.nn.Sequential(module))
    with with_kernel(pipe, Kernel(compiled=True)):
        assert pipe.unet[0] is denoiser
    assert pipe.unet is denoiser
