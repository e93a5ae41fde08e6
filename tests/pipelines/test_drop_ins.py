"""The classes that guide themselves: what `guide` makes of their hosts, the hosts' arguments, and no more."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import hosting_controls
import hosting_transformers
import hosting_unets
import pytest
import torch
from checking import Hasty
from heedful import pipelines
from heedful.explain import Verdict, WordVerdict
from heedful.guidance import GuidanceError, UnsupportedError, guide, record
from heedful.guidance.hosts import HOSTS
from heedful.pipelines import AttendAndExciteMixin
from hosting import PROMPT, Case, state
from PIL import Image
from tiny_unets import lcm, xl

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipelines.md"
DROP_INS = [getattr(pipelines, name) for name in pipelines.__all__ if name.endswith("Pipeline")]
MODULES = (hosting_unets, hosting_controls, hosting_transformers)
CASES = {case.name: case for module in MODULES for case in module.CASES}
GUIDING = [
    "words", "token_indices", "objective", "layers", "embedded_prompt", "heeded_or_retry", "checker"
]  # fmt: skip


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.pipelines.mixin.AttendAndExcite", Hasty)


def host_of(kind: type) -> type:
    """The pipeline of diffusers that a class stands on."""
    return next(base for base in kind.__mro__ if base.__name__ in HOSTS)


@lru_cache
def made(kind: type) -> tuple[Case, Any, Any]:
    """How a tiny pipeline of the host is called, one, and the class that guides itself made from it."""
    wanted = host_of(kind).__name__
    case = next(case for name, case in CASES.items() if name.partition(",")[0] == wanted)
    bare = case.build()
    ours = kind.from_pipe(bare)
    ours.set_progress_bar_config(disable=True)
    return case, bare, ours


@lru_cache
def plain_latents(kind: type) -> torch.Tensor:
    """What the host makes alone."""
    case, bare, _ = made(kind)
    return case.run(bare)


@pytest.mark.parametrize("kind", DROP_INS)
def test_guides_itself_as_guide_would(kind: type) -> None:
    case, bare, ours = made(kind)
    plain, before = plain_latents(kind), state(ours)

    with guide(bare, case.objective()) as session:
        expected = case.run(bare)
    found = case.run(ours, objective=case.objective())

    assert torch.equal(found, expected)
    assert found.isfinite().all()
    assert not torch.equal(found, plain)
    assert ours.guided_run.steps == session.run.steps
    assert [span.text for span in ours.guided_run.spans[0]] == case.words
    assert state(ours)[:-1] == before[:-1]  # all but the call's own attributes


@pytest.mark.parametrize("kind", DROP_INS)
def test_steps_of_no_length_leave_the_hosts_images(kind: type) -> None:
    case, _, ours = made(kind)

    assert torch.equal(case.run(ours, objective=case.objective(0.0)), plain_latents(kind))


@pytest.mark.parametrize("kind", DROP_INS)
def test_arguments_are_the_hosts_in_their_order_and_ours(kind: type) -> None:
    theirs = dict(inspect.signature(host_of(kind).__call__).parameters)
    ours = dict(inspect.signature(kind.__call__).parameters)
    assert set(GUIDING) <= set(ours)
    if kind is pipelines.StableDiffusionAttendAndExcitePipeline:
        return  # has the order of diffusers' own class of this name, see its own tests
    own = [name for name in theirs if name != "kwargs"]

    assert list(ours)[: len(own)] == own
    assert [name for name in ours if name not in theirs] == GUIDING
    assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize("kind", [pipelines.StableDiffusionXLAttendAndExcitePipeline])
def test_words_indices_and_layers(kind: type) -> None:
    case, bare, ours = made(kind)
    with guide(bare, Hasty(words=["cat"]), layers=["mid_block"]):
        expected = case.run(bare)

    by_word = case.run(ours, words=["cat"], layers=["mid_block"])
    by_index = case.run(ours, token_indices=[2], layers=["mid_block"])

    assert torch.equal(by_word, expected)
    assert torch.equal(by_index, expected)
    assert set(ours.guided_run.settings["layers"]) == {
        "mid_block.attentions.0.transformer_blocks.0.attn2",
        "mid_block.attentions.0.transformer_blocks.1.attn2",
    }
    assert not torch.equal(case.run(ours, words=["cat"]), expected)


def test_neither_words_nor_indices_mean_every_content_word() -> None:
    case, _, ours = made(pipelines.StableDiffusionXLAttendAndExcitePipeline)

    case.run(ours, count=2)

    assert [[span.text for span in image] for image in ours.guided_run.spans] == [["cat", "backpack"]] * 2


def test_embeddings_with_their_text() -> None:
    case, bare, ours = made(pipelines.StableDiffusionXLAttendAndExcitePipeline)
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    embeds = dict(zip(names, bare.encode_prompt(PROMPT), strict=True))
    options = {"objective": case.objective(), "num_inference_steps": 1, "output_type": "latent"}

    found = ours(embedded_prompt=PROMPT, generator=torch.manual_seed(0), **embeds, **options).images
    expected = ours(PROMPT, generator=torch.manual_seed(0), **options).images

    assert torch.equal(found, expected)
    with pytest.raises(GuidanceError, match="prompt_embeds came without a prompt"):
        ours(**embeds, **options)


def test_get_indices_lists_the_tokens() -> None:
    _, _, ours = made(pipelines.StableDiffusionXLAttendAndExcitePipeline)

    assert ours.get_indices("a cat and a backpack") == {
        0: "<|startoftext|>", 1: "a</w>", 2: "cat</w>", 3: "and</w>", 4: "a</w>", 5: "back", 6: "pack</w>",
        7: "<|endoftext|>",
    }  # fmt: skip


def test_get_indices_counts_through_the_texts_of_all_encoders() -> None:
    """77 of the two CLIPs, then T5's; what fills up is left out."""
    case, _, ours = made(pipelines.StableDiffusion3AttendAndExcitePipeline)

    found = ours.get_indices("a cat")
    case.run(ours, "a cat", token_indices=[(2, 78)], num_inference_steps=1)

    assert found == {
        0: "<|startoftext|>", 1: "a</w>", 2: "cat</w>", 3: "<|endoftext|>", 77: "▁a", 78: "▁cat", 79: "</s>",
    }  # fmt: skip
    assert ours.guided_run.spans[0][0].indices == (2, 78)


