"""Stable Diffusion XL put together of blocks: one probe and one shift for all a guider asks in a step."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from diffusers import guiders
from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig
from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks
from heedful.guidance import AttendAndExcite, GuidanceError, UnsupportedError, guide, record
from heedful.guidance.attach import lend
from heedful.guidance.denoiser import is_probed
from hosting import PROMPT, Case, state
from hosting_controls import CASES, TWO
from hosting_unets import FROM_AN_IMAGE, SIZE, images
from tiny_controls import controlled, modular
from tiny_unets import xl

CASE = next(case for case in CASES if "Modular" in case.name)
MIDDLE = {"indices": [0], "fqn": "mid_block.attentions.0.transformer_blocks"}
SKIPPED = LayerSkipConfig(**MIDDLE)
PERTURBED = LayerSkipConfig(**MIDDLE, skip_attention=False, skip_attention_scores=True, skip_ff=False)
GUIDERS = {
    "ClassifierFreeGuidance": {},
    "ClassifierFreeZeroStarGuidance": {},
    "TangentialClassifierFreeGuidance": {},
    "AdaptiveProjectedGuidance": {},
    "AdaptiveProjectedMixGuidance": {},
    "AutoGuidance": {"auto_guidance_config": SKIPPED},
    "PerturbedAttentionGuidance": {
        "perturbed_guidance_config": PERTURBED,
        "perturbed_guidance_start": 0.0,
        "perturbed_guidance_stop": 1.0,
    },
    "SkipLayerGuidance": {
        "skip_layer_config": SKIPPED,
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
    },
    "SmoothedEnergyGuidance": {"seg_guidance_config": SmoothedEnergyGuidanceConfig(**MIDDLE)},
}
PARTS = {"PerturbedAttentionGuidance": 3, "SkipLayerGuidance": 3, "SmoothedEnergyGuidance": 3, "off": 1}


@pytest.fixture(scope="module")
def pipe():
    """One pipeline for those tests that leave it as it was."""
    return modular()


def guider_named(name):
    """A guider, or one that asks for the conditional part alone."""
    if name == "off":
        return guiders.ClassifierFreeGuidance(guidance_scale=1.0)
    return getattr(guiders, name)(**GUIDERS[name])


@pytest.mark.parametrize("name", [*GUIDERS, "off"])
def test_all_calls_of_a_step_get_the_shift_that_was_probed_first(name):
    pipe = modular(guider_named(name))
    text = pipe(prompt=PROMPT, **{**TWO, "num_inference_steps": 1}).get("prompt_embeds")
    calls, steps = [], []

    def forward(inherited, self, sample, timestep, encoder_hidden_states, **kwargs):
        calls.append((is_probed(self), sample, encoder_hidden_states))
        return inherited(sample, timestep, encoder_hidden_states=encoder_hidden_states, **kwargs)

    def step(inherited, self, output, timestep, sample, **kwargs):
        steps.append((list(calls), sample))
        calls.clear()
        return inherited(output, timestep, sample, **kwargs)

    with (
        lend(pipe.unet, forward=forward),
        lend(pipe.scheduler, step=step),
        guide(pipe, CASE.objective()) as session,
    ):
        CASE.run(pipe)
    assert [probed for probed, _, _ in steps[1][0]] == [True] + [False] * PARTS.get(name, 2)
    for (calls, sample), timestep in zip(steps, pipe.scheduler.timesteps, strict=True):
        (_, probed, read), (_, first, own), *others = calls
        assert torch.equal(read, text)
        assert torch.equal(own, text)
        assert not torch.equal(probed, first)
        assert all(torch.equal(other, first) for _, other, _ in others)
        pipe.scheduler._step_index = None
        expected = pipe.scheduler.scale_model_input(sample, timestep)
        torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-5)
    assert session.run.probes == 2


@pytest.mark.parametrize("control", [False, True])
def test_it_guides_as_the_pipeline_of_the_same_parts_does(control):
    settings = {**TWO, "guidance_scale": 7.5}
    parted = CASE
    whole = Case("", xl, settings=settings)
    if control:
        name = "StableDiffusionXLControlNetPipeline"
        whole = Case("", partial(controlled, name, xl), arguments=images, settings=settings)
        parted = Case("", partial(modular, control=True), arguments=as_control, settings=TWO)
    pipe, blocks = whole.build(), parted.build()
    blocks.update_components(**{name: getattr(pipe, name) for name in ("controlnet",) if control})
    with guide(pipe, CASE.objective()) as expected:
        latents = whole.run(pipe)
    with guide(blocks, CASE.objective()) as session:
        found = parted.run(blocks)
    torch.testing.assert_close(found, latents, atol=2e-3, rtol=1e-3)
    assert session.run.control_passes == expected.run.control_passes
    assert session.run.settings["guidance_scale"] == 7.5
    for own, one in zip(session.run.steps, expected.run.steps, strict=True):
        assert own.losses == pytest.approx(one.losses, abs=1e-4)


def as_control(count):
    """An image for each, as what controls."""
    return {"control_image": images(count)["image"]}


def test_it_records_as_the_pipeline_of_the_same_parts_does(pipe):
    whole = Case("", xl, settings={**TWO, "guidance_scale": 7.5})
    with record(whole_pipe := whole.build()) as expected:
        whole.run(whole_pipe)
    with record(pipe) as recording:
        CASE.run(pipe)
    assert recording.record.steps == expected.record.steps
    torch.testing.assert_close(recording.record.maps, expected.record.maps, atol=1e-4, rtol=1e-3)


def test_a_guider_that_asks_for_another_part_first_is_refused():
    class Backwards(guiders.ClassifierFreeGuidance):
        """Asks for the unconditional part first."""

        def prepare_inputs(self, data):
            return super().prepare_inputs(data)[::-1]

    pipe = modular(Backwards())
    CASE.run(pipe)
    before = state(pipe), type(pipe.guider), [type(block) for block in pipe._blocks.sub_blocks.values()]
    with (
        pytest.raises(UnsupportedError, match="Backwards calls the denoiser first for 'pred_uncond'"),
        guide(pipe, CASE.objective()),
    ):
        CASE.run(pipe)
    after = state(pipe), type(pipe.guider), [type(block) for block in pipe._blocks.sub_blocks.values()]
    assert before == after


def test_the_prompt_may_come_with_a_state(pipe):
    with guide(pipe, CASE.objective()) as session:
        expected = CASE.run(pipe)
        given = pipe(prompt=PROMPT, **TWO, generator=torch.Generator().manual_seed(0), output_type="latent")
        given.values["latents"] = None
        again = pipe(state=given, generator=torch.Generator().manual_seed(0))
    assert [run.prompts for run in session.runs] == [(PROMPT,)] * 3
    torch.testing.assert_close(again.images, expected)


def test_blocks_that_do_not_denoise_are_refused():
    decoder = StableDiffusionXLAutoBlocks().sub_blocks["decode"].init_pipeline()
    with pytest.raises(UnsupportedError, match="no guider"), guide(decoder, CASE.objective()):
        decoder(prompt=PROMPT)


def test_embeddings_may_be_given_to_blocks_without_an_encoder(pipe):
    blocks = StableDiffusionXLAutoBlocks()
    encoder = blocks.sub_blocks.pop("text_encoder").init_pipeline()
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    encoder.update_components(**{name: getattr(pipe, name) for name in names})
    bare = blocks.init_pipeline()
    bare.update_components(unet=pipe.unet, vae=pipe.vae, scheduler=pipe.scheduler)
    encoded = encoder(prompt=PROMPT).get_by_kwargs("denoiser_input_fields")
    run = partial(bare, **encoded, **TWO, output_type="latent")
    with guide(bare, AttendAndExcite(token_indices=[2, (5, 6)])) as session:
        run(generator=torch.Generator().manual_seed(0))
    assert [span.indices for span in session.run.spans[0]] == list(CASE.columns.values())
    assert session.run.steps[0].relative_shifts[0] > 0
    with pytest.raises(GuidanceError, match="no tokenizer"), guide(bare, CASE.objective(), prompt=PROMPT):
        run()


def test_fractions_are_of_the_loops_own_timesteps(pipe):
    case = Case("", modular, arguments=images, settings={**SIZE, **FROM_AN_IMAGE, "denoising_end": 0.7})
    with guide(pipe, CASE.objective()) as session:
        case.run(pipe)
    steps = session.run.steps
    assert [step.fraction for step in steps] == [index / len(steps) for index in range(len(steps))]
    assert len(steps) < 2 or steps[0].timestep > steps[1].timestep
