"""What users have attached stays and works while guided; what cannot is refused with the remedy."""

from __future__ import annotations

import pytest
import torch
from attachments import (
    ALL,
    ATTACHMENTS,
    COMPILED,
    FLUX,
    KINDS,
    PROMPT,
    REFUSED,
    SD,
    WORDS,
    XL,
    backends_kept,
)
from heedful.guidance import AttendAndExcite, RelativeStep, Schedule, UnsupportedError, guide, record
from hosting import state

CASES = [(kind, one) for one in (*ATTACHMENTS, *COMPILED) for kind in KINDS if kind.name in one.kinds]
REFUSALS = [(kind, one) for one in REFUSED for kind in KINDS if kind.name in one.kinds]
NAMES = [f"{kind.name}-{one.name}" for kind, one in CASES]


def objective(words=WORDS, size=0.05, **further):
    return AttendAndExcite(
        words=words, schedule=Schedule({}, until=1.0), step=RelativeStep(size), max_refinements=0, **further
    )


def run(pipe, prompt=PROMPT, **options):
    settings = {"height": 128, "width": 96, "num_inference_steps": 2, "output_type": "latent", **options}
    count = settings.get("num_images_per_prompt", 1)
    generators = [torch.Generator(pipe._execution_device).manual_seed(seed) for seed in range(count)]
    return pipe(prompt=prompt, generator=generators, **settings).images


def whereabouts(pipe):
    """What guidance must give back, and on which device each weight lies."""
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return [*state(pipe), [weight.device for part in parts for weight in part.parameters()]]


@pytest.fixture(autouse=True)
def _backends():
    with backends_kept():
        yield


@pytest.fixture(scope="module")
def bare():
    """The guided images of the same pipeline with nothing attached, by what they depend on."""
    found, pipes = {}, {}

    def guided(kind, options):
        key = (kind.name, *sorted(options.items()))
        if key not in found:
            pipe = pipes.setdefault(kind.name, kind.build())
            with guide(pipe, objective()):
                found[key] = run(pipe, **options)
        return found[key]

    return guided


@pytest.mark.parametrize(("kind", "attached"), CASES, ids=NAMES)
def test_what_is_attached_works_while_guided(kind, attached, bare):
    pipe = kind.build()
    log = attached.attach(kind, pipe)
    arguments = dict(attached.arguments(kind))
    plain, before = run(pipe, attached.prompt, **arguments), whereabouts(pipe)
    made = (log or []).count("made")
    if log is not None:
        log.clear()
    with guide(pipe, objective(attached.words)) as session:
        guided = run(pipe, attached.prompt, **arguments)
        told = list(log or ())
        assert torch.equal(run(pipe, attached.prompt, **arguments), guided)
    assert whereabouts(pipe) == before
    with guide(pipe, objective(attached.words, size=0.0)):
        assert torch.equal(run(pipe, attached.prompt, **arguments), plain)
    assert guided.isfinite().all()
    assert (guided - plain).abs().max() > 0.05
    assert session.run.steps[0].relative_shifts[0] > 0.03
    shared = {name: one for name, one in arguments.items() if isinstance(one, str | int)}
    if log is not None:
        assert told
        assert "made" not in told, "compiled anew"
        assert made == 0 or "ran" in told
        torch.testing.assert_close(guided, bare(kind, shared), atol=2e-3, rtol=1e-3)
    elif attached.words == WORDS:
        assert not torch.equal(guided, bare(kind, shared))


def test_both_text_encoder_and_denoiser_have_their_lora():
    pipe = SD.build()
    ATTACHMENTS[0].attach(SD, pipe)
    assert pipe.get_list_adapters() == {"unet": ["style"], "text_encoder": ["style"]}


def test_a_name_of_several_vectors_is_guided_by_all_of_them():
    inversion = next(one for one in ATTACHMENTS if "inversion" in one.name)
    for kind in (SD, XL):
        pipe = kind.build()
        inversion.attach(kind, pipe)
        with guide(pipe, objective(inversion.words)) as session:
            run(pipe, inversion.prompt)
        assert [span.indices for span in session.run.spans[0]] == [(2, 3, 4), (7,)]


