"""What is particular to transformers: joint attention, layers by depth, several calls a step."""

from __future__ import annotations

from types import SimpleNamespace

import hosting_transformers as hosting
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.models import attention_processor
from heedful.guidance import (
    AttendAndExcite,
    LayerNotFoundError,
    Objective,
    RelativeStep,
    Schedule,
    TokenNotFoundError,
    UnsupportedError,
    guide,
    record,
)
from heedful.guidance.hosts import HOSTS, host_of
from heedful.guidance.hosts.flux import FluxHost
from heedful.guidance.hosts.sd3 import SD3Host
from heedful.guidance.joint import joint_layers, native_attention
from heedful.guidance.layers import Layer
from heedful.guidance.losses import overlap, self_attention_conflict
from heedful.guidance.maps import AttentionMaps
from heedful.guidance.processors import part_of, probabilities
from hosting import PROMPT, Case, layer_calls, state
from hosting_transformers import inputs_of
from tiny_transformers import tiny_flux, tiny_sd3
from torch import nn

ONCE = Schedule({}, until=1, unit="step")
CASES = {case.name: case for case in hosting.CASES}
SD3, FLUX = CASES["StableDiffusion3Pipeline"], CASES["FluxPipeline"]
TRUE_FLUX = CASES["FluxPipeline, true guidance"]


@pytest.fixture(scope="module")
def sd3():
    return tiny_sd3()


@pytest.fixture(scope="module")
def flux():
    return tiny_flux()


def pipe_of(case, request):
    return request.getfixturevalue("sd3" if case is SD3 else "flux")


def looked_at(case: Case, pipe, objective, **guided):
    """The maps that a probe at the first step finds."""
    seen = []

    def spy(maps: AttentionMaps, spans):
        seen.append(maps)
        return overlap(maps, spans)

    wanted = Objective([spy, *objective], words=case.words, schedule=ONCE)
    with guide(pipe, wanted, **guided):
        case.run(pipe)
    return seen[0]


@pytest.mark.parametrize("case", [SD3, FLUX], ids=["SD3", "Flux"])
def test_the_image_looks_at_itself_in_the_same_attention(case, request):
    pipe = pipe_of(case, request)
    layers = [layer.name for layer in host_of(pipe, {"prompt": PROMPT}).layers()]
    with layer_calls(pipe) as calls:
        maps = looked_at(case, pipe, [self_attention_conflict], layers=layers)
    assert list(maps.layers) == layers
    assert list(maps.self_layers) == [f"{name}.image" for name in layers]
    for name, found in maps.self_layers.items():
        module, args, kwargs = calls[name.removesuffix(".image")][0]
        expected = hosting.image_attention(module, args, kwargs, slice(0, 1))
        torch.testing.assert_close(found.flatten(3).flatten(1, 2).double(), expected, atol=1e-5, rtol=1e-4)


def test_a_share_of_the_text_is_the_joint_attention_over_its_sum():
    query, key = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    for text, (own, words) in {
        "first": (slice(4, 9), slice(0, 4)),
        "last": (slice(0, 5), slice(5, 9)),
    }.items():
        layer = Layer("attn", 0, nn.Identity(), text=text)
        whole = probabilities(query, key)[..., own, words]
        found = probabilities(*part_of(layer, 4, 5, query, key, None)[:2])
        torch.testing.assert_close(found, whole / whole.sum(-1, keepdim=True))


@pytest.mark.parametrize("rows", [1, 9])
def test_masks_are_cut_as_queries_and_keys_are(rows):
    query, key, mask = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 1, rows, 9)
    layer = Layer("attn", 0, nn.Identity(), text="first")
    own_query, own_key, own_mask = part_of(layer, 4, 5, query, key, mask)
    whole = probabilities(query, key, None, mask)[..., 4:, :4]
    found = probabilities(own_query, own_key, None, own_mask)
    torch.testing.assert_close(found, whole / whole.sum(-1, keepdim=True))


