"""How methods draw: the same noise and arguments, nothing left behind in the pipeline; and what it costs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from heedful.evaluation import EvaluationError, Operations, Prices, Prompt
from heedful.evaluation.methods import (
    Method,
    Setting,
    check_method,
    diffusers_pipeline,
    generators,
    guided,
    named,
    noise_seed,
    parity,
    plain,
    told,
)
from heedful.evaluation.objectives import OBJECTIVES
from heedful.guidance import Objective, RelativeStep, Schedule
from heedful.guidance.losses import attend_and_excite, intersection_over_union
from tiny import tiny_pipeline as build
from torch import nn

PROMPTS = [
    Prompt("a cat and a frog", ("cat", "frog")),
    Prompt("a backpack with a red bow", ("backpack", "red bow")),
]
SETTING = Setting(steps=2, guidance_scale=4.0, size=(64, 96))


def once(prompts: Any, size: float = 0.05) -> Objective:
    """One move a step."""
    words = [list(prompt.subjects) for prompt in prompts]
    return Objective([attend_and_excite], words, schedule=Schedule({}, until=1.0), step=RelativeStep(size))


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return build(sample_size=8)


def drawn(pipe: Any, method: Method, setting: Setting = SETTING, prompts: list[Prompt] = PROMPTS) -> Any:
    noise = generators([noise_seed(prompt, 0, method.candidate) for prompt in prompts])
    return method.draw(pipe, setting, prompts, noise)


def pixels(images: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_plain_sampling_is_the_bare_pipeline(pipe: StableDiffusionPipeline) -> None:
    found = drawn(pipe, plain())
    bare = pipe(
        [prompt.text for prompt in PROMPTS], num_inference_steps=2, guidance_scale=4.0, width=64, height=96,
        generator=generators([noise_seed(prompt, 0) for prompt in PROMPTS]),
    ).images  # fmt: skip

    assert pixels(found.images).shape == (2, 96, 64, 3)
    assert (pixels(found.images) == pixels(bare)).all()
    assert found.moved == (False, False)
    assert found.probes == (0, 0)


def test_an_image_does_not_depend_on_its_batch_and_candidates_have_other_noise(pipe: Any) -> None:
    together, alone = drawn(pipe, plain()), drawn(pipe, plain(), prompts=PROMPTS[1:])

    assert abs(pixels(together.images)[1] - pixels(alone.images)[0]).max() <= 1
    assert (pixels(drawn(pipe, plain(1)).images) != pixels(together.images)).any()
    assert [plain(number).name for number in range(3)] == ["plain", "plain-2", "plain-3"]
    seeds = {
        noise_seed(prompt, seed, candidate) for prompt in PROMPTS for seed in (0, 1) for candidate in (0, 1)
    }
    assert len(seeds) == 8


def test_parity_draws_what_diffusers_draws_and_both_leave_nothing_behind(pipe: Any) -> None:
    before = {name: id(one) for name, one in pipe.unet.attn_processors.items()}
    setting = Setting(
        2, 4.0, (64, 64), paper_step=0.5, paper_refine=False
    )  # a random model reaches no threshold
    theirs, ours = (drawn(pipe, method, setting) for method in (diffusers_pipeline(), parity()))

    assert theirs.moved == theirs.probes == (None, None)
    assert ours.moved == (True, True)
    assert min(ours.probes) > 0
    assert abs(pixels(theirs.images) - pixels(ours.images)).max() <= 1
    assert (pixels(ours.images) != pixels(drawn(pipe, plain(), setting).images)).any()
    assert {name: id(one) for name, one in pipe.unet.attn_processors.items()} == before


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
def test_guidance_says_which_images_it_moved(scheduler: Any) -> None:
    pipe = build(sample_size=8)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    still = drawn(pipe, guided("still", "nothing", partial(once, size=0.0)))

    assert still.moved == (False, False)
    assert (pixels(still.images) == pixels(drawn(pipe, plain()).images)).all()
    for setting in (SETTING, replace(SETTING, guidance_scale=1.0)):
        assert drawn(pipe, guided("once", "one move", once), setting).moved == (True, True)


def test_what_compares_words_leaves_a_prompt_of_one_alone(pipe: StableDiffusionPipeline) -> None:
    def make(prompts: Any) -> Objective:
        words = [list(prompt.subjects) for prompt in prompts]
        return Objective([intersection_over_union], words, schedule=Schedule({}, until=1.0))

    method = guided("apart", "words at different places", make)
    prompts = [PROMPTS[0], Prompt("a cat", ("cat",))]
    found = drawn(pipe, method, prompts=prompts)

    assert method.compares
    assert found.moved == (True, False)
    assert (pixels(found.images)[1] == pixels(drawn(pipe, plain(), prompts=prompts).images)[1]).all()
    assert drawn(pipe, method, prompts=prompts[1:]).moved == (False,)


def test_the_papers_arguments_are_its_own_at_fifty_steps() -> None:
    assert Setting(50).paper == {
        "max_iter_to_alter": 25, "thresholds": {0: 0.05, 10: 0.5, 20: 0.8}, "scale_factor": 20.0,
    }  # fmt: skip
    assert Setting(25).paper["thresholds"] == {0: 0.05, 5: 0.5, 10: 0.8}
    assert Setting(25, paper_refine=False).paper["thresholds"] == {}
    assert told(Setting(25, paper_refine=False)) == {**told(Setting(25)), "paper_refine": False}


def test_methods_are_found_by_name_with_settings_that_tell_them_apart() -> None:
    assert named("plain").name == "plain"
    assert named("excite-iou").about == OBJECTIVES["excite-iou"].about
    assert named("excite-iou").told != named("excite-mean").told
    with pytest.raises(
        EvaluationError,
        match='no method "stong"; there are: plain, diffusers, paper, default, thorough, at-once, refined',
    ):
        named("stong")


def test_pipelines_that_a_method_does_not_know_are_refused(pipe: StableDiffusionPipeline) -> None:
    class Other(StableDiffusionPipeline):
        """Not what diffusers' pipeline is made of."""

    class Transformer:
        unet = None

    check_method(diffusers_pipeline(), pipe)
    check_method(parity(), pipe)
    with pytest.raises(EvaluationError, match="parts of a StableDiffusionPipeline; this is a Other"):
        check_method(diffusers_pipeline(), Other(**pipe.components, requires_safety_checker=False))
    with pytest.raises(EvaluationError, match="one of UNets; this Transformer"):
        check_method(parity(), Transformer())


