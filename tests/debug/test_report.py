"""A report is one whole file: everything is in it, every text escaped, nothing fetched, small enough."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from heedful.debug.attempt import Attempt, AttemptSettings, Drawn
from heedful.debug.charts import Series, ceiling, line_chart
from heedful.debug.errors import ReportError
from heedful.debug.report import report
from heedful.explain.verdict import ClassifierEvidence, Verdict, WordVerdict
from heedful.guidance import AttentionRecord, GuidedRun, Span, StepLog
from heedful.pictures.draw import colours
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

HOSTILE = (
    "</style></script><script>alert(1)</script><img src=x onerror=alert(2)> \" ' {{7*7}} & \u202e 👩\u200d🚀"
)
VOID = {"meta", "img", "input", "br", "path", "circle", "rect", "fefuncr", "fefuncg", "fefuncb"}
WORDS = ("a", "cat", "and", "frog")


class Page(HTMLParser):
    """A page as a browser sees it: its tags with attributes, its text, and whether all is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self, tag: str) -> str:
        return " ".join(" ".join(self.text.get(tag, [])).split())


def spans(words=WORDS) -> tuple[Span, ...]:
    return tuple(Span(word, (place,)) for place, word in enumerate(words, start=1))


def a_run(prompt="a cat and a frog", words=("cat", "frog"), steps=4, shift=0.1) -> GuidedRun:
    logs = tuple(
        StepLog(index, 900.0 - index, index / 8, (0.9 - 0.1 * index,), ((0.9, 0.2),), (index,), (shift,))
        for index in range(steps)
    )
    maps = (torch.rand(len(words), 6, 4, generator=torch.manual_seed(0)),)
    return GuidedRun((prompt,), (spans(words),), logs, maps, 5, 0.8, {"pipeline": "P"}, {"torch": "2"})


def a_record(prompt="a cat and a frog", words=WORDS, steps=8, grid=(6, 4), seed=0) -> AttentionRecord:
    made = torch.Generator().manual_seed(seed)
    each = torch.rand(steps, len(words), *grid, generator=made) / 4
    mean = each.mean(0)
    rest = (1 - mean.sum(0, keepdim=True)).clamp(min=0)
    own = spans(words)
    return AttentionRecord(
        prompts=(prompt,),
        spans=(own,),
        tokens=((Span("<start>", (0,)), *own),),
        text=((1, len(words) + 1),),
        attention=(torch.cat([rest, mean]),),
        maps=(mean,),
        steps=tuple(float(900 - step) for step in range(steps)),
        layers=("mid",),
        settings={"left_out": [["late"]], "resolve": ["step"]},
        step_maps=(each,),
    )


def a_verdict(words=("cat", "frog"), said="neglected") -> Verdict:
    heat = torch.rand(4, 4, generator=torch.manual_seed(1))
    seen = ClassifierEvidence("toad", 0.31, True, heat - 0.5)
    told = (
        WordVerdict(words[0], "heeded", 0.97, 12.0, {"a frog": 3.0}, {}, heat, 0.8),
        WordVerdict(words[1], said, 0.12, 2.0, {"a cat": 3.0}, {}, heat, 0.4, seen, "why it is so"),
    )
    return Verdict(told, (64, 96), "a cat and a frog")