@pytest.mark.parametrize(
    ("host", "stacks", "expected"),
    [
        (SD3Host, {"transformer_blocks": 24}, range(4, 13)),  # Stable Diffusion 3 and 3.5 medium
        (SD3Host, {"transformer_blocks": 38}, range(6, 21)),  # 3.5 large
        (FluxHost, {"transformer_blocks": 19, "single_transformer_blocks": 38}, range(15, 19)),
        (FluxHost, {"transformer_blocks": 1, "single_transformer_blocks": 3}, range(1)),
        (SD3Host, {"transformer_blocks": 1}, range(1)),
    ],
)
def test_default_layers_are_those_of_the_documented_table(host, stacks, expected):
    transformer = nn.Module()
    transformer.config, transformer.out_channels = SimpleNamespace(patch_size=2), 16
    for name, count in stacks.items():
        blocks = [nn.Module() for _ in range(count)]
        for block in blocks:
            block.attn = nn.Identity()
        setattr(transformer, name, nn.ModuleList(blocks))
    found = host(SimpleNamespace(transformer=transformer), {"prompt": PROMPT})
    layers = found.layers()
    assert len(layers) == sum(stacks.values())
    assert [layer.name for layer in found.choose(layers, (128, 96), None)] == [
        f"transformer_blocks.{index}.attn" for index in expected
    ]
    assert {layer.grid((128, 96)) for layer in layers} == {(64, 48)}
    assert found.choose(layers[-1:], (128, 96), None) == layers[-1:]  # where none of the default is left


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("single_transformer_blocks", [f"single_transformer_blocks.{index}.attn" for index in range(2)]),
        ("transformer_blocks.1", ["transformer_blocks.1.attn"]),
        (["single_transformer_blocks.1.attn"], ["single_transformer_blocks.1.attn"]),
        ("transformer_blocks.*", [f"transformer_blocks.{index}.attn" for index in range(3)]),
        ("*transformer_blocks.1", ["transformer_blocks.1.attn", "single_transformer_blocks.1.attn"]),
        ((10, 8), [f"transformer_blocks.{index}.attn" for index in range(3)]
         + [f"single_transformer_blocks.{index}.attn" for index in range(2)]),
    ],
)  # fmt: skip
def test_layers_are_chosen_by_name_pattern_and_block(flux, choice, expected):
    assert list(looked_at(FLUX, flux, [], layers=choice).layers) == expected


def test_a_choice_that_matches_nothing_is_refused(flux):
    with pytest.raises(
        LayerNotFoundError, match=r"transformer_blocks\.7.*single_transformer_blocks\.1\.attn"
    ):
        looked_at(FLUX, flux, [], layers="transformer_blocks.7")


def test_a_transformer_without_such_blocks_is_refused():
    with pytest.raises(UnsupportedError, match="no joint attention in blocks named transformer_blocks"):
        joint_layers(nn.Linear(2, 2), 1, "last", ("transformer_blocks",))


@pytest.mark.parametrize(("case", "last"), [(SD3, 1), (FLUX, 2)], ids=["SD3", "Flux"])
def test_a_probe_ends_with_its_last_layer(case, last, request):
    """The blocks after it run in the pipeline's own calls only."""
    pipe = pipe_of(case, request)
    ran = []
    blocks = pipe.transformer.transformer_blocks
    hooks = [block.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(blocks)]
    hooks.append(pipe.transformer.proj_out.register_forward_pre_hook(lambda *_: ran.append("end")))
    try:
        with guide(pipe, AttendAndExcite(words=case.words, schedule=ONCE)):
            case.run(pipe)
    finally:
        for hook in hooks:
            hook.remove()
    own = [*range(len(blocks)), "end"]
    assert ran == [*range(last + 1), *own, *own]


def test_skipped_layers_are_guided_on_the_same_latents(sd3):
    """A step's second call has the conditional rows only, and other blocks; it gets the first one's shift."""
    skipping = {
        "skip_guidance_layers": [3],
        "num_inference_steps": 4,
        "skip_layer_guidance_start": 0.2,
        "skip_layer_guidance_stop": 0.7,
    }
    plain = SD3.run(sd3, **skipping)
    assert not torch.equal(plain, SD3.run(sd3, num_inference_steps=4))
    with guide(sd3, SD3.objective()) as session, record(sd3, SD3.words) as recording:
        calls = inputs_of(sd3, lambda: SD3.run(sd3, **skipping))
    assert [len(states) for states in calls] == [2, 2, 1, 2, 1, 2]
    for both, skipped in ((calls[1], calls[2]), (calls[3], calls[4])):
        assert torch.equal(both[1:], skipped)
        assert torch.equal(both[:1], skipped)
    assert len(session.run.steps) == len(recording.record.steps) == 4
    with guide(sd3, SD3.objective(0.0)):
        assert torch.equal(SD3.run(sd3, **skipping), plain)


@pytest.mark.parametrize(
    ("texts", "cat"),
    [
        ({}, (2, 78)),
        ({"prompt_2": PROMPT, "prompt_3": PROMPT}, (2, 78)),
        ({"prompt_3": "a frog"}, (2,)),
        ({"prompt_2": "a frog"}, (78,)),
        ({"prompt_2": "a frog", "prompt_3": "a dog"}, (2,)),
    ],
)
def test_encoders_that_read_another_text_are_left_out(sd3, texts, cat):
    with guide(sd3, AttendAndExcite(words=["cat"], schedule=ONCE)) as session:
        SD3.run(sd3, **texts)
    assert session.run.spans[0][0].indices == cat
    with record(sd3) as recording:
        SD3.run(sd3, **texts)
    found = recording.record
    assert [span.indices for span in found.spans[0] if span.text == "cat"] == [cat]
    assert sorted(i for part in found.tokens[0] for i in part.indices) == list(range(len(found.attention[0])))
    torch.testing.assert_close(found.attention[0].sum(0), torch.ones(10, 8))
    assert found.thief("cat", specials=False).token.text in ("a", "and", "backpack")


