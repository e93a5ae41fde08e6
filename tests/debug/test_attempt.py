"""An attempt draws what the command line draws, stops when told to, and leaves the pipeline as it was."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from guiding import run as draw_latents
from guiding import state
from heedful.debug.attempt import Attempt, AttemptError, AttemptSettings, Cancelled, attempt
from heedful.debug.errors import DebugError
from heedful.emoji import load_pipeline
from heedful.explain.verdict import Verdict, WordVerdict
from heedful.guidance import AttendAndExcite, GuidanceError, Schedule
from heedful.scripts import generate as command
from heedful.scripts.cli import app
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_pipeline as build
from typer.testing import CliRunner

PROMPT = "a cat and a frog"
TINY = AttemptSettings(PROMPT, model="tiny", steps=3, size=(64, 128), seed=3)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30)
WORDS = TEXTS.filter(lambda word: word.strip() and "," not in word)


@pytest.fixture(autouse=True)
def few_moves(monkeypatch):
    """With the paper's points of refinement; two do for a model whose weights are random."""
    refining = partial(
        AttendAndExcite, schedule=Schedule(), reading="softmax", reduction="max", max_refinements=2
    )
    monkeypatch.setattr("heedful.debug.attempt.AttendAndExcite", refining)


@pytest.fixture(scope="module")
def pipe():
    """One pipeline for the whole file: each test finds it as it was."""
    return build()


@pytest.fixture(scope="module")
def embedded():
    return load_pipeline()


@pytest.fixture(scope="module")
def made(embedded) -> Attempt:
    return attempt(embedded, AttemptSettings("a monkey with a red bow", words=("monkey", "red bow"), steps=6))


