"""What ControlNets, perturbed attention and guiders need besides what every pipeline must do."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from functools import partial

import hosting_transformers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from heedful.guidance import Objective, Schedule, UnsupportedError, guide
from heedful.guidance.attach import lend
from heedful.guidance.denoiser import by_name, is_probed
from heedful.guidance.losses import self_attention_conflict
from hosting import Case, poisoned, state
from hosting_controls import CASES, FURTHER, TWO, control
from hosting_unets import images, mask
from tiny_controls import controlled, modular

NAMED = {case.name: case for case in [*CASES, *FURTHER]}
DOWN, MID = "down_block_additional_residuals", "mid_block_additional_residual"


def ready(case):
    """The case's pipeline, without progress bars."""
    pipe = case.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("case", [*FURTHER, *hosting_transformers.FURTHER], ids=lambda case: case.name)
def test_the_others_of_their_kind_are_guided_and_given_back(case):
    pipe = ready(case)
    run = partial(case.run, pipe, num_inference_steps=case.settings["num_inference_steps"] // 2)
    plain, before = run(), state(pipe)
    with guide(pipe, case.objective(0.0)) as looking:
        assert torch.equal(run(), plain)
    with guide(pipe, case.objective()) as session, poisoned(case, pipe, own=False):
        guided = run()
    assert guided.isfinite().all()
    assert not torch.equal(guided, plain)
    assert session.run.steps[0].relative_shifts[0] > 0
    assert session.run.maps[0].shape == (2, *case.grid)
    torch.testing.assert_close(looking.run.maps, session.run.maps, atol=1e-5, rtol=1e-4)
    assert state(pipe) == before


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionControlNetInpaintPipeline, 4 channels",
        "StableDiffusionXLModularPipeline, inpainting",
    ],
)
def test_latents_are_moved_inside_the_mask_only(name):
    case = NAMED[name]
    pipe = ready(case)
    inside = torch.nn.functional.interpolate(mask(), scale_factor=1 / 8)[0].bool().expand(4, -1, -1)
    with steps_taken(pipe) as samples, guide(pipe, case.objective()) as session:
        case.run(pipe)
    with steps_taken(pipe) as plain:
        case.run(pipe)
    shift = (samples[0] - plain[0])[0]
    assert shift[inside].abs().min() > 0
    assert not shift[~inside].any()
    assert session.run.steps[0].relative_shifts[0] > 0


@contextmanager
def steps_taken(pipe):
    """Within the block, the latents that the scheduler is given; guidance is to be attached inside it."""
    samples = []

    def step(inherited, self, output, timestep, sample, **kwargs):
        samples.append(sample)
        return inherited(output, timestep, sample, **kwargs)

    with lend(pipe.scheduler, step=step):
        yield samples


@contextmanager
def forwards(module):
    """Within the block, with what the module was run and what it returned (None from probes, which stop)."""
    seen = []

    def forward(inherited, self, *args, **kwargs):
        seen.append([is_probed(self), by_name(self, args, kwargs), None])
        seen[-1][-1] = output = inherited(*args, **kwargs)
        return output

    with lend(module, forward=forward):
        yield seen


CONTROLLED = {
    "guidance on": Case(
        "", partial(controlled, "StableDiffusionControlNetPipeline"), arguments=images, settings=TWO
    ),
    "two ControlNets from an image": NAMED["StableDiffusionControlNetImg2ImgPipeline, two ControlNets"],
    "guess mode": NAMED["StableDiffusionXLControlNetPipeline, guess mode"],
    "a union": NAMED["StableDiffusionXLControlNetUnionPipeline"],
    "perturbed": NAMED["StableDiffusionXLControlNetPAGPipeline"],
    "blocks": Case("", partial(modular, control=True), ("conditional",), arguments=control, settings=TWO),
    "blocks in guess mode": NAMED["StableDiffusionXLModularPipeline, a ControlNet in guess mode"],
}


@pytest.mark.parametrize("name", CONTROLLED)
def test_residuals_belong_to_the_nudged_latents(name):
    case = CONTROLLED[name]
    pipe = ready(case)
    objective = dataclasses.replace(case.objective(), schedule=Schedule({}, until=1, unit="step"))
    with (
        guide(pipe, objective) as session,
        forwards(pipe.unet) as unet,
        forwards(pipe.controlnet) as net,
    ):
        case.run(pipe)
    (_, asked, stale), (_, anew, said) = net[:2]
    (probed, probe, _), (own, given, _) = unet[:2]
    assert (probed, own) == (True, False)
    rows = len(anew["sample"])
    moved = given["sample"][-rows:]
    assert torch.equal(anew["sample"], moved)
    assert not torch.equal(asked["sample"], moved)
    for new, old, held, mine in zip(flat(said), flat(stale), residuals(probe), residuals(given), strict=True):
        assert torch.equal(mine[-rows:], new)
        assert not torch.equal(new, old)
        assert not mine[:-rows].any()
        read = case.conditional(len(old)) if rows == len(given["sample"]) else slice(0, len(old))
        assert torch.equal(held, old[read])
    with torch.no_grad():
        again = pipe.controlnet(**{**asked, "sample": moved})
    assert all(torch.equal(one, other) for one, other in zip(flat(again), flat(said), strict=True))
    nets = len(getattr(pipe.controlnet, "nets", [1]))
    repeated = sum(len(call["sample"]) for _, call, _ in net) - passes(pipe, case)
    assert session.run.control_passes == nets * repeated


