"""Attempts on models of other kinds than Stable Diffusion 1: every word is recorded there, too."""

from __future__ import annotations

from functools import partial

import pytest
from heedful.debug.attempt import AttemptError, AttemptSettings, attempt
from heedful.guidance import AttendAndExcite
from tiny_transformers import tiny_flux, tiny_sd3
from tiny_unets import xl

PROMPT = "a cat and a frog"


@pytest.fixture(autouse=True)
def few_moves(monkeypatch):
    monkeypatch.setattr("heedful.debug.attempt.AttendAndExcite", partial(AttendAndExcite, max_refinements=1))


@pytest.mark.parametrize("build", [xl, tiny_sd3, tiny_flux])
def test_draws_and_records(build):
    made = attempt(build(), AttemptSettings(PROMPT, model="tiny", steps=1, size=(64, 96)))

    assert made.plain.image.size == made.guided.image.size == (64, 96)
    assert made.guided.image.tobytes() != made.plain.image.tobytes()
    assert [span.text for span in made.guided.spans] == ["cat", "frog"]
    assert [span.text for span in made.plain.record.spans[0]] == ["a", "cat", "and", "a", "frog"]
    assert made.plain.record.maps[0].isfinite().all()


def test_a_negative_prompt_that_would_not_be_heeded_is_refused():
    with pytest.raises(AttemptError, match="FluxPipeline heeds no negative prompt"):
        attempt(tiny_flux(), AttemptSettings(PROMPT, model="tiny", steps=1, negative_prompt="a dog"))
