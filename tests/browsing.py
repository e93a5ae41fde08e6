"""Finds a Chromium, and watches a page in it for everything that should not be."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Page, expect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 300.0
"""Seconds until a page that does not answer has failed: machines are busy at times."""
expect.set_options(timeout=PATIENCE * 1000)


def chromium() -> str | None:
    """Where Chromium is: HEEDFUL_CHROMIUM, or one of its names on the path."""
    asked = os.environ.get("HEEDFUL_CHROMIUM")
    return asked or next((path for name in BROWSERS if (path := shutil.which(name))), None)


@dataclass
class Tab:
    """A page in the browser, and everything about it that should not be."""

    page: Page
    address: str
    wrongs: list[str] = field(default_factory=list)

    def watched(self) -> Tab:
        """Note errors and requests to anyone but the server."""
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.on("pageerror", lambda problem: self.wrongs.append(f"error: {problem}"))
        self.page.on("console", self._console)
        self.page.on("request", self._request)
        self.page.on("dialog", self._dialog)
        return self

    def _console(self, message: Any) -> None:
        if message.type == "error":  # gradio's own scripts warn of what they lack when a file is uploaded
            self.wrongs.append(f"{message.type}: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.wrongs.append(f"request: {request.url}")

    def _dialog(self, dialog: Any) -> None:
        self.wrongs.append(f"dialog: {dialog.message}")
        dialog.dismiss()