def noise(width=64, height=96, seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def an_attempt(prompt="a cat and a frog", image=None, verdict=True, **settings) -> Attempt:
    words = ("cat", "frog")
    asked = AttemptSettings(prompt, words=words, **settings)
    drawn = [
        Drawn(kind, image or noise(seed=seed), a_run(prompt, shift=seed * 0.1), a_record(prompt, seed=seed),
              a_verdict(said=said) if verdict else None, {"cat": "heeded", "frog": said})
        for seed, (kind, said) in enumerate((("plain", "neglected"), ("guided", "heeded")))
    ]  # fmt: skip
    return Attempt(asked, *drawn, {"plain": 1.0})


def policy(page: Page) -> str:
    (found,) = [
        one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"
    ]
    return found


@pytest.fixture(scope="module")
def text() -> str:
    return report(an_attempt())


def test_everything_is_in_it(text) -> None:
    page = Page(text)
    said = " ".join(" ".join(found) for found in page.text.values())

    assert page.open == []
    assert text.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert page.said("title") == "a cat and a frog"
    for wanted in ("plain", "guided", "97%", "why it is so", "toad", "late", "own", "CLIP relevance",
                   "classifier relevance", "heedful generate --words cat --words frog --seed 0"):  # fmt: skip
        assert wanted in said or wanted in page.said("code"), wanted
    assert [one["value"] for one in page.all("input") if one["type"] == "radio"] == ["", "0", "1", "2", "3"]


def test_every_step_of_every_word_is_there_without_scripts(text) -> None:
    keys = {one["data-map"]: one for one in Page(text).all("img") if "data-map" in one}

    assert set(keys) == {
        f"{word}-{side}-{step}" for word in range(4) for side in range(2) for step in range(9)
    }
    assert all(one["alt"] for one in keys.values())
    assert len({one["src"] for one in keys.values()}) > 60


def test_maps_are_those_of_the_record_on_one_scale_a_word(text) -> None:
    import io

    found = {one["data-map"]: one["src"] for one in Page(text).all("img") if "data-map" in one}
    records = [a_record(seed=seed) for seed in range(2)]
    top = max(float(record.by_step("frog").max()) for record in records)
    for side, record in enumerate(records):
        grey = Image.open(io.BytesIO(base64.b64decode(found[f"3-{side}-6"].partition("base64,")[2])))
        wanted = record.by_step("frog")[5] / top
        assert np.abs(np.asarray(grey) / 255 - wanted.numpy()).max() < 0.5 / 255 + 1e-6


def test_nothing_is_fetched_and_only_its_own_script_may_run(text) -> None:
    page = Page(text)
    script = re.search(r"<script>(.*)</script>", text, re.S)[1]
    style = re.search(r"<style>(.*)</style>", text, re.S)[1]
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]

    assert policy(page) == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
    addresses = [one[name] for _, one in page.tags for name in ("src", "href", "action") if name in one]
    assert all(one.startswith(("data:image/", "#")) for one in addresses)
    assert re.findall(r"url\((?!data:|#)", text) == []
    assert "http" not in text.replace("http-equiv", "")
    assert not [one for _, one in page.tags if "style" in one]  # the policy would not let them through


def test_it_can_be_used_by_keyboard_and_is_told_to_those_who_cannot_see(text) -> None:
    page = Page(text)

    assert {one["type"] for one in page.all("input")} == {"radio", "range"}
    assert all("alt" in one for one in page.all("img"))
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in page.all("svg"))
    assert not [
        one
        for tag, one in page.tags
        if tag not in ("a", "button", "input", "summary", "pre") and "tabindex" in one
    ]
    assert not [one for _, one in page.tags for name in one if name.startswith("on")]
    assert "prefers-color-scheme: dark" in page.said("style")
    assert ":focus-visible" in page.said("style")


@pytest.mark.parametrize(
    "prompt",
    [HOSTILE, "frog " * 500, "🐸" * 30, "cat\nfrog\t\x1b[31m"],
    ids=["script", "long", "emoji", "control"],
)
def test_prompts_cannot_break_it(prompt) -> None:
    plain, hostile = (
        Page(report(an_attempt())),
        Page(report(an_attempt(prompt, negative_prompt=prompt), title="")),
    )

    assert hostile.open == []
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert policy(hostile) == policy(plain)
    assert "49" not in hostile.said("h1")
    assert hostile.said("code")


@examples(max_examples=8)
@given(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40
    ).filter(str.strip),
    st.text(max_size=20),
)
def test_no_text_breaks_it(prompt, title) -> None:
    words = (prompt, "frog")
    run = replace(a_run(prompt, words), settings={title: title, "seeds": [title]})
    page = Page(report([run, a_record(prompt, words)], title=title))

    assert page.open == []
    assert len(page.all("script")) == 1


def test_one_at_512_pixels_and_50_steps_stays_under_5_mb() -> None:
    made = an_attempt(image=noise(512, 512))
    words = tuple(f"word{number}" for number in range(8))
    many = [
        replace(one, record=a_record(words=words, steps=50, grid=(16, 16)))
        for one in (made.plain, made.guided)
    ]
    text = report(replace(made, plain=many[0], guided=many[1]))

    assert len(text.encode()) < 5_000_000
    assert "step is shown" not in text


def test_too_many_maps_leave_steps_out_and_say_so() -> None:
    words = tuple(f"word{number}" for number in range(30))
    text = report(a_record(words=words, steps=50, grid=(32, 32)))
    keys = {one["data-map"] for one in Page(text).all("img") if "data-map" in one}

    assert len(text.encode()) < 5_000_000
    assert "Every 2nd step is shown" in text
    assert json.loads(Page(text).all("form")[0]["data-names"])[-1] == "step 50 of 50, timestep 851"
    assert len(keys) == 30 * 27


def test_attempts_are_compared_by_what_is_different(text) -> None:
    page = Page(report([an_attempt(), an_attempt(seed=5, strength=2.0)]))

    assert len(page.all("article")) == 2
    assert {one["href"] for one in page.all("a")} == {"#main", "#part-1", "#part-2"}
    rows = page.said("div")
    assert "strength" in page.said("span")
    assert {"1", "2", "0", "5"} <= set(rows.split())
    assert "compare" not in [one.get("class") for one in Page(text).all("table")]


