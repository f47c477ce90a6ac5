"""A visit to the page: goes to its views, and notes every complaint of the console and every call to elsewhere."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

expect.set_options(timeout=15_000)


class Visit:
    """One tab. `expect_refusals(…)`: refusals that this visit asks for, which the browser's console repeats."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url.rstrip("/")
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        self.requests: list[str] = []
        self._foreseen: tuple[str, ...] = ()
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._see)

    def expect_refusals(self, *words: str) -> None:
        self._foreseen += words

    def go(self, place: str = "") -> None:
        self.page.goto(f"{self.url}/#/{place}")

    def heading(self, name: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_role("heading", name=name, level=1)

    def sees(self, *texts: str) -> None:
        for text in texts:
            expect(self.page.get_by_role("main").get_by_text(text).first).to_be_visible()

    def press(self, name: str, *, role: Any = "button") -> None:
        self.page.get_by_role("main").get_by_role(role, name=name, exact=True).first.click()

    def check(self) -> None:
        assert [text for text in self.complaints if not any(word in text for word in self._foreseen)] == []
        assert self.strangers == []

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _see(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.strangers.append(request.url)