def test_is_recorded_like_its_host() -> None:
    """Others read a pipeline's signature to find the prompt, here given by place."""
    case, bare, ours = made(pipelines.StableDiffusionXLAttendAndExcitePipeline)
    options = {"num_inference_steps": 1, "output_type": "latent"}
    with record(bare) as theirs, guide(bare, case.objective()):
        bare(PROMPT, generator=torch.manual_seed(0), **options)

    with record(ours) as recording:
        ours(PROMPT, generator=torch.manual_seed(0), objective=case.objective(), **options)

    assert [span.text for span in recording.record.spans[0]] == ["a", "cat", "and", "a", "backpack"]
    assert torch.equal(recording.record.maps[0], theirs.record.maps[0])


@pytest.mark.parametrize("further", [{"words": ["cat"]}, {"token_indices": [2]}])
@pytest.mark.parametrize(
    "kind",
    [pipelines.StableDiffusionAttendAndExcitePipeline, pipelines.StableDiffusionXLAttendAndExcitePipeline],
)
def test_an_objective_beside_words_is_refused(kind: type, further: dict[str, Any]) -> None:
    case, _, ours = made(kind)
    with pytest.raises(GuidanceError, match="an objective has words of its own"):
        case.run(ours, objective=case.objective(), **further)


def test_saved_and_loaded(tmp_path: Any) -> None:
    case, _, ours = made(pipelines.StableDiffusionXLAttendAndExcitePipeline)
    expected = case.run(ours, objective=case.objective())
    ours.save_pretrained(tmp_path)
    again = type(ours).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)

    torch.testing.assert_close(case.run(again, objective=case.objective()), expected)