def test_a_run_and_a_record_need_no_image_but_take_one() -> None:
    image = noise(32, 48)
    bare, shown = Page(report(a_run())), Page(report(a_run(), images=[image]))
    recorded = Page(report(a_record(), images=[image]))

    assert [one["class"] for one in bare.all("div") if "bare" in one.get("class", "")] == ["stage p1s0 bare"]
    assert [one["alt"] for one in shown.all("img") if one.get("class") == "picture"] == [
        "the guided image of the prompt: a cat and a frog"
    ]
    assert "last probe" in bare.said("figcaption")
    assert len([one for one in recorded.all("input") if one["type"] == "radio"]) == 5
    assert not [one for one in bare.all("input") if one.get("name") == "step"]


def test_each_image_of_a_batch_is_a_part() -> None:
    one = a_record()
    both = replace(one, prompts=("one", "two"), spans=one.spans * 2, tokens=one.tokens * 2, text=one.text * 2,
                   attention=one.attention * 2, maps=one.maps * 2, step_maps=one.step_maps * 2,
                   settings={"left_out": [[], []], "resolve": ["step"]})  # fmt: skip
    page = Page(report(both, images=[noise(), noise(seed=1)]))

    assert page.said("h2").split()[-2:] == ["one", "two"] or {"one", "two"} <= set(page.said("h2").split())
    assert page.said("title") == "2 attempts: one"


def test_a_run_without_words_or_steps_is_still_a_report() -> None:
    nothing = GuidedRun(("a the",), ((),), (), (), 0, 0.8, {}, {})
    page = Page(report(nothing))

    assert page.open == []
    assert not page.all("input")
    assert "a the" in page.said("title")


def test_without_a_check_nothing_is_claimed() -> None:
    made = an_attempt(verdict=False)
    bare = replace(made, plain=replace(made.plain, judged=None), guided=replace(made.guided, judged=None))
    page = Page(report(bare))

    assert "heeded" not in page.said("span")
    assert {"attended", "weak"} <= set(page.said("span").split())


def test_it_is_written_where_it_should_be(tmp_path) -> None:
    path = tmp_path / "report.html"
    assert path.write_text("old") == 3
    text = report(an_attempt("a café 🐸"), path)

    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("results", "images", "message"),
    [
        ([], [], "an Attempt, a GuidedRun, an AttentionRecord, or several of them; got none"),
        ([a_run()], [noise(), noise()], "one an image: wanted 1, got 2"),
        ([an_attempt()], [noise()], "wanted 0, got 1"),
    ],
)
def test_what_cannot_be_reported_is_refused(results, images, message) -> None:
    with pytest.raises(ReportError, match=message):
        report(results, images=images)


def test_a_place_that_cannot_be_written_is_told(tmp_path) -> None:
    with pytest.raises(ReportError, match=r"cannot write the report .*nowhere"):
        report(a_run(), tmp_path / "nowhere" / "report.html")


def test_results_draw_themselves_in_notebooks() -> None:
    made = an_attempt(HOSTILE)
    for result in (made, made.guided.run, a_run(steps=0)):
        page = Page(result._repr_html_())
        assert page.open == []
        assert not page.all("script")
    assert {"cat", "frog"} <= set(Page(made._repr_html_()).said("th").split())
    assert len(Page(made._repr_html_()).all("img")) == 6


@given(st.lists(st.floats(0, 1e6) | st.just(float("nan")), min_size=1, max_size=60))
def test_lines_stay_on_the_paper(values) -> None:
    chart = line_chart("loss", [Series("plain", tuple(range(len(values))), tuple(values))], steps=len(values))
    finite = [value for value in values if value == value]
    if not finite:
        assert chart is None
        return
    (line,) = chart.lines
    assert len(line.points) == len(finite)
    assert all(chart.left <= x <= chart.right and chart.top <= y <= chart.floor for x, y in line.points)
    assert line.path.count("M") >= 1
    heights = [y for _, y in line.points]
    assert heights[finite.index(max(finite))] == min(heights)


@given(st.floats(1e-6, 1e6))
def test_the_axis_ends_just_above_the_values(value) -> None:
    assert value * (1 - 1e-6) <= ceiling(value) <= 2.001 * value * 1.25


def test_series_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted a value a step, got 1 for 2 steps"):
        Series("plain", (0, 1), (0.5,))


def test_the_filter_colours_as_overlays_do(text) -> None:
    tables = [[float(one) for one in found.split()] for found in re.findall(r'tableValues="([^"]*)"', text)]
    painted = np.stack([np.interp(0.5, np.linspace(0, 1, len(table)), table) for table in tables[:3]])

    assert np.abs(painted * 255 - colours(np.array([[0.5]]))[0, 0]).max() < 3
