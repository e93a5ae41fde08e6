"""One default objective, unchanged, on every family of models: the loss falls, the latents stay near."""

from __future__ import annotations

import dataclasses

import hosting_transformers
import hosting_unets
import pytest
from heedful.guidance import AT_ONCE, AttendAndExcite, Limits, RelativeStep, guide

FAMILIES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
)
CASES = [case for case in (*hosting_unets.CASES, *hosting_transformers.CASES) if case.name in FAMILIES]
DEFAULT = AttendAndExcite(words=["cat", "backpack"], schedule=AT_ONCE)
HELD = dataclasses.replace(DEFAULT, limits=Limits(total=0.06, halvings=2))


@pytest.fixture(scope="module", params=CASES, ids=[case.name for case in CASES])
def model(request):
    pipe = request.param.build()
    pipe.set_progress_bar_config(disable=True)
    return request.param, pipe


def guided(model, objective):
    case, pipe = model
    with guide(pipe, objective) as session:
        case.run(pipe, num_inference_steps=6)
    return session.run.steps


@pytest.mark.parametrize(
    ("objective", "most", "at"), [(DEFAULT, 0.3, -1), (HELD, 0.06, 1)], ids=["default", "held"]
)
def test_one_default_lowers_the_loss_of_every_model_by_bounded_shifts(model, objective, most, at):
    """At the last step that both probe, and where the bound ends the moves at once, at the next one."""
    steps = guided(model, objective)
    plain = guided(model, dataclasses.replace(objective, step=RelativeStep(0.0), max_refinements=0))
    shared = steps[: len(plain)][at]
    assert shared.index == plain[at].index > 0
    assert shared.losses[0] < plain[at].losses[0] - 1e-3
    shifts = [step.relative_shifts[0] for step in steps]
    assert 0 < sum(shifts) <= most + 1e-6
    assert all(0.9 < step.norm_ratios[0] < 1.1 and step.channel_drifts[0] < 0.2 for step in steps)
    assert not any(step.relative_shifts[0] for step in plain)


def test_each_family_is_here():
    assert sorted(case.name for case in CASES) == sorted(FAMILIES)
