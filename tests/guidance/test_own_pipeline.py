"""A pipeline that guidance has never seen is guided after the lines that docs/pipelines.md shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from heedful.guidance import AttendAndExcite, Schedule, UnsupportedError, guide
from heedful.guidance.hosts import HOSTS
from hosting import state
from tiny import tiny_pipeline

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipelines.md"
CAPTION = "a cat and a frog"


class CaptionPipeline:
    """A stranger: it takes a caption, and puts the caption's own rows before the unconditional ones."""

    def __init__(self):
        parts = tiny_pipeline()
        self.components = parts.components
        self.unet, self.tokenizer, self.scheduler = parts.unet, parts.tokenizer, parts.scheduler
        self.embed = parts.encode_prompt
        self.seen = []

    @torch.no_grad()
    def __call__(self, caption, steps=2):
        own, other = self.embed(caption, "cpu", 1, True)
        latents = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(0))
        self.scheduler.set_timesteps(steps)
        for timestep in self.scheduler.timesteps:
            text = torch.cat([own, other])
            noise = self.unet(torch.cat([latents, latents]), timestep, encoder_hidden_states=text).sample
            guided, plain = noise.chunk(2)
            latents = self.scheduler.step(plain + 5 * (guided - plain), timestep, latents).prev_sample
        return latents


@pytest.fixture
def example():
    """What the page tells a reader to write."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (shown,) = [one for one in code if "CaptionPipeline" in one]
    known = dict(HOSTS)
    exec(shown, {})
    yield
    HOSTS.clear()
    HOSTS.update(known)


def test_it_is_refused_at_first():
    with (
        pytest.raises(UnsupportedError, match="does not know CaptionPipeline"),
        guide(CaptionPipeline(), AttendAndExcite()),
    ):
        pass


@pytest.mark.usefixtures("example")
def test_it_is_guided_by_its_own_rows_after_the_lines_of_the_page():
    pipe = CaptionPipeline()
    plain, before = pipe(CAPTION), state(pipe)
    objective = AttendAndExcite(words=["cat", "frog"], schedule=Schedule({}, until=1.0), max_refinements=0)
    with guide(pipe, objective) as session:
        guided = pipe(CAPTION)
    assert state(pipe) == before
    assert not torch.equal(guided, plain)
    assert [span.indices for span in session.run.spans[0]] == [(2,), (5,)]
    first = session.run.steps[0].losses
    pipe.embed = lambda *args, inherited=pipe.embed: (inherited(*args)[0], torch.randn(1, 77, 16))
    with guide(pipe, objective) as session:
        pipe(CAPTION)
    assert session.run.steps[0].losses == pytest.approx(first, abs=1e-6)