@pytest.mark.parametrize("by", ["words", "indices"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_prompt_embeddings_mean_the_same_as_their_prompt(kind, by, bare):
    pipe = kind.build()
    with guide(pipe, objective()) as session:
        run(pipe)
    indices = [span.indices for span in session.run.spans[0]]
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    given = dict(zip(names if kind is not SD else names[:2], embedded(kind, pipe), strict=True))
    wanted = objective() if by == "words" else objective(None, token_indices=indices)
    with guide(pipe, wanted, prompt=PROMPT if by == "words" else None) as session:
        found = run(pipe, None, **{name: one for name, one in given.items() if one is not None})
    assert session.run.steps
    if by == "words":
        assert session.run.prompts == (PROMPT,)
        torch.testing.assert_close(found, bare(kind, {}), atol=2e-3, rtol=1e-3)


def embedded(kind, pipe):
    """The prompt's embeddings, negative ones and pooled ones, as the pipeline's own encoders give them."""
    if kind is FLUX:
        text, pooled, _ = pipe.encode_prompt(PROMPT, None)
        return text, None, pooled, None
    if kind is SD:
        return pipe.encode_prompt(PROMPT, "cpu", 1, True)
    more = {} if kind is XL else {"prompt_3": None}
    return pipe.encode_prompt(PROMPT, prompt_2=None, **more)


@pytest.mark.parametrize(
    ("kind", "refused"), REFUSALS, ids=[f"{kind.name}-{one.name}" for kind, one in REFUSALS]
)
def test_what_cannot_be_guided_is_refused_before_anything_runs(kind, refused):
    pipe = kind.build()
    refused.attach(kind, pipe)
    before, calls = whereabouts(pipe), []
    for part in (kind.of(pipe), pipe.text_encoder):
        part.register_forward_pre_hook(lambda *args: calls.append(1))
    name = refused.name.split(":")[0]
    with guide(pipe, objective()), pytest.raises(UnsupportedError, match=f"{name}.*{refused.remedy}"):
        run(pipe)
    assert not calls
    assert type(pipe) is before[0]


@pytest.mark.parametrize(("kind", "refused"), [one for one in REFUSALS if "cache" in one[1].name])
def test_a_cache_is_not_recorded_either(kind, refused):
    pipe = kind.build()
    refused.attach(kind, pipe)
    with record(pipe), pytest.raises(UnsupportedError, match=f"record cannot work with.*{refused.remedy}"):
        run(pipe)


def test_after_the_remedy_it_is_guided():
    pipe = FLUX.build()
    REFUSED[-1].attach(FLUX, pipe)
    pipe.transformer.disable_cache()
    with guide(pipe, objective()) as session:
        run(pipe)
    assert session.run.steps


def test_casting_is_recorded():
    pipe = SD.build()
    REFUSED[0].attach(SD, pipe)
    with record(pipe, WORDS) as recording:
        run(pipe)
    assert len(recording.record.maps[0]) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloaded_in_float16_on_cuda(kind, offload):
    pipe = kind.build().to(torch.float16)
    getattr(pipe, offload)()
    plain, before = run(pipe), whereabouts(pipe)
    for _ in range(2):
        with guide(pipe, objective()) as session:
            guided = run(pipe)
        assert guided.isfinite().all()
        assert not torch.equal(guided, plain)
        assert not any(step.skipped for step in session.run.steps)
    assert whereabouts(pipe) == before


@pytest.mark.gpu
def test_compiled_code_in_float16_on_cuda():
    pipe = SD.build().to("cuda", torch.float16)
    pipe.unet.compile()
    plain = run(pipe)
    with guide(pipe, objective()):
        guided = run(pipe)
    assert guided.isfinite().all()
    assert not torch.equal(guided, plain)


def test_every_kind_has_cases():
    assert {kind.name for kind, _ in CASES} == set(ALL)