def seen(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def verdict_of(image, words, prompt) -> Verdict:
    told = tuple(WordVerdict(word, "heeded", 0.9, 1.0, {}, {}) for word in words)
    return Verdict(told, image.size, prompt)


def test_plain_and_guided_come_from_the_same_noise_and_the_pipeline_is_left_as_it_was(pipe) -> None:
    before = state(pipe)
    found = attempt(pipe, TINY)
    bare = pipe(PROMPT, width=64, height=128, num_inference_steps=3, guidance_scale=7.5,
                generator=torch.Generator().manual_seed(3)).images[0]  # fmt: skip

    assert state(pipe) == before
    assert np.array_equal(seen(found.plain.image), seen(bare))
    assert not np.array_equal(seen(found.guided.image), seen(bare))
    assert found.plain.image.size == (64, 128)
    assert [one.kind for one in (found.plain, found.guided)] == ["plain", "guided"]
    assert found.guided.run.steps[0].relative_shifts[0] > 0
    assert {step.relative_shifts for step in found.plain.run.steps} == {(0.0,)}
    assert set(found.seconds) == {"plain", "guided", "check"}


def test_every_word_is_recorded_step_by_step(pipe) -> None:
    found = attempt(pipe, replace(TINY, prompt="a cat and a red bow", words=("cat", "red bow")))
    labels = [span.label for span in found.guided.record.spans[0]]

    assert labels == ["a", "cat", "and", "a#2", "red", "bow", "red bow"]
    assert [span.label for span in found.guided.spans] == ["cat", "red bow"]
    assert found.guided.record.by_step("red bow").shape[0] == 3


def test_strength_multiplies_the_step_and_without_it_one_drawing_does_for_both(pipe) -> None:
    once, twice = (attempt(pipe, replace(TINY, strength=strength)) for strength in (1.0, 2.0))
    nothing = attempt(pipe, replace(TINY, strength=0.0))

    assert twice.guided.run.steps[0].relative_shifts[0] > 1.2 * once.guided.run.steps[0].relative_shifts[0]
    assert nothing.guided.image is nothing.plain.image
    assert nothing.guided.kind == "guided"
    assert "guided" not in nothing.seconds


@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_the_scheduler_asked_for_draws_and_is_given_back(pipe, scheduler) -> None:
    own = pipe.scheduler
    found = attempt(pipe, replace(TINY, scheduler=scheduler, steps=2, guidance_scale=1.0))

    assert pipe.scheduler is own
    assert found.plain.run.settings["scheduler"].lower().startswith(scheduler)


@pytest.mark.parametrize("calls", [0, 1, 9])
def test_it_stops_as_soon_as_it_is_told_to_and_gives_everything_back(pipe, calls) -> None:
    before, threads, plain = state(pipe), torch.get_num_threads(), draw_latents(pipe)
    asked = iter(range(1000))
    steps = []

    with pytest.raises(Cancelled, match="cancelled; nothing is kept"):
        attempt(
            pipe,
            replace(TINY, scheduler="euler"),
            cancelled=lambda: next(asked) >= calls,
            watch=lambda *told: steps.append(told),
        )
    assert next(asked) == calls + 1
    assert len(steps) <= calls
    assert state(pipe) == before
    assert torch.get_num_threads() == threads
    assert torch.equal(draw_latents(pipe), plain)


def test_it_asks_between_the_probes_of_one_step(pipe) -> None:
    """A step that refines can take as long as twenty; nobody waits for that."""
    asked, told = [], []
    attempt(
        pipe,
        replace(TINY, steps=2),
        watch=lambda *step: told.append((step[:2], len(asked))),
        cancelled=lambda: bool(asked.append(0)),
    )
    at = dict(told)

    assert at["plain", 1] == 1 + 2  # before all, before the probe, before the pipeline's own call
    assert at["guided", 1] - at["plain", 2] == 1 + 2 + 2


def test_whoever_watches_sees_every_step(pipe) -> None:
    steps = []
    attempt(pipe, TINY, watch=lambda *told: steps.append(told), check=verdict_of)

    assert [told[:3] for told in steps] == [
        *(("plain", done, 3) for done in range(1, 4)),
        *(("guided", done, 3) for done in range(1, 4)),
        *(("check", done, 2) for done in range(3)),
    ]
    assert all(told[3] is not None and 0 <= told[3] <= 1 for told in steps if told[0] != "check")


def test_a_checker_of_ones_own_is_asked_of_both_images_and_others_are_not_checked(pipe) -> None:
    asked = []

    def checker(image, words, prompt):
        asked.append((image, words, prompt))
        return verdict_of(image, words, prompt)

    found = attempt(pipe, TINY, check=checker)

    assert [(words, prompt) for _, words, prompt in asked] == [(("cat", "frog"), PROMPT)] * 2
    assert asked[1][0] is found.guided.image
    assert found.guided.verdict is not None
    assert found.guided.judged is None
    assert attempt(pipe, TINY).guided.verdict is None


def test_the_embedded_world_is_checked_and_judged(made, embedded) -> None:
    for drawn in (made.plain, made.guided):
        assert drawn.verdict is not None
        assert [word.word for word in drawn.verdict.words] == ["monkey", "red bow"]
        assert drawn.verdict["monkey"].relevance is not None
        assert drawn.verdict["monkey"].classifier is not None
        assert set(drawn.judged) == {"monkey", "red bow"}
        assert set(drawn.judged.values()) <= {"heeded", "neglected"}
    assert attempt(embedded, replace(made.settings, steps=1), check=False).guided.judged is None


def test_the_command_line_makes_the_same_images(made, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(made.settings.command_line())
    assert words[:2] == ["heedful", "generate"]

    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    drawn = sorted((tmp_path / "out").glob("*seed*.png"))
    assert [np.array_equal(seen(Image.open(path)), seen(one.image)) for path, one in zip(drawn, (made.guided, made.plain), strict=True)] == [True, True]  # fmt: skip  # noqa: E501


@given(
    TEXTS.filter(str.strip),
    st.none() | st.lists(WORDS, min_size=1, max_size=3).map(tuple),
    st.integers(0, 2**63 - 1),
    st.floats(0, 20),
    st.sampled_from([None, "euler-a"]),
    TEXTS,
)
def test_the_command_line_says_everything(prompt, words, seed, strength, scheduler, negative) -> None:
    asked = AttemptSettings(prompt, words, "m", seed, 7, 3.5, strength, scheduler, (64, 128), negative)
    received = []
    spy = lambda settings, *_: received.append(settings)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heedful.scripts.cli._carry_out", spy)
        done = CliRunner().invoke(app, shlex.split(asked.command_line())[1:])

    assert done.exit_code == 0, done.output
    (found,) = received
    assert found.requests[0].prompt == prompt
    assert found.requests[0].words == (None if words is None else tuple(word.strip() for word in words))
    assert (found.model, found.seeds, found.steps, found.guidance_scale) == ("m", (seed,), 7, 3.5)
    assert (found.strength, found.scheduler, found.size, found.negative_prompt) == (
        strength, scheduler, (64, 128), negative,
    )  # fmt: skip


@given(TEXTS.filter(str.strip), st.none() | st.tuples(st.integers(8, 64), st.integers(8, 64)))
def test_settings_survive_json(prompt, size) -> None:
    asked = AttemptSettings(prompt, ("cat", "red bow"), size=size)
    assert AttemptSettings.from_dict(asked.to_dict()) == asked
    assert hash(AttemptSettings.from_dict(asked.to_dict())) == hash(asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "a\x00b"}, "the prompt holds a character that is no text"),
        ({"negative_prompt": "\ud800"}, "the negative_prompt holds a character"),
        ({"words": ()}, "words is empty"),
        ({"words": ("cat, frog",)}, "without a comma; word 1 is 'cat, frog'"),
        ({"words": ("cat", " ")}, "word 2 is ' '"),
        ({"seed": -1}, "seed must lie in 0"),
        ({"steps": 0}, "steps must lie in 1..1000, got 0"),
        ({"steps": True}, "steps must be a whole number"),
        ({"strength": float("nan")}, "strength must be a number, got nan"),
        ({"strength": 21.0}, "strength must lie in 0..20.0, got 21"),
        ({"guidance_scale": 101.0}, "guidance_scale must lie in 0..100"),
        ({"size": (64, 4)}, r"size must be \(width, height\)"),
        ({"scheduler": "ddmi"}, "scheduler must be one of ddim, pndm, euler"),
    ],
)
def test_settings_out_of_range_are_refused(pipe, changes, message) -> None:
    with pytest.raises(AttemptError, match=message):
        attempt(pipe, AttemptSettings(**{"prompt": PROMPT, **changes}))


