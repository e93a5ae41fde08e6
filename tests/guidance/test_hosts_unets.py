"""What single pipelines of the UNet family have of their own: masks, two prompts, part of a trajectory."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel
from heedful.guidance import AttendAndExcite, Limits, OptimisedNoise, Rectify, Schedule, guide
from heedful.guidance.attach import lend
from heedful.guidance.hosts import host_of
from heedful.guidance.layers import choose, cross_attention_layers
from heedful.guidance.losses import attend_and_excite
from hosting import PROMPT
from hosting_unets import CASES, image, mask

ALL = {case.name: case for case in CASES}
XL = ALL["StableDiffusionXLPipeline"]
REFINER = ALL["StableDiffusionXLImg2ImgPipeline, the refiner"]
INSIDE = torch.nn.functional.interpolate(mask(), size=(20, 16))[0, 0] > 0
XL_SIZES = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER_SIZES = {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}


@pytest.fixture(scope="module")
def xl():
    """Stable Diffusion XL, for all tests that leave it as it is."""
    return XL.build()


@pytest.fixture(scope="module")
def refiner():
    """Its refiner, which has the second tokenizer alone."""
    return REFINER.build()


@pytest.mark.parametrize(("sizes", "layers"), [(XL_SIZES, 60), (REFINER_SIZES, 20)], ids=["base", "refiner"])
def test_at_1024_the_xl_models_are_read_on_32x32(sizes, layers):
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            **sizes,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
        )
    chosen = choose(cross_attention_layers(unet), (128, 128))
    assert {layer.grid((128, 128)) for layer in chosen} == {(32, 32)}
    assert len(chosen) == layers
    assert {layer.grid((96, 144)) for layer in choose(chosen, (96, 144))} == {(24, 36)}


def test_where_the_two_prompts_differ_words_are_those_of_the_first(xl):
    with guide(xl, XL.objective()) as session:
        XL.run(xl, prompt_2="a backpack on a red cat")
    assert [span.indices for span in session.run.spans[0]] == [(2,), (5, 6)]


def test_the_refiner_reads_words_with_its_only_tokenizer(refiner):
    assert refiner.tokenizer is None
    host = host_of(refiner, {"prompt": PROMPT})
    assert host.tokenizer is refiner.tokenizer_2


def test_layers_of_the_text_encoders_may_be_skipped(xl, refiner):
    for case, pipe in ((XL, xl), (REFINER, refiner)):
        with guide(pipe, case.objective()):
            skipped = case.run(pipe, clip_skip=1)
        assert skipped.isfinite().all()


@pytest.mark.parametrize("given", ["prompt", "indices"])
def test_embeddings_in_place_of_a_prompt(xl, given):
    with guide(xl, XL.objective()):
        expected = XL.run(xl)
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    embeds = dict(zip(names, xl.encode_prompt(PROMPT), strict=True))
    own = {"words": None, "token_indices": [2, (5, 6)]} if given == "indices" else {}
    objective = XL.objective(**own)
    with guide(xl, objective, prompt=PROMPT):
        generator = [torch.Generator().manual_seed(0)]
        guided = xl(**embeds, **XL.settings, output_type="latent", generator=generator).images
    torch.testing.assert_close(guided, expected, atol=2e-3, rtol=1e-3)


def test_base_and_refiner_share_a_trajectory(xl, refiner):
    """The base ends and the refiner begins amid it: fractions are of each one's own steps."""
    with guide(xl, XL.objective()) as session:
        latents = XL.run(xl, num_inference_steps=5, denoising_end=0.6)
    assert [step.fraction for step in session.run.steps] == pytest.approx([0, 1 / 3, 2 / 3])
    settings = {"num_inference_steps": 5, "denoising_start": 0.6, "image": latents}
    with guide(refiner, REFINER.objective(until=0.5)) as session:
        REFINER.run(refiner, **settings)
    assert [step.fraction for step in session.run.steps] == [0]
    assert session.run.steps[0].timestep < 400


