"""Fixtures: a real Chromium, and tabs that fail the test if the browser reports a problem.

The end of a run says how many browser tests were skipped and how to install what they need.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

OpenWindow = Callable[..., Page]

INSTALL: Final = ".venv/bin/playwright install --with-deps chromium"
NO_CHROMIUM: Final = "no Chromium is installed"

_ARGUMENTS = (
    # A website that is not ours, and a name that someone else pointed here.
    "--host-resolver-rules=MAP evil.test 127.0.0.1",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """The system's Chromium or playwright's own; without either the test is skipped.

    While it runs, nothing else in this thread can use asyncio.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            if os.environ.get("VOICEAI_REQUIRE_BROWSER") == "1":
                pytest.fail(f"VOICEAI_REQUIRE_BROWSER is set and {NO_CHROMIUM}")
            pytest.skip(NO_CHROMIUM)
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that browser tests were skipped, and the one command that lets them run."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if NO_CHROMIUM in str(report.longrepr)
    ]
    if skipped:
        noun = "test was" if len(skipped) == 1 else "tests were"
        terminalreporter.write_line(
            f"{len(skipped)} browser {noun} skipped: {NO_CHROMIUM}. To run them: {INSTALL}",
            yellow=True,
        )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Closed with its module: its event loop runs in this thread, where Dagster's tests need none.
    expect.set_options(timeout=60_000)
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def open_window(chromium: Browser) -> Iterator[OpenWindow]:
    """Opens tabs. The test fails if one of them reports an error, refused content or a page that
    did not load."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def hear(said: ConsoleMessage) -> None:
        # Chromium's own remark where the test was quicker than the page's autofocus.
        if not said.text.startswith("Autofocus processing was blocked"):
            complaints.append(f"{said.type}: {said.text}")

    def complain(request: Request) -> None:
        # A stream ends with its page.
        if request.resource_type != "eventsource":
            complaints.append(f"failed: {request.url}")

    def opened(**options: object) -> Page:
        context = chromium.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", complain)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
