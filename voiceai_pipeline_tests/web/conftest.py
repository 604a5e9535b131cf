"""The page on a real socket, before a real database and the sandbox in real time, with a stand-in
for Dagster's webserver; and Chromium to look at it.
"""

import base64
import html
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.pipeline import Pipeline, open_pipeline
from voiceai_pipeline.sandbox import server as sandbox_server
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web.server import ACTOR, RunningPage, open_site, running
from voiceai_pipeline.web.serving import listen
from voiceai_pipeline_tests.conftest import DEMO, KEYS
from voiceai_pipeline_tests.support.dagster_stand_in import DagsterStandIn

API_KEY = "test-api-key-0123456789"
PASSWORD = "correct horse battery"

HARBOR = UUID(DEMO["Harbor Dental"].id)
AGENCY = UUID(DEMO["Northwind Agency"].id)


@pytest.fixture(scope="session")
def cleaner() -> Iterator[Executor]:
    """Stops servers while the next test begins."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def world() -> World:
    """A HighLevel in real time: browsers have no other."""
    return World()


@pytest.fixture
def sandbox(world: World, cleaner: Executor) -> Iterator[RunningSandbox]:
    stack = ExitStack()
    yield stack.enter_context(sandbox_server.running(world, limits=False))
    cleaner.submit(stack.close)


@pytest.fixture
def dagster() -> Iterator[DagsterStandIn]:
    with DagsterStandIn() as stand_in:
        yield stand_in


@dataclass
class Installation:
    """A page with what stands behind it."""

    url: str
    pipeline: Pipeline
    sandbox: RunningSandbox
    dagster: DagsterStandIn
    running: RunningPage

    def add(self, *names: str) -> list[UUID]:
        """Add demo users, nobody connected."""
        users = [DEMO[name] for name in names]
        with self.pipeline.engine.begin() as db:
            for user in users:
                connections.add_user(db, UUID(user.id), business_name=user.business_name)
        return [UUID(user.id) for user in users]

    def connection(self, user_id: UUID) -> Connection:
        with self.pipeline.engine.begin() as db:
            found = connections.one(db, user_id)
        assert found is not None
        return found

    def visitor(self, **headers: str) -> "Visitor":
        return Visitor(self.url, headers)

    def connect(self, user_id: UUID) -> Connection:
        """Connect as a person does: the button, the authorize page, back to the page."""
        with self.visitor() as visitor:
            visitor.connect(user_id)
        return self.connection(user_id)


Open = Callable[..., AbstractContextManager[Installation]]


@pytest.fixture
def open_page(
    database: Secret, sandbox: RunningSandbox, dagster: DagsterStandIn, tmp_path: Path
) -> Open:
    """Opens a page with more settings than the usual ones."""

    @contextmanager
    def opened(**more: str) -> Iterator[Installation]:
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        env = {
            "VOICEAI_HOME": str(tmp_path / "home"),
            "VOICEAI_DATABASE_URL": database.reveal(),
            "VOICEAI_TOKEN_KEYS": f"test:{base64.b64encode(KEYS['test']).decode()}",
            "HIGHLEVEL_AUTH_URL": f"{sandbox.url}/v2/oauth/chooselocation",
            "HIGHLEVEL_TOKEN_URL": f"{sandbox.url}/oauth/token",
            "HIGHLEVEL_API_URL": sandbox.url,
            "VOICEAI_PAGE_PORT": str(port),
            "VOICEAI_DAGSTER_URL": dagster.url,
            "VOICEAI_API_KEY": API_KEY,
            **more,
        }
        settings = Settings.load(env)
        with ExitStack() as stack:
            pipeline = stack.enter_context(open_pipeline(settings, actor=Actor(ACTOR)))
            site = open_site(settings, pipeline)
            page = stack.enter_context(running(site, listener))
            yield Installation(page.url, pipeline, sandbox, dagster, page)

    return opened


@pytest.fixture
def installation(open_page: Open) -> Iterator[Installation]:
    with open_page() as installation:
        yield installation


# A person without a browser ----------------------------------------------------------------------


@dataclass
class Visitor:
    """Opens pages and sends their forms, as a browser would."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    session: requests.Session = field(default_factory=requests.Session)

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def get(self, path: str = "/", *, follow: bool = True) -> requests.Response:
        return self.session.get(
            self._absolute(path), headers=self.headers, allow_redirects=follow, timeout=30
        )

    def post(
        self, path: str, fields: dict[str, str] | None = None, *, token: str | None = None,
        follow: bool = True, **headers: str,
    ) -> requests.Response:  # fmt: skip
        """Send a form; with the token of the page at ``/`` unless another is given."""
        token = self.token() if token is None else token
        return self.session.post(
            self._absolute(path),
            data={"form_token": token, **(fields or {})},
            headers={**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}},
            allow_redirects=follow,
            timeout=30,
        )

    def token(self, path: str = "/") -> str:
        found = re.search(r'name="form_token" value="([^"]+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def begin(self, user_id: UUID, back: str = "/") -> str:
        """Press Connect; the authorize page's address, to which the answer leads."""
        answer = self.post(f"/users/{user_id}/connect", {"back": back}, follow=False)
        found = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', answer.text)
        assert found is not None, answer.text
        return html.unescape(found[1])

    def allow(self, authorize_url: str, target: str = "") -> str:
        """Give consent on the sandbox's page; the callback's address."""
        opened = self.session.get(authorize_url, timeout=30)
        form = _AuthorizeForm()
        form.feed(opened.text)
        answer = self.session.post(
            requests.compat.urljoin(opened.url, form.action),
            data={"target": target or form.checked, "action": "allow"},
            allow_redirects=False,
            timeout=30,
        )
        return answer.headers["Location"]

    def connect(self, user_id: UUID, target: str = "") -> requests.Response:
        return self.get(self.allow(self.begin(user_id), target))

    def log_in(self, password: str = PASSWORD, **fields: str) -> requests.Response:
        return self.post(
            "/login", {"password": password, **fields}, token=self.token("/login"), follow=False
        )

    def _absolute(self, path: str) -> str:
        return path if path.startswith("http") else self.url + path


class _AuthorizeForm(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.checked = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.action = found.get("action") or ""
        if tag == "input" and "checked" in found:
            self.checked = found.get("value") or ""


def unsigned(cookie: str) -> str:
    """What anybody can read in a signed cookie."""
    compressed, payload = cookie.startswith("."), cookie.lstrip(".").partition(".")[0]
    raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    return (zlib.decompress(raw) if compressed else raw).decode()


# A browser ---------------------------------------------------------------------------------------


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none. Nothing in this thread can use asyncio
    meanwhile."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("VOICEAI_REQUIRE_BROWSER") == "1":
            pytest.fail("VOICEAI_REQUIRE_BROWSER is set and there is no chromium")
        pytest.skip("there is no chromium on this machine")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    # Closed with its module: its event loop runs in this thread, where Dagster's tests need none.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def open_window(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens tabs. The test fails if one of them complained: of errors, refused content, a page that
    did not load."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def hear(said: ConsoleMessage) -> None:
        # Chromium's own remark where the test was quicker than the page's autofocus.
        if not said.text.startswith("Autofocus processing was blocked"):
            complaints.append(f"{said.type}: {said.text}")

    def opened(**options: object) -> Page:
        context = chromium.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