def test_products_convolutions_and_attention_are_counted_forwards_and_backwards() -> None:
    linear, convolution = nn.Linear(5, 7, bias=False), nn.Conv2d(2, 3, 3, padding=1, bias=False)
    rows, image = torch.randn(11, 5) * 1, torch.randn(1, 2, 6, 4)
    query = torch.randn(1, 2, 9, 8)

    with Operations() as counted:
        linear(rows)
    assert counted.total == 2 * 11 * 5 * 7
    with torch.no_grad(), Operations() as counted:
        convolution(image)
    assert counted.total == 2 * 6 * 4 * 3 * 2 * 9
    with torch.no_grad(), Operations() as counted:
        nn.functional.scaled_dot_product_attention(query, query, query)
    assert counted.total == 2 * (2 * 2 * 9 * 9 * 8)
    with Operations() as counted:
        linear(rows).sum().backward()
    assert counted.total == 2 * 2 * 11 * 5 * 7  # weights alone need a gradient


def test_a_plain_image_costs_two_forwards_a_step_and_one_without_guidance(pipe: Any) -> None:
    prices = Prices.measure(pipe, **SETTING.arguments)

    for scale, rows in ((4.0, 2), (1.0, 1)):
        setting = replace(SETTING, guidance_scale=scale, steps=3)
        with Operations() as counted:
            drawn(pipe, plain(), setting)
        besides = Prices.measure(pipe, **setting.arguments).besides
        found = Prices(prices.forward, besides).forwards(counted.total, images=2)
        assert found == pytest.approx(3 * rows, rel=1e-3)
    with Operations() as counted:
        drawn(pipe, guided("once", "one move", once))
    assert 2 * 2 + 2 * 0.5 < prices.forwards(counted.total, images=2) < 2 * 2 + 2 * 3.5
