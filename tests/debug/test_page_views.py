"""What the page shows of attempts: every number from the attempt, every text escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from heedful.debug import page_views as views
from heedful.debug.attempt import Attempt, AttemptSettings, attempt
from heedful.debug.page_jobs import Progress
from heedful.debug.page_sessions import KEPT, Entry, Session, Sessions
from heedful.explain import Relevance
from heedful.explain.verdict import Verdict, WordVerdict
from PIL import Image
from tiny import tiny_pipeline

HOSTILE = "<script>alert(1)</script> \"a\" 'cat' & a frog {{7*7}} ${1}"


def checker(image: Image.Image, words: tuple[str, ...], prompt: str) -> Verdict:
    said = ("heeded", "neglected", "unsure")
    found = [
        WordVerdict(word, said[place % 3], 0.25, 1.0, {}, {}, torch.eye(4), reason="<b>")
        for place, word in enumerate(words)
    ]
    return Verdict(tuple(found), image.size, prompt)


@pytest.fixture(scope="module")
def tried() -> Attempt:
    settings = AttemptSettings("a cat and a red frog", words=("cat", "red frog"), model="tiny", steps=3)
    return attempt(tiny_pipeline(sample_size=8), settings, check=checker)


def sources(html: str) -> list[str]:
    return re.findall(r'<img[^>]* src="(data:image/[^"]+)"', html)


def test_every_word_is_a_button_with_the_verdict_of_what_was_guided(tried: Attempt) -> None:
    html = views.words(tried, "frog")
    buttons = re.findall(
        r'<button type="button" data-word="(-?\d+)" aria-pressed="(\w+)"(.*?)</button>', html, re.S
    )

    names = ["no word", *(span.label for span in tried.guided.record.spans[0])]
    assert names == ["no word", "a", "cat", "and", "a#2", "red", "frog", "red frog"]
    assert [place for place, _, _ in buttons] == ["-1", "0", "1", "2", "3", "4", "5", "6"]
    assert [name for name, (_, pressed, _) in zip(names, buttons, strict=True) if pressed == "true"] == [
        "frog"
    ]
    marks = [re.findall(r"hd-mark hd-(\w+)", rest) for _, _, rest in buttons]
    assert marks == [[], [], ["heeded"], [], [], *[["neglected"]] * 3]
    assert views.word_at(tried, 5) == "frog"
    assert views.word_at(tried, -1) is views.word_at(tried, 7) is None


def test_the_pair_shows_other_pixels_for_other_words_and_steps(tried: Attempt) -> None:
    asked = [(None, None), ("cat", None), ("frog", None), ("cat", 0), ("cat", 2)]
    found = [tuple(sources(views.pair(tried, word, step))) for word, step in asked]

    assert all(len(pair) == 2 for pair in found)
    assert len(set(found)) == len(found)
    assert "step 3 of 3" in views.pair(tried, "cat", 2)


def test_both_images_share_one_scale(tried: Attempt) -> None:
    plain, guided = (one.record.heat_map("cat") for one in (tried.plain, tried.guided))
    louder = replace(tried.guided.record, maps=tuple(10 * one for one in tried.guided.record.maps))
    before = sources(views.pair(tried, "cat", None))[0]
    after = sources(views.pair(replace(tried, guided=replace(tried.guided, record=louder)), "cat", None))[0]

    assert float(10 * guided.max()) > float(plain.max())
    assert before != after, "the plain image must darken where the guided one has more attention"


def test_the_table_has_attention_and_verdict_of_both_images(tried: Attempt) -> None:
    html = views.evidence(tried, "frog")
    peaks = [one.run.word_attention[0][0] for one in (tried.plain, tried.guided)]

    assert all(f"{peak:.2f}" in html for peak in peaks)
    assert html.count("25&nbsp;%") == 4
    assert 'title="&lt;b&gt;"' in html
    assert len(sources(html)) == 2, "the relevance of the phrase that the word belongs to"
    assert sources(views.evidence(tried, None)) == []


def test_losses_are_drawn_with_the_step_looked_at(tried: Attempt) -> None:
    bare, marked = views.losses(tried, None), views.losses(tried, 1)

    assert bare.count('<path class="hd-line') == 2
    assert "hd-now" in marked
    assert "hd-now" not in bare


def test_history_and_comparison_name_what_differs(tried: Attempt) -> None:
    session = Session("key")
    first = session.add(tried)
    second = session.add(replace(tried, settings=replace(tried.settings, seed=7)))
    html = views.comparison(first, second, "cat")
    changed = re.findall(r'<th scope="row">([^<]*)</th><td>([^<]*)</td><td>([^<]*)</td>', html)

    assert changed == [("seed", "0", "7")]
    assert len(sources(html)) == 4
    assert re.findall(r'data-number="(\d+)" aria-pressed="(\w+)"', views.history(session)) == [
        ("2", "true"),
        ("1", "false"),
    ]
    assert "nothing: the settings are the same" in views.comparison(first, Entry(2, tried), None)


def test_a_word_that_the_other_attempt_lacks_leaves_its_images_bare(tried: Attempt) -> None:
    assert views.held(tried, "dog") is None
    assert "attention of" not in views.comparison(Entry(1, tried), Entry(2, tried), "dog")


def test_no_text_becomes_markup(tried: Attempt) -> None:
    hostile = replace(tried, settings=replace(tried.settings, prompt=HOSTILE, negative_prompt=HOSTILE))
    session = Session('"><script>')
    session.add(hostile)
    relevance = Relevance((HOSTILE,), (1.0,), image=torch.eye(3)[None])
    pages = [
        views.history(session),
        views.comparison(Entry(1, tried), Entry(2, hostile), None),
        views.downloads(session),
        views.notice(HOSTILE, "bad"),
        views.progress(Progress(HOSTILE, 1, 2)),
        views.answers(relevance, Image.new("RGB", (8, 8)), HOSTILE, scored=True),
    ]

    for page in pages:
        assert "<script" not in page
        assert "&lt;script" in page or "%3Cscript" in page


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (Progress(), "beginning"),
        (Progress(ahead=2), "2 jobs come first"),
        (Progress("drawing", 2, 4, 0.5), "drawing, 2 of 4, loss 0.500"),
    ],
)
def test_progress_says_where_it_is(told: Progress, text: str) -> None:
    assert text in views.progress(told)


def test_images_are_enlarged_for_smooth_heat_and_reduced_for_the_page() -> None:
    sizes = [views.enlarged(Image.new("RGB", size)).size for size in ((64, 32), (2048, 1024), (512, 512))]

    assert sizes == [(384, 192), (768, 384), (512, 512)]


def test_a_patch_is_framed_where_the_cursor_is() -> None:
    html = views.picture(Image.new("RGB", (8, 8)), (4, 8), (1, 2))

    assert 'data-rows="4" data-columns="8" data-row="1" data-column="2"' in html
    assert "left: 25.0%; top: 25.0%; width: 12.5%; height: 25.0%" in html
    assert " hidden " in views.picture(Image.new("RGB", (8, 8)), (4, 8), None)


def test_words_of_a_text_are_tinted_by_their_relevance() -> None:
    text, words = torch.tensor([[0.0, 1.0, 4.0, 9.0]]), (("<start>", "a</w>", "cat</w>", "<end>"),)
    relevance = Relevance(("a cat",), (1.0,), image=torch.eye(2)[None], text=text, words=words)
    html = views.answers(relevance, Image.new("RGB", (8, 8)), "", scored=True)
    found = re.findall(r"--hd-heat: ([\d.]+)\">(\w+)<", html)

    assert found == [("0.25", "a"), ("1.00", "cat")]


def test_a_session_drops_its_oldest_attempts_and_keeps_their_numbers(tried: Attempt) -> None:
    session = Session()
    for _ in range(KEPT + 2):
        session.add(tried)

    assert [session.history[0].number, session.shown, session.forgotten] == [3, KEPT + 2, 2]
    assert session.entry(2) is None
    assert session.current is not None
    assert "2 older attempts were dropped" in views.history(session)


def test_a_closed_tab_is_forgotten_and_its_job_cancelled() -> None:
    from heedful.debug.page_jobs import Job

    sessions = Sessions()
    one, other = sessions.open("one"), sessions.open("other")
    one.job = Job()
    sessions.close("one")
    sessions.close("never opened")

    assert one.job.cancelled()
    assert sessions.find("one") is None
    assert sessions.open("other") is other
    assert len(sessions) == 1


def test_reports_are_lent_to_their_tab_only(tried: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.debug import page_reports

    monkeypatch.setattr(page_reports, "report", lambda found: f"{type(found).__name__}")
    sessions = Sessions()
    session: Any = sessions.open("key")
    assert page_reports.lent(sessions, "key", "1") is None
    session.add(tried)

    assert page_reports.lent(sessions, "key", "1") == ("heedful-a-cat-and-a-red-frog-seed-0.html", "Attempt")
    assert page_reports.lent(sessions, "key", "all") == ("heedful-session.html", "list")
    assert [page_reports.lent(sessions, *asked) for asked in (("key", "2"), ("key", "x"), ("no", "1"))] == [
        None
    ] * 3
