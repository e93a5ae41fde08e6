"""A verdict answers by word, saves and loads itself, draws itself, and escapes what came from a prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from checking import noise
from heedful.explain import InputError, Verdict, WordVerdict
from heedful.explain.verdict import ClassifierEvidence


def word(name: str, verdict: Any = "heeded", probability: float | None = 0.9, **rest: Any) -> WordVerdict:
    return WordVerdict(
        name,
        verdict,
        probability,
        score=3.0,
        controls={"a photo": 1.0},
        features={"with_without": 2.0},
        relevance=torch.rand(2, 3, generator=torch.Generator().manual_seed(0)),
        apart=0.5,
        **rest,
    )


def two(**changes: Any) -> Verdict:
    seen = ClassifierEvidence("frog", 0.25, None, torch.rand(3, 2))
    words = (word("cat"), word("Frog", "unsure", 0.45, classifier=seen, reason="near 1/2"))
    given = {"words": words, "image_size": (40, 24), "prompt": "a cat and a Frog", "model": "CLIPModel"}
    return Verdict(**{**given, **changes})


def test_answers_by_word_in_any_case() -> None:
    verdict = two()

    assert verdict["frog"].verdict == "unsure"
    assert not verdict.heeded
    assert verdict.share == 0.45
    assert replace(verdict, words=verdict.words[:1]).heeded
    assert repr(verdict) == "Verdict(cat heeded (0.90), Frog unsure (0.45))"
    with pytest.raises(InputError, match='"dog" was not asked for; the words are: cat, Frog'):
        verdict["dog"]
    with pytest.raises(TypeError, match=r"ask verdict\.heeded"):
        bool(verdict)
    with pytest.raises(InputError, match="at least one word"):
        two(words=())


@pytest.mark.parametrize(("verdict", "share"), [("heeded", 1.0), ("unsure", 0.5), ("neglected", 0.0)])
def test_share_without_a_probability(verdict: str, share: float) -> None:
    assert word("cat", verdict, None).share == share


def test_saved_and_loaded(tmp_path: Path) -> None:
    verdict = two(settings={"band": 0.1, "others": ["dog"]}, versions={"torch": "2"})
    verdict.save(tmp_path / "v.safetensors")

    found = Verdict.load(tmp_path / "v.safetensors")

    assert found.to_dict() == verdict.to_dict() == json.loads(json.dumps(verdict.to_dict()))
    assert torch.equal(found["cat"].relevance, verdict["cat"].relevance)
    assert torch.equal(found["frog"].classifier.relevance, verdict["frog"].classifier.relevance)
    assert (found.image_size, found["cat"].classifier) == ((40, 24), None)


def test_another_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    for name in ("x.safetensors", "none.safetensors"):
        with pytest.raises(InputError, match=r"Verdict\.save writes one"):
            Verdict.load(tmp_path / name)


def test_overlays() -> None:
    image = noise()
    verdict = two()

    pictures = [verdict.overlay(image, "frog"), verdict.overlay(image, "frog", classifier=True)]

    assert {picture.size for picture in pictures} == {image.size}
    assert pictures[0].tobytes() != pictures[1].tobytes()
    with pytest.raises(InputError, match="no relevance map of the classifier"):
        verdict.overlay(image, "cat", classifier=True)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_draws_itself_and_escapes() -> None:
    hostile = '<script>alert("x")</script>'
    page = Tags(two(words=(word(hostile),), prompt=hostile, image=noise())._repr_html_())
    whole = Tags(two()._repr_html_())

    assert "script" not in page.tags
    assert page.shown.count(hostile) >= 2
    assert page.tags.count("img") == 2
    assert whole.tags.count("img") == 0
    for text in ("heeded: cat; unsure: Frog", "unsure: near 1/2", "45%", "frog 0.25"):
        assert text in whole.shown
