"""`heedful debug` in a real browser: what a person does there, and what they see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browsing import Tab
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

pytestmark = pytest.mark.browser

STEPS = 4


def draw(page: Page, prompt: str, *, steps: int = STEPS, seed: int = 0) -> None:
    """Ask for a prompt, and do not wait for it."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.locator("input[aria-label='number input for Steps']").fill(str(steps))
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="Draw", exact=True).click()


def draw_slowly(page: Page) -> None:
    """Ask for what takes long, and wait until it has begun."""
    size = page.get_by_label("Width x height")
    if not size.is_visible():
        page.get_by_role("button", name="Size, negative prompt").click()
    size.fill("384x384")
    draw(page, "a cat and a frog", steps=100)
    expect(page.locator("#status")).to_contain_text(re.compile(r"image, \d+ of 100"))
    size.fill("")


def drawn(page: Page, number: int = 1) -> None:
    """Wait for an attempt."""
    expect(page.locator("#status")).to_contain_text(f"Attempt {number}: drawn and checked")
    expect(page.locator("#pair img")).to_have_count(2)


def images(page: Page, where: str = "#pair") -> list[str]:
    return [one.get_attribute("src") or "" for one in page.locator(f"{where} img").all()]


def test_a_prompt_is_drawn_and_its_words_lead_to_their_attention(tab: Tab) -> None:
    page = tab.page
    draw(page, "a cat and a frog", seed=3)
    drawn(page)
    bare = images(page)
    page.locator("#words").get_by_role("button", name="frog").click()
    expect(page.locator("#pair")).to_contain_text(f"attention of “frog”, mean of all {STEPS} steps")
    frog = images(page)
    page.locator("#words").get_by_role("button", name="cat").press("Enter")
    expect(page.locator("#pair")).to_contain_text("attention of “cat”")
    cat = images(page)
    page.locator("#step input[type=range]").fill("2")
    expect(page.locator("#pair")).to_contain_text(f"step 2 of {STEPS}")

    assert len({*bare, *frog, *cat, *images(page)}) == 8
    expect(page.locator("#evidence tbody tr")).to_have_count(2)
    expect(page.locator("#losses path.hd-line")).to_have_count(2)
    expect(page.locator("#command textarea")).to_have_value(
        f"heedful generate --seed 3 --steps {STEPS} 'a cat and a frog'"
    )


def test_attempts_are_remembered_shown_again_and_compared(tab: Tab) -> None:
    page = tab.page
    draw(page, "a cat and a frog")
    drawn(page)
    first = images(page)
    draw(page, "a red car", seed=5)
    drawn(page, 2)

    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#comparison")).to_contain_text("a red car")
    expect(page.locator("#comparison img")).to_have_count(4)
    page.locator("#history").get_by_role("button", name="a cat and a frog").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a cat and a frog")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("0")
    expect(page.locator("#words").get_by_role("button", name="frog")).to_be_visible()
    assert images(page) == first


def test_cancel_stops_the_drawing_and_the_next_one_is_drawn(tab: Tab) -> None:
    page = tab.page
    draw_slowly(page)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_contain_text("Cancelled; nothing was kept")

    expect(page.locator("#history li")).to_have_count(0)
    draw(page, "a dog")
    drawn(page)


def test_what_cannot_be_drawn_is_said(tab: Tab) -> None:
    page, long = tab.page, " ".join(["a cat and a frog"] * 100)
    for prompt, told in (("   ", "the prompt is empty"), (long, "is cut off")):
        draw(page, prompt)
        expect(page.locator("#status [role=alert]")).to_contain_text(told)
    expect(page.locator("#pair img")).to_have_count(0)

    page.get_by_label("Words that must not be neglected").fill("cat")
    draw(page, long)
    drawn(page)
    expect(page.locator("#status")).to_contain_text("did not read the prompt's last words")