def passes(pipe, case):
    """On how many rows a plain run of the pipeline asks its ControlNet."""
    with forwards(pipe.controlnet) as net:
        case.run(pipe)
    return sum(len(call["sample"]) for _, call, _ in net)


def flat(output):
    """All residuals of a ControlNet, those of the middle block last."""
    return [*output[0], output[1]]


def residuals(kwargs):
    """All residuals that the denoiser was given."""
    return [*kwargs[DOWN], kwargs[MID]]


def test_a_controlnet_is_not_asked_where_it_has_no_say():
    case = CONTROLLED["guidance on"]
    pipe = ready(case)
    with guide(pipe, case.objective()) as session:
        case.run(pipe, control_guidance_end=0.5)
    assert (len(session.run.steps), session.run.control_passes) == (2, 2)
    assert session.run.to_dict()["control_passes"] == 2
    with guide(pipe, case.objective(0.0)) as session:
        case.run(pipe)
    assert session.run.control_passes == 0


def test_residuals_that_somebody_else_has_changed_are_refused():
    case = CONTROLLED["guidance on"]
    pipe = ready(case)

    def louder(module, args, kwargs):
        return args, {**kwargs, MID: 2 * kwargs[MID]}

    hook = pipe.unet.register_forward_pre_hook(louder, with_kwargs=True)
    with (
        pytest.raises(UnsupportedError, match="not given what the ControlNet said"),
        hook_removed(hook),
        guide(pipe, case.objective()),
    ):
        case.run(pipe)
    assert not pipe.controlnet._forward_hooks


@contextmanager
def hook_removed(hook):
    """Remove a hook after the block."""
    try:
        yield
    finally:
        hook.remove()


def test_a_controlnet_compiled_in_place_is_heard_outside_its_compiled_code():
    case = CONTROLLED["guidance on"]
    pipe = ready(case)
    with guide(pipe, case.objective()) as session:
        expected = case.run(pipe)
    pipe.controlnet._compiled_call_impl = pipe.controlnet._call_impl  # as module.compile() does
    compiled = pipe.controlnet._compiled_call_impl
    with guide(pipe, case.objective()) as again:
        assert torch.equal(case.run(pipe), expected)
    assert again.run.control_passes == session.run.control_passes
    assert pipe.controlnet._compiled_call_impl is compiled


class Counting(AttnProcessor2_0):
    """A processor of somebody else's, who counts the rows that it is given."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __call__(self, attn, hidden_states, *args, **kwargs):
        self.rows.append(len(hidden_states))
        return super().__call__(attn, hidden_states, *args, **kwargs)


def test_a_probe_runs_with_the_processors_found_on_entry():
    case = NAMED["StableDiffusionPAGPipeline"]
    pipe = ready(case)
    attention = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1
    attention.set_processor(Counting())
    with guide(pipe, case.objective()):
        case.run(pipe)
    assert attention.processor.rows == [1, 1]  # two probes; the pipeline puts its own there for its pass


def test_perturbed_attention_can_be_off():
    case = NAMED["StableDiffusionPAGPipeline"]
    pipe = ready(case)
    other = Case(case.name, case.build, settings={**TWO, "pag_scale": 0.0})
    with guide(pipe, case.objective(0.0)) as session, poisoned(other, pipe, own=False):
        other.run(pipe)
    with guide(pipe, case.objective(0.0)) as clean:
        other.run(pipe)
    torch.testing.assert_close(session.run.steps[0].losses, clean.run.steps[0].losses)


def test_self_attention_is_read_beside_perturbed_attention():
    case = NAMED["StableDiffusionPAGPipeline"]
    pipe = ready(case)
    objective = Objective([self_attention_conflict], words=case.words, schedule=Schedule({}, until=1.0))
    plain, before = case.run(pipe), state(pipe)
    with guide(pipe, objective) as session:
        guided = case.run(pipe)
    assert guided.isfinite().all()
    assert not torch.equal(guided, plain)
    assert len(session.run.steps) == 2
    assert state(pipe) == before


def test_processors_left_behind_by_the_call_before_do_no_harm():
    case = NAMED["StableDiffusionXLPAGInpaintPipeline"]
    pipe, fresh = ready(case), ready(case)
    case.run(pipe)  # latents are asked for: this one does not put the processors back
    assert pipe.pag_attn_processors
    with guide(fresh, case.objective()) as session:
        expected = case.run(fresh)
    with guide(pipe, case.objective()) as again:
        assert torch.equal(case.run(pipe), expected)
    assert again.run.steps == session.run.steps
    assert not fresh.pag_attn_processors
