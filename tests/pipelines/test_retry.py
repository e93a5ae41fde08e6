"""Tries come in their order and end when all is heeded; the best is kept; a pipeline draws what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checking import Hasty, noise
from heedful.explain import Verdict, WordVerdict
from heedful.guidance import (
    AttendAndExcite,
    GradientStep,
    GuidanceError,
    GuidedRun,
    Objective,
    UnsupportedError,
)
from heedful.guidance.losses import attend_and_excite
from heedful.pipelines import StableDiffusionAttendAndExcitePipeline, Tried, Try, best, plan, until_heeded
from heedful.pipelines.retry import SEED_STRIDE, SEEDS, STRONGER, strengthened
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_pipeline as build

PROMPT = "a cat and a frog"
EMPTY = GuidedRun((), (), (), (), 0, 0.5, {}, {})
SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=2)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.pipelines.mixin.AttendAndExcite", Hasty)


def verdict(*shares: float) -> Verdict:
    """Words of these probabilities; those above 1/2 are heeded."""
    words = tuple(
        WordVerdict(f"w{index}", "heeded" if share > 0.5 else "neglected", share, 0.0, {}, {})
        for index, share in enumerate(shares)
    )
    return Verdict(words, (8, 8), "w")


def tried(*shares: float) -> Tried:
    return Tried(1.0, 0, noise((8, 8)), verdict(*shares), EMPTY)


def test_plan_is_a_stronger_nudge_then_another_seed() -> None:
    assert plan(5, 7) == (
        Try(1.0, 7),
        Try(STRONGER, 7),
        Try(1.0, 7 + SEED_STRIDE),
        Try(1.0, 7 + 2 * SEED_STRIDE),
        Try(1.0, 7 + 3 * SEED_STRIDE),
    )
    assert plan(3, 7, strength=2.0, noise=False) == (Try(2.0, 7), Try(4.0, 7), Try(8.0, 7))
    with pytest.raises(GuidanceError, match="at least 1 try"):
        plan(0, 7)


@given(st.integers(1, 40), st.integers(0, SEEDS - 1))
def test_no_try_is_planned_twice(tries: int, seed: int) -> None:
    found = plan(tries, seed)

    assert len(set(found)) == len(found) == tries
    assert all(0 <= one.seed < SEEDS for one in found)
    assert plan(tries + 1, seed)[:tries] == found


@pytest.mark.parametrize(("heeded_at", "drawn"), [(0, 1), (2, 3), (9, 4)])
def test_ends_when_all_is_heeded(heeded_at: int, drawn: int) -> None:
    asked: list[Try] = []

    def draw(one: Try) -> Tried:
        asked.append(one)
        return tried(0.9, 0.9 if len(asked) > heeded_at else 0.1)

    found = until_heeded(plan(4, 3), draw)

    assert len(found) == drawn
    assert tuple(asked) == plan(4, 3)[:drawn]
    with pytest.raises(GuidanceError, match="nothing to try"):
        until_heeded((), draw)


@given(st.lists(SHARES, min_size=1, max_size=5))
def test_the_best_is_not_beaten_by_any(shares: list[list[float]]) -> None:
    tries = [tried(*own) for own in shares]

    kept = best(tries)

    assert all(min(own) <= kept.verdict.share for own in shares)
    assert kept is next(one for one in tries if one.verdict.to_dict() == kept.verdict.to_dict())
    assert kept.verdict.heeded == any(one.verdict.heeded for one in tries)


def test_of_equally_neglected_words_the_others_decide() -> None:
    tries = [tried(0.2, 0.6), tried(0.9, 0.2), tried(0.2, 0.9)]

    assert best(tries) is tries[1]


def test_strengthened() -> None:
    objective = AttendAndExcite(words=["cat"])

    assert strengthened(objective, 1.0) is objective
    assert strengthened(objective, 2.0).step.size == 2 * objective.step.size
    assert strengthened(AttendAndExcite.paper([2]), 1.5).step == GradientStep(30.0)
    assert strengthened(Objective([attend_and_excite], step=GradientStep(3.0)), 2.0).step.size == 6.0
    with pytest.raises(GuidanceError, match="at least 0"):
        strengthened(objective, -1.0)


class Checker:
    """Finds every word from its n-th look on, and remembers what it saw."""

    def __init__(self, after: int) -> None:
        self.after, self.seen = after, []

    def __call__(self, image: Image.Image, words: list[str], prompt: str) -> Verdict:
        self.seen.append((image, tuple(words), prompt))
        return verdict(*([0.9 if len(self.seen) > self.after else 0.1 * len(self.seen)] * len(words)))


def pipeline() -> StableDiffusionAttendAndExcitePipeline:
    pipe = StableDiffusionAttendAndExcitePipeline(**build().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: Any, **options: Any) -> Any:
    given: dict[str, Any] = {"num_inference_steps": 2, "height": 64, "width": 128, "guidance_scale": 1.0}
    if "latents" not in options:
        given["generator"] = torch.Generator().manual_seed(5)
    return pipe(options.pop("prompt", PROMPT), **{**given, **options})


def pixels(image: Image.Image) -> bytes:
    return image.tobytes()


def test_a_heeded_image_is_that_of_the_plain_call() -> None:
    pipe, checker = pipeline(), Checker(0)
    generator = torch.Generator().manual_seed(5)
    once = call(pipe, generator=torch.Generator().manual_seed(5)).images[0]

    found = call(pipe, heeded_or_retry=4, checker=checker, generator=generator)

    assert pixels(found.images[0]) == pixels(once)
    assert checker.seen[0][1:] == (("cat", "frog"), PROMPT)
    assert [len(own) for own in pipe.tries] == [1]
    after = torch.Generator().manual_seed(5)
    call(pipe, generator=after)
    assert torch.equal(generator.get_state(), after.get_state())


def test_tries_are_what_separate_calls_would_draw() -> None:
    pipe = pipeline()

    found = call(pipe, heeded_or_retry=4, checker=Checker(2))

    (tries,) = pipe.tries
    seeds = [5, 5, 5 + SEED_STRIDE]
    assert [(one.strength, one.seed) for one in tries] == list(zip([1.0, STRONGER, 1.0], seeds, strict=True))
    for one in (tries[0], tries[2]):
        alone = call(pipe, generator=torch.Generator().manual_seed(one.seed)).images[0]
        assert pixels(alone) == pixels(one.image)
    assert len({pixels(one.image) for one in tries}) == 3
    steps = [one.run.settings["objective"]["step"]["size"] for one in tries]
    assert steps[1] == pytest.approx(STRONGER * steps[0])
    assert pixels(found.images[0]) == pixels(tries[2].image)


def test_the_best_of_failures_is_kept_and_each_image_has_its_own() -> None:
    pipe = pipeline()

    def checker(image: Image.Image, words: list[str], prompt: str) -> Verdict:
        share = 0.1 + 0.3 * (pixels(image)[0] / 255)
        return verdict(share, 0.9) if prompt == PROMPT else verdict(0.9)

    found, _ = call(
        pipe,
        prompt=[PROMPT, "a dog"],
        words=[["cat", "frog"], ["dog"]],
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 9)],
        heeded_or_retry=3,
        checker=checker,
        return_dict=False,
    )

    assert [len(own) for own in pipe.tries] == [3, 1]
    assert [one.seed for one in pipe.tries[0]] == [5, 5, 5 + SEED_STRIDE]
    assert pipe.tries[1][0].seed == 9
    kept = max(pipe.tries[0], key=lambda one: one.verdict.share)
    assert [pixels(image) for image in found] == [pixels(kept.image), pixels(pipe.tries[1][0].image)]
    assert pipe.guided_run is kept.run


def test_given_noise_is_only_nudged_more() -> None:
    pipe = pipeline()
    latents = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(1))

    call(pipe, latents=latents, heeded_or_retry=3, checker=Checker(9))

    assert [one.strength for one in pipe.tries[0]] == [1.0, STRONGER, STRONGER**2]


def test_another_call_forgets_the_tries() -> None:
    pipe = pipeline()
    call(pipe, heeded_or_retry=1, checker=Checker(0))

    call(pipe)

    assert pipe.tries == ()


@pytest.mark.parametrize(
    ("options", "error", "wrong"),
    [
        ({}, GuidanceError, "needs checker="),
        ({"checker": Checker(0), "heeded_or_retry": 0}, GuidanceError, "at least 1 try"),
        ({"checker": Checker(0), "token_indices": [2]}, GuidanceError, "looks for words"),
        ({"checker": Checker(0), "output_type": "latent"}, UnsupportedError, "output_type"),
    ],
)
def test_refuses(options: dict[str, Any], error: type[Exception], wrong: str) -> None:
    with pytest.raises(error, match=wrong):
        call(pipeline(), **{"heeded_or_retry": 2, **options})


@pytest.mark.gpu
def test_retries_on_a_gpu_in_half_precision() -> None:
    pipe = pipeline().to("cuda", torch.float16)

    call(pipe, heeded_or_retry=3, checker=Checker(9))

    assert [one.seed for one in pipe.tries[0]] == [5, 5, 5 + SEED_STRIDE]
    assert len({pixels(one.image) for one in pipe.tries[0]}) == 3