def test_a_word_that_clip_cuts_off_is_guided_by_t5(sd3):
    long = " ".join(["red"] * 80) + " frog"
    with guide(sd3, AttendAndExcite(words=["frog"], schedule=ONCE)) as session:
        SD3.run(sd3, long, max_sequence_length=100)
    assert session.run.spans[0][0].indices == (77 + 80,)
    with (
        pytest.raises(TokenNotFoundError, match="takes 77 tokens"),
        guide(sd3, AttendAndExcite(words=["frog"])),
    ):
        SD3.run(sd3, long)


@pytest.mark.parametrize("case", [SD3, FLUX], ids=["SD3", "Flux"])
def test_embeddings_in_place_of_a_prompt(case, request):
    pipe = pipe_of(case, request)
    options = {"max_sequence_length": 24}
    objective = case.objective()
    with guide(pipe, objective) as session:
        expected = case.run(pipe)
    if case is SD3:
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        texts = dict(zip(names, pipe.encode_prompt(PROMPT, None, None, **options), strict=True))
    else:
        embeds, pooled, _ = pipe.encode_prompt(PROMPT, **options)
        texts = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    settings = {**case.settings, **texts, "output_type": "latent"}
    with guide(pipe, objective, prompt=PROMPT) as again:
        found = pipe(generator=torch.Generator().manual_seed(0), **settings).images
    torch.testing.assert_close(found, expected)
    assert again.run.spans == session.run.spans


def test_a_probe_runs_native_attention_and_gives_back_the_backend(flux):
    processors = [module.processor for module in attentions(flux)]
    seen = []

    def spy(maps, spans):
        seen.extend(processor._attention_backend for processor in processors)
        return overlap(maps, spans)

    objective = Objective([spy], words=FLUX.words, schedule=ONCE)
    flux.transformer.set_attention_backend("_native_math")
    try:
        before = state(flux)
        backends = [processor._attention_backend for processor in processors]
        with guide(flux, objective):
            FLUX.run(flux)
        assert [processor._attention_backend for processor in processors] == backends
        assert state(flux) == before
    finally:
        for processor in processors:
            del processor._attention_backend
    with guide(flux, objective):
        FLUX.run(flux)
    assert set(seen) == {"native"}
    with pytest.raises(ZeroDivisionError), native_attention(flux.transformer):
        raise ZeroDivisionError
    assert not any("_attention_backend" in vars(processor) for processor in processors)


def attentions(pipe):
    return [layer.module for layer in host_of(pipe, {"prompt": PROMPT}).layers()]


def test_xformers_is_refused_by_name(sd3):
    before = sd3.transformer.attn_processors
    sd3.transformer.set_attn_processor(attention_processor.XFormersJointAttnProcessor())
    try:
        with (
            pytest.raises(UnsupportedError, match=r"joint attention of transformer_blocks.*xFormers"),
            record(sd3),
        ):
            SD3.run(sd3)
    finally:
        sd3.transformer.set_attn_processor(before)


def test_layers_of_the_text_encoder_may_be_skipped(sd3):
    with guide(sd3, SD3.objective()) as session:
        guided = SD3.run(sd3, clip_skip=0)
    assert not torch.equal(guided, SD3.run(sd3, clip_skip=0))
    assert session.run.steps[0].relative_shifts[0] > 0


@pytest.mark.parametrize("name", [name for name in CASES if "Inpaint" in name])
def test_only_the_inside_of_the_mask_is_moved(name):
    case = CASES[name]
    pipe = case.build()
    pipe.set_progress_bar_config(disable=True)
    plain = inputs_of(pipe, lambda: case.run(pipe))[0]
    with guide(pipe, AttendAndExcite(words=case.words, schedule=ONCE, step=RelativeStep(0.1))) as session:
        moved = inputs_of(pipe, lambda: case.run(pipe))[0] - plain
    if moved.ndim == 3:
        moved = FluxPipeline._unpack_latents(moved, 160, 128, 8)
    inside = torch.zeros(20, 16, dtype=torch.bool)
    inside[4:14, 4:13] = True
    assert not moved[..., ~inside].any()
    assert moved[..., inside].abs().mean() > 1e-3
    assert session.run.steps[0].relative_shifts[0] == pytest.approx(0.1, abs=1e-3)


def test_every_transformer_pipeline_that_is_known_has_a_case():
    known = {name for name in HOSTS if name.startswith(("StableDiffusion3", "Flux"))}
    assert {case.name.split(",")[0] for case in (*hosting.CASES, *hosting.FURTHER)} == known
