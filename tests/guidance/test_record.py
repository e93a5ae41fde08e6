"""What `record` sees is what the layers compute, on the pipeline's own pass only, and no pixel changes."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.models import attention_processor as host
from guiding import FEW_MOVES, PROMPT, state
from guiding import run as call
from heedful.emoji import load_pipeline
from heedful.guidance import guide, record
from heedful.guidance.sums import AttentionSums
from heedful.pipelines import StableDiffusionAttendAndExcitePipeline
from recording import layer_inputs, plain_pool, plain_record
from tiny import tiny_pipeline as build

SIZE = {"height": 192, "width": 128}
LATENTS, GRID = (24, 16), (12, 8)
ALL = ("step", "layer", "head")


@pytest.fixture(scope="module")
def pipe():
    """One pipeline for the whole file: each test finds it as it was."""
    return build()


def run(pipe, prompt=PROMPT, seed=0, **options):
    return call(pipe, prompt, seed, **{"num_inference_steps": 2, **SIZE, **options})


def same(found, expected):
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_no_pixel_changes(scheduler, guidance_scale):
    pipe = build()
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    before, plain = state(pipe), run(pipe, guidance_scale=guidance_scale)
    with record(pipe, resolve=ALL) as recording:
        assert torch.equal(run(pipe, guidance_scale=guidance_scale), plain)
    assert state(pipe) == before
    assert recording.record.steps == tuple(float(step) for step in pipe.scheduler.timesteps)


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_it_equals_a_plain_computation_from_queries_and_keys(pipe, guidance_scale):
    prompts = [PROMPT, "a red backpack"]
    with record(pipe, resolve=ALL) as recording, layer_inputs(pipe.unet) as seen:
        run(pipe, prompts, guidance_scale=guidance_scale)
    found = recording.record
    rows = slice(2, 4) if guidance_scale > 1 else slice(0, 2)
    own, mean = plain_record(pipe.unet, seen, LATENTS, rows, GRID)
    for image, (last, spans) in enumerate(zip((7, 6), found.spans, strict=True)):
        same(found.attention[image][:last], mean[image][:last])
        same(found.attention[image][last], mean[image][last:].sum(0))
        for place, span in enumerate(spans):
            indices = list(span.indices)
            same(found.maps[image][place], mean[image][indices].sum(0))
            pooled = [
                sum(plain_pool(one[image][:, indices].sum((0, 1)), GRID) for one in step.values())
                / sum(one.shape[1] for one in step.values())
                for step in own
            ]
            same(found.by_step(span, image), torch.stack(pooled))
            for name in found.layers:
                heads = torch.stack([step[name][image][:, indices].sum(1) for step in own])
                same(found.by_head(span, image, layer=name), heads.mean(0))
                same(found.heat_map(span, image, step=1, layer=name, head=2), heads[1, 2])
                same(found.heat_map(span, image, layer=name), heads.mean((0, 1)))
    assert found.spans[1][2].indices == (3, 4)  # "backpack" is two tokens


def test_the_comparison_can_fail(pipe):
    with record(pipe) as recording, layer_inputs(pipe.unet) as seen:
        run(pipe)
    mean = plain_record(pipe.unet, seen, LATENTS, slice(0, 1), GRID)[1]  # the unconditional row
    with pytest.raises(AssertionError):
        same(recording.record.attention[0][:7], mean[0][:7])


@pytest.mark.parametrize(
    "processor", [host.AttnProcessor(), host.SlicedAttnProcessor(3), host.AttnProcessor2_0()]
)
def test_other_processors_are_seen_too(pipe, processor):
    with record(pipe) as recording:
        run(pipe)
    other = build()
    other.unet.set_attn_processor(processor)
    with record(other) as found:
        run(other)
    torch.testing.assert_close(found.record.attention[0], recording.record.attention[0], atol=1e-5, rtol=1e-3)


def test_heads_taken_a_few_at_a_time_give_the_same(pipe, monkeypatch):
    with record(pipe, resolve=ALL) as recording:
        run(pipe)
    monkeypatch.setattr("heedful.guidance.tap._LARGEST_PORTION", 1)
    with record(pipe, resolve=ALL) as portioned:
        run(pipe)
    torch.testing.assert_close(portioned.record.attention[0], recording.record.attention[0])
    for name, maps in recording.record.layer_maps.items():
        torch.testing.assert_close(portioned.record.layer_maps[name][0], maps[0])


def test_guide_may_be_inside_or_around_and_probes_do_not_count(pipe):
    before = state(pipe)
    with guide(pipe, FEW_MOVES) as alone:
        guided = run(pipe)
    with guide(pipe, FEW_MOVES) as session, record(pipe) as inside, layer_inputs(pipe.unet) as seen:
        assert torch.equal(run(pipe), guided)
    with record(pipe) as around, guide(pipe, FEW_MOVES):
        assert torch.equal(run(pipe), guided)
    assert state(pipe) == before
    assert session.run.steps == alone.run.steps
    assert session.run.probes > 1
    assert len(inside.record.steps) == len(around.record.steps) == 2
    assert torch.equal(inside.record.maps[0], around.record.maps[0])
    own = {name: [one for one in inputs if len(one[0]) == 2] for name, inputs in seen.items()}  # no probe
    same(inside.record.attention[0][:7], plain_record(pipe.unet, own, LATENTS, slice(1, 2), GRID)[1][0][:7])


def test_a_pipeline_that_guides_itself_is_recorded():
    pipe = StableDiffusionAttendAndExcitePipeline(**build().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    options = {
        "token_indices": [2, 5],
        "num_inference_steps": 2,
        "output_type": "latent",
        "max_iter_to_alter": 1,
    }
    plain = pipe(PROMPT, generator=torch.Generator().manual_seed(0), **SIZE, **options).images
    with record(pipe) as recording:
        found = pipe(PROMPT, generator=torch.Generator().manual_seed(0), **SIZE, **options).images
    assert torch.equal(found, plain)
    assert len(recording.record.steps) == 2


def test_two_recordings_at_once_and_several_calls(pipe):
    before = state(pipe)
    with record(pipe, ["cat"]) as outer:
        run(pipe)
        with record(pipe, ["frog"], layers="mid_block") as inner:
            run(pipe, seed=1)
        run(pipe)
    assert state(pipe) == before
    assert [len(one.layers) for one in outer.records] == [7, 7, 7]
    assert len(inner.records) == 1
    assert inner.record.layers == ("mid_block.attentions.0.transformer_blocks.0.attn2",)
    assert torch.equal(outer.records[0].maps[0], outer.records[2].maps[0])
    assert outer.record is outer.records[2]
    assert not torch.equal(outer.records[0].maps[0], outer.records[1].maps[0])


def test_a_batch_of_two_equals_two_singles(pipe):
    prompts, words = [PROMPT, "a red bow and a dog"], [["cat", "frog"], ["red bow"]]
    with record(pipe, words) as recording:
        run(pipe, prompts)
    for image, (prompt, own) in enumerate(zip(prompts, words, strict=True)):
        with record(pipe, own) as single:
            run(pipe, prompt, seed=image)
        assert single.record.spans[0] == recording.record.spans[image]
        torch.testing.assert_close(recording.record.maps[image], single.record.maps[0], atol=1e-5, rtol=1e-3)


def test_several_images_a_prompt(pipe):
    with record(pipe) as recording:
        pipe([PROMPT, "a dog"], num_images_per_prompt=2, num_inference_steps=1, output_type="latent", **SIZE)
    assert recording.record.prompts == (PROMPT, PROMPT, "a dog", "a dog")
    assert [len(maps) for maps in recording.record.maps] == [5, 5, 2, 2]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_is_given_back_whatever_happens(pipe, error):
    before = state(pipe)

    def interrupt(*args):
        raise error("stop")

    with pytest.raises(error, match="stop"), record(pipe) as recording:
        run(pipe, callback_on_step_end=interrupt)
    assert state(pipe) == before
    assert recording.records == []
    hook = pipe.unet.mid_block.register_forward_pre_hook(interrupt)
    with pytest.raises(error, match="stop"), record(pipe):
        run(pipe)
    hook.remove()
    assert state(pipe) == before


def test_processors_changed_between_steps_are_seen(pipe):
    other = build()
    new, old = host.AttnProcessor(), other.unet.attn_processors

    def change(pipe, step, *args):
        if step == 0:
            pipe.unet.set_attn_processor(new)
        return {}

    with record(pipe) as recording:
        run(pipe)
    with record(other) as found:
        run(other, callback_on_step_end=change)
    torch.testing.assert_close(found.record.attention[0], recording.record.attention[0], atol=1e-5, rtol=1e-3)
    assert type(new) is host.AttnProcessor
    assert {type(processor) for processor in old.values()} == {host.AttnProcessor2_0}


@pytest.mark.parametrize(
    ("layers", "count", "grid"),
    [
        (None, 7, GRID),
        ("mid_block", 1, (6, 4)),
        (["mid_block", "up_blocks.2"], 3, (24, 16)),  # the other is below eight
        ((24, 16), 3, (24, 16)),
        (lambda layer: layer.level < 2, 6, GRID),
    ],
)
def test_layers_and_the_grid_they_are_pooled_to(pipe, layers, count, grid):
    with record(pipe, layers=layers) as recording:
        run(pipe, num_inference_steps=1)
    assert len(recording.record.layers) == count
    assert recording.record.maps[0].shape[1:] == grid
    assert recording.record.settings["grid"] == list(grid)
    torch.testing.assert_close(recording.record.attention[0].sum(0), torch.ones(grid))


def test_a_grid_of_one_s_own(pipe):
    with record(pipe, grid=(5, 7)) as recording:
        run(pipe, num_inference_steps=1)
    assert recording.record.maps[0].shape == (5, 5, 7)


def test_what_is_held_does_not_grow_over_fifty_steps(pipe, monkeypatch):
    held = []
    ended = AttentionSums.end_step

    def count(self):
        ended(self)
        held.append(self.bytes_held)

    monkeypatch.setattr(AttentionSums, "end_step", count)
    with record(pipe):
        run(pipe, num_inference_steps=50, height=64, width=64, guidance_scale=1.0)
    assert len(held) == 50
    assert len(set(held)) == 1
    assert held[0] < 8 * 8 * 77 * 4 + 77 * 5 * 4 + 1


def test_prompts_without_words_and_embeddings_without_prompts(pipe):
    with record(pipe) as recording:
        run(pipe, "")
    assert recording.record.spans == ((),)
    assert recording.record.maps[0].shape == (0, *GRID)
    assert recording.record.measures() == {}
    embeds, negative = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in (PROMPT, ""))
    with record(pipe, resolve=["step"]) as recording:
        pipe(prompt_embeds=embeds, negative_prompt_embeds=negative, num_inference_steps=1, **SIZE)
    assert recording.record.prompts == ()
    assert recording.record.heat_map("token 2").shape == GRID
    torch.testing.assert_close(recording.record.attention[0].sum(0), torch.ones(GRID))


@pytest.mark.parametrize(
    ("prompt", "words", "left_out"),
    [
        ("a <script>alert('x')</script> cat", ["a", "script", "alert", "x", "script#2", "cat"], 0),
        ("\N{FROG FACE} and \u732b, \u732b", ["\N{FROG FACE}", "and", "\u732b", "\u732b#2"], 0),
        ("cat " * 500, ["cat", *(f"cat#{place}" for place in range(2, 76))], 425),
        (", . !", [], 0),
    ],
)
def test_any_prompt_can_be_recorded(pipe, prompt, words, left_out):
    with record(pipe) as recording:
        run(pipe, prompt, num_inference_steps=1, height=64, width=64)
    found = recording.record
    assert [span.label for span in found.spans[0]] == words
    assert len(found.settings["left_out"][0]) == left_out
    torch.testing.assert_close(found.attention[0].sum(0), torch.ones(8, 8))
    assert found._repr_html_().count("<img") == len(words)


def test_inference_mode_and_gradients_make_no_difference(pipe):
    with record(pipe) as recording:
        run(pipe)
    with torch.inference_mode(), record(pipe, resolve=["step"]) as inferred:
        run(pipe)
    assert torch.equal(inferred.record.maps[0], recording.record.maps[0])


def test_where_the_embedded_model_looks_is_where_the_subject_is():
    """Guided so that both subjects come out, their words look at different places."""
    pipe = load_pipeline("cpu")
    pipe.set_progress_bar_config(disable=True)

    def draw():
        generator = torch.Generator().manual_seed(3)
        pipe(PROMPT, num_inference_steps=8, guidance_scale=5.0, generator=generator, output_type="latent")

    with record(pipe, ["cat", "frog"]) as plain:
        draw()
    with record(pipe, ["cat", "frog"]) as guided, guide(pipe, FEW_MOVES):
        draw()
    assert guided.record.overlap()[0, 1] < 0.2
    assert guided.record.overlap()[0, 1] < plain.record.overlap()[0, 1]
    assert guided.record.measures()["cat"].peak > plain.record.measures()["cat"].peak


def test_bfloat16_on_a_cpu_is_summed_in_float32():
    pipe = build().to(torch.bfloat16)
    with record(pipe) as recording:
        run(pipe)
    assert recording.record.maps[0].dtype == torch.float32
    torch.testing.assert_close(recording.record.attention[0].sum(0), torch.ones(GRID))


@pytest.mark.gpu
def test_float16_on_cuda_is_recorded_as_float32_is():
    found = []
    for dtype in (torch.float32, torch.float16):
        pipe = build().to("cuda", dtype)
        plain = run(pipe)
        with record(pipe, resolve=ALL) as recording:
            assert torch.equal(run(pipe), plain)
        found.append(recording.record)
    assert found[1].maps[0].device.type == "cpu"
    torch.testing.assert_close(found[1].maps[0], found[0].maps[0], atol=2e-3, rtol=2e-2)


@pytest.mark.gpu
def test_xformers_is_recorded():
    pytest.importorskip("xformers")
    pipe = build(attention_head_dim=1).to("cuda", torch.float16)
    with record(pipe) as recording:
        run(pipe)
    pipe.enable_xformers_memory_efficient_attention()
    with record(pipe) as other:
        run(pipe)
    torch.testing.assert_close(other.record.maps[0], recording.record.maps[0], atol=2e-3, rtol=2e-2)