class Seen:
    """Finds every word from its n-th look on."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, image: Image.Image, words: list[str], prompt: str) -> Verdict:
        self.left -= 1
        found = ("heeded", 0.9) if self.left < 0 else ("neglected", 0.1)
        return Verdict(tuple(WordVerdict(word, *found, 0.0, {}, {}) for word in words), image.size, "seen")


@pytest.mark.parametrize(
    "kind",
    [
        pipelines.StableDiffusionXLAttendAndExcitePipeline,
        pipelines.StableDiffusionAttendAndExciteInpaintPipeline,
    ],
)
def test_draws_again_until_the_words_are_heeded(kind: type) -> None:
    case, _, ours = made(kind)
    options = {**case.arguments(1), **case.settings, "prompt": PROMPT, "objective": case.objective()}
    once = ours(**options, generator=torch.Generator().manual_seed(5))

    found = ours(**options, generator=torch.Generator().manual_seed(5), heeded_or_retry=4, checker=Seen(2))
    tuples = ours(
        **options,
        generator=torch.Generator().manual_seed(5),
        heeded_or_retry=1,
        checker=Seen(0),
        return_dict=False,
    )

    assert type(found) is type(once)
    assert found.images[0].tobytes() != once.images[0].tobytes()
    assert len(tuples) == len(fields(once))
    assert tuples[0][0].tobytes() == once.images[0].tobytes()


def shown(name: str) -> dict[str, Any]:
    """What a block of the page makes of a tiny `pipe`; the block is found by a name that it has."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"pipe": xl(), "__name__": "page"}
    block = next(block for block in code if name in block)
    exec(block.replace('"frog"])', '"frog"], num_inference_steps=2)'), names)  # 50 by itself
    return names


def test_the_page_names_every_class_and_its_host() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]

    for kind in DROP_INS:
        (row,) = [row for row in rows if f"`{kind.__name__}`" in row]
        assert f"`{host_of(kind).__name__}`" in row.split("|")[2]


def test_the_page_shows_a_call() -> None:
    names = shown("StableDiffusionXLAttendAndExcitePipeline")

    assert names["image"].size == (128, 128)
    assert len(names["pipe"].guided_run.attended[0]) == 2


def test_a_class_of_ones_own_is_two_lines() -> None:
    kind = shown("AttendAndExciteMixin")["GuidedLCM"]
    ours = kind.from_pipe(lcm())
    ours.set_progress_bar_config(disable=True)
    ours(PROMPT, words=["cat"], num_inference_steps=1, height=64, width=64, output_type="latent")

    assert [span.text for span in ours.guided_run.spans[0]] == ["cat"]
    assert "original_inference_steps" in inspect.signature(kind.__call__).parameters


def test_a_host_that_guidance_does_not_know_is_refused() -> None:
    class Strange:
        def __call__(self, prompt: str) -> None:
            """Draws nothing."""

    class Mine(AttendAndExciteMixin, Strange):
        """Stands on what guidance does not know."""

    with pytest.raises(UnsupportedError, match="guide does not know Mine; it knows: StableDiffusionPipeline"):
        Mine()("a cat")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", DROP_INS)
def test_float16_on_cuda(kind: type) -> None:
    case, bare, _ = made(kind)
    ours = kind.from_pipe(bare, dtype=torch.float16).to("cuda")
    made.cache_clear()  # its parts are the same, and are in float16 now

    found = case.run(ours, objective=case.objective())

    assert found.dtype == torch.float16
    assert found.isfinite().all()
    assert not any(step.skipped for step in ours.guided_run.steps)