def test_one_step_of_turbo_is_guided():
    case = ALL["StableDiffusionXLPipeline, Turbo"]
    pipe = case.build()
    with guide(pipe, AttendAndExcite(words=case.words, max_refinements=1)) as session:
        guided = case.run(pipe, num_inference_steps=1)
    assert [step.fraction for step in session.run.steps] == [0]
    assert not torch.equal(guided, case.run(pipe, num_inference_steps=1))


def first_sample(case, pipe, objective=None, **options):
    """The latents that the scheduler's first call is given, (image, channel, height, width)."""
    seen = []

    def step(inherited, self, output, timestep, sample, *args, **kwargs):
        seen.append(sample.clone())
        return inherited(output, timestep, sample, *args, **kwargs)

    with lend(pipe.scheduler, step=step):
        if objective is None:
            case.run(pipe, **options)
            return seen[0], None
        with guide(pipe, objective) as session:
            case.run(pipe, **options)
        return seen[0], session.run


@pytest.mark.parametrize("name", ["StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"])
@pytest.mark.parametrize("further", [{}, {"start": Rectify(0.03)}, {"limits": Limits(restore="channels")}])
def test_with_4_channels_latents_move_inside_the_mask_only(name, further):
    case = ALL[f"{name}, 4 channels"]
    pipe = case.build()
    plain, _ = first_sample(case, pipe)
    objective = dataclasses.replace(case.objective(), **further)
    guided, run = first_sample(case, pipe, objective)
    shift = (guided - plain)[0]
    assert torch.equal(guided[..., ~INSIDE], plain[..., ~INSIDE])
    assert (shift[:, INSIDE] != 0).any(1).all()
    share = shift.norm() / plain[..., INSIDE].norm()
    assert run.steps[0].relative_shifts[0] == pytest.approx(share.item(), rel=1e-3)
    if not further:
        assert share == pytest.approx(0.05, rel=1e-3)


def test_optimised_noise_stays_inside_the_mask_too():
    case = ALL["StableDiffusionInpaintPipeline, 4 channels"]
    pipe = case.build()
    start = OptimisedNoise({attend_and_excite: 1.0}, rounds=1, iterations=2, last_iterations=0)
    plain, _ = first_sample(case, pipe)
    objective = dataclasses.replace(case.objective(0.0), start=start)
    guided, _ = first_sample(case, pipe, objective)
    assert torch.equal(guided[..., ~INSIDE], plain[..., ~INSIDE])
    assert not torch.equal(guided, plain)


def test_each_image_has_its_own_mask():
    case = ALL["StableDiffusionInpaintPipeline, 4 channels"]
    pipe = case.build()
    masks = torch.cat([mask(), mask().flip(3)])
    options = {"prompt": [PROMPT, PROMPT], "image": image().repeat(2, 1, 1, 1), "mask_image": masks}
    plain, _ = first_sample(case, pipe, **options)
    guided, _ = first_sample(case, pipe, case.objective(), **options)
    moved = (guided != plain).any(1)
    assert torch.equal(moved[0], INSIDE)
    assert torch.equal(moved[1], INSIDE.flip(1))


def test_with_9_channels_latents_move_everywhere_and_mask_and_image_nowhere():
    case = ALL["StableDiffusionInpaintPipeline, 9 channels"]
    pipe = case.build()
    inputs = []
    real = pipe.unet.conv_in.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    plain, _ = first_sample(case, pipe)
    bare = list(inputs)
    inputs.clear()
    guided, _ = first_sample(case, pipe, case.objective())
    real.remove()
    assert (guided != plain).any(1).all()
    assert all(torch.equal(found[:1, 4:], bare[0][:1, 4:]) for found in inputs)


def test_every_probe_gets_all_residuals_of_an_adapter():
    """The UNet takes them out of the list that it is given; a second probe must not find it empty."""
    case = ALL["StableDiffusionAdapterPipeline"]
    pipe, found = case.build(), []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(len(kwargs["down_intrablock_additional_residuals"])),
        with_kwargs=True,
    )
    refining = dataclasses.replace(case.objective(), schedule=Schedule({0.0: 1.0}), max_refinements=2)
    with guide(pipe, refining) as session:
        case.run(pipe)
    hook.remove()
    assert session.run.steps[0].refinements == (2,)
    assert set(found) == {3}
