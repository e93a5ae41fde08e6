"""A headless Chromium, and a page of `heedful debug` for it to open."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import BROWSERS, PATIENCE, Tab, chromium
from playwright.sync_api import Browser, BrowserContext, sync_playwright


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one the test is skipped, but under CI it fails."""
    path = chromium()
    if path is None:
        told = (
            f"no Chromium: apt-get install chromium, or name one in HEEDFUL_CHROMIUM ({', '.join(BROWSERS)})"
        )
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    with sync_playwright() as played:
        made = played.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE * 1000
        )
        yield made
        made.close()


@pytest.fixture(scope="session")
def address(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `heedful debug` serves its page: one server for all tests, ended as by Ctrl-C.

    In a process of its own: what the server's libraries warn of is not what these tests are about.
    """
    folder = tmp_path_factory.mktemp("server")
    told, errors = folder / "told.txt", folder / "errors.txt"
    arguments = ["debug", "--port", "0", "--no-browser", "--device", "cpu"]
    code = f"from heedful.scripts.cli import app; app({arguments})"
    with told.open("w") as output, errors.open("w") as complaints:
        server = subprocess.Popen(
            [sys.executable, "-u", "-c", code], stdout=output, stderr=complaints, cwd=folder
        )
        try:
            yield _announced(server, told, errors)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=PATIENCE)
    assert server.returncode == 0, errors.read_text()
    assert "Traceback" not in errors.read_text(), errors.read_text()


def _announced(server: subprocess.Popen[bytes], told: Path, errors: Path) -> str:
    """The address that the server prints once it can be opened."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", told.read_text())
        if found:
            return found.group()
        time.sleep(0.1)
    raise AssertionError(f"the server did not begin: {errors.read_text()}")


@pytest.fixture(scope="session")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A window for all tests: the page's own scripts are loaded once, each tab has a session of its own."""
    made = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    yield made
    made.close()


@pytest.fixture
def tab(context: BrowserContext, address: str) -> Iterator[Tab]:
    """The page, opened; at the end nothing may have gone wrong in it."""
    opened = Tab(context.new_page(), address).watched()
    opened.page.goto(address)
    opened.page.get_by_label("Prompt", exact=True).wait_for()
    yield opened
    opened.page.close()
    assert opened.wrongs == []