@pytest.mark.parametrize("data", [{}, {"prompt": "a cat", "sede": 1}])
def test_settings_that_are_none_are_refused(data) -> None:
    with pytest.raises(AttemptError, match="settings are a prompt and any of words, model, seed"):
        AttemptSettings.from_dict(data)


def test_what_the_pipeline_refuses_is_told_in_one_line(pipe) -> None:
    before = state(pipe)
    with pytest.raises(AttemptError, match=r"the pipeline refused: .*divisible by 8"):
        attempt(pipe, replace(TINY, size=(65, 128)))
    assert state(pipe) == before


def test_too_little_memory_is_told(pipe, monkeypatch) -> None:
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(pipe), "check_inputs", full)
    with pytest.raises(AttemptError, match="out of memory; take a smaller size"):
        attempt(pipe, TINY)


def test_words_that_are_not_there_are_met_before_anything_is_drawn(pipe) -> None:
    steps = []
    with pytest.raises(GuidanceError, match='word "frgo" is not in the prompt'):
        attempt(pipe, replace(TINY, words=("frgo",)), watch=lambda *told: steps.append(told))
    assert steps == []


def test_errors_are_one_family() -> None:
    assert issubclass(AttemptError, DebugError)
    assert issubclass(Cancelled, DebugError)


@pytest.mark.gpu
def test_in_half_precision_on_a_gpu() -> None:
    pipe = load_pipeline()
    found = attempt(pipe, AttemptSettings(PROMPT, steps=8))

    assert (pipe.device.type, pipe.dtype) == ("cuda", torch.float16)
    assert found.guided.verdict is not None
    assert found.guided.record.maps[0].isfinite().all()
    assert command.choose(None, None) == ("cuda", "float16")