def test_hostile_prompts_are_shown_as_they_are(tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Words that must not be neglected").fill("cat")
    prompts = (
        "a cat <script>alert('cat')</script> and <img src=x onerror=alert(1)>",
        "a \"cat\" & 'frog' \\ {{ 7 * 7 }} ${alert(1)} `frog`",
        "🐸 a cat 👩‍👩‍👧 \u202egorf",
    )
    for number, prompt in enumerate(prompts, start=1):
        draw(page, prompt, steps=2)
        drawn(page, number)
        page.locator("#words").get_by_role("button", name="cat").first.click()
        expect(page.locator("#pair")).to_contain_text("attention of “cat”")
        shown = page.locator("#history li").first.inner_text()
        assert prompt.replace("\u202e", "\\u202e") in shown
    assert page.locator("#history script, #words script, #comparison script, img[src=x]").count() == 0


def test_two_tabs_have_their_own_histories_and_one_that_closes_stops_its_drawing(
    tab: Tab, context: BrowserContext
) -> None:
    other = Tab(context.new_page(), tab.address).watched()
    other.page.goto(tab.address)
    other.page.get_by_label("Prompt", exact=True).wait_for()
    draw_slowly(tab.page)
    draw(other.page, "a red car")
    expect(other.page.locator("#status")).to_contain_text("1 job comes first")
    tab.page.get_by_role("button", name="Cancel").click()
    drawn(other.page)
    draw(tab.page, "a dog")
    drawn(tab.page)

    assert [one.page.locator("#history li").count() for one in (tab, other)] == [1, 1]
    expect(tab.page.locator("#history")).to_contain_text("a dog")
    expect(other.page.locator("#history")).to_contain_text("a red car")
    draw_slowly(other.page)
    other.page.close()  # stops what it waits for, or the next would wait long
    draw(tab.page, "a red car", steps=2)
    drawn(tab.page, 2)
    assert other.wrongs == []


def test_an_uploaded_image_is_explained_by_class(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    Image.new("RGBA", (90, 50), (200, 40, 40, 128)).save(tmp_path / "red.png")
    page.get_by_role("tab", name="Explain").click()
    page.locator("#explain").click()
    expect(page.locator("#explain-status [role=alert]")).to_contain_text("there is no image")

    page.locator("#upload input[type=file]").set_input_files(tmp_path / "red.png")
    expect(page.locator("#picture img")).to_have_count(1)
    page.get_by_label("classes").check()
    for label, where in (("frog", "#answers figure"), ("unicorn", "#explain-status [role=alert]")):
        page.get_by_label("One a line").fill(label)
        page.locator("#explain").click()
        expect(page.locator(where)).to_contain_text(label)


def test_a_drawn_image_is_explained_and_a_clicked_patch_shows_what_it_attends_to(tab: Tab) -> None:
    page = tab.page
    draw(page, "a cat and a frog", steps=2)
    drawn(page)
    page.get_by_role("tab", name="Explain").click()
    page.get_by_role("button", name="The guided image").click()
    expect(page.locator("#picture img")).to_have_count(1)
    page.locator("#explain").click()
    expect(page.locator("#answers figure")).to_have_count(2)

    page.locator("#picture button").click(position={"x": 5, "y": 5})
    expect(page.locator("#answers")).to_contain_text("row 1, column 1 attends to")
    first = images(page, "#answers")
    page.locator("#picture button").press("ArrowDown")
    page.locator("#picture button").press("Enter")
    expect(page.locator("#answers")).to_contain_text("row 2, column 1 attends to")
    assert images(page, "#answers") != first
    expect(page.get_by_label("Layer", exact=True)).to_have_value("")


def test_a_false_mark_is_found_and_a_clicked_patch_shows_where_its_heads_look(tab: Tab) -> None:
    page = tab.page
    page.get_by_role("tab", name="Probe").click()
    page.locator("button#probe").click()
    expect(page.locator("#probe-status [role=alert]")).to_contain_text("there is no image")

    page.get_by_role("button", name="A scene with a false mark").click()
    expect(page.locator("#patches img")).to_have_count(1)
    page.locator("#probes").get_by_label("spurious patches").check()
    page.locator("#probe-model input").fill("cheater")
    page.locator("#probe-model input").press("Enter")
    page.locator("button#probe").click()
    expect(page.locator("#finding")).to_contain_text("without the framed ones")
    expect(page.locator("#finding tbody tr")).to_have_count(3)

    page.locator("#patches button").click(position={"x": 5, "y": 5})
    expect(page.locator("#finding")).to_contain_text("What the patch in row 1, column 1 attends to")
    expect(page.locator("#probes").get_by_label("head maps")).to_be_checked()
    expect(page.locator("button#probe-cancel")).to_be_disabled()


def test_the_saved_report_opens_offline_with_and_without_scripts(
    tab: Tab, browser: Browser, tmp_path: Path
) -> None:
    draw(tab.page, "a cat and a frog")
    drawn(tab.page)
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="Save the report of attempt 1").click()
    assert download.value.suggested_filename == "heedful-a-cat-and-a-frog-seed-0.html"
    download.value.save_as(tmp_path / "report.html")
    for scripts in (True, False):
        context = browser.new_context(offline=True, color_scheme="dark", java_script_enabled=scripts)
        report = Tab(context.new_page(), (tmp_path / "report.html").as_uri()).watched()
        report.page.goto(report.address)
        (read_with_scripts if scripts else read_without_scripts)(report.page)
        assert report.wrongs == []
        context.close()


def read_with_scripts(page: Page) -> None:
    """A word is chosen, the slider moves its maps, and the page is dark where the reader's are."""
    maps = page.locator(".stage .heat")
    page.get_by_role("radio").nth(1).check()
    slider = page.locator("input[name=step]")
    seen = []
    for key in ("Home", "ArrowRight", "ArrowRight"):
        slider.press(key)
        seen.append(tuple(maps.evaluate_all("all => all.map(one => one.src)")))

    assert len({*seen}) == 3
    assert darkness(page) < 100


def read_without_scripts(page: Page) -> None:
    """All steps are there, and how to make it again."""
    expect(page.locator("body")).to_contain_text("a cat and a frog")
    expect(page.locator("body")).to_contain_text("heedful generate --seed 0")
    assert page.locator("img").count() > 2 * STEPS


def darkness(page: Page) -> int:
    """The brightest channel of the page's ground, 0 to 255."""
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return max(int(part) for part in re.findall(r"\d+", ground)[:3])


def test_the_page_is_dark_where_the_reader_wants_it_and_answers_to_nobody_else(tab: Tab) -> None:
    assert darkness(tab.page) > 200
    tab.page.emulate_media(color_scheme="dark")
    tab.page.reload()
    tab.page.get_by_label("Prompt", exact=True).wait_for()
    assert darkness(tab.page) < 100

    api = tab.page.request
    assert api.get(tab.address, headers={"host": "example.com"}).status == 400
    assert api.get(f"{tab.address}/report/nobody/1.html").status == 404
    assert "default-src 'self'" in api.get(tab.address).headers["content-security-policy"]
