"""Names as hostile as they come on the pages of Dagster's UI, and a thousand generated texts, in
Chromium: seen as they were typed, and nothing is asked for on their behalf.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from playwright.sync_api import Page

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.defs import markdown, partitions
from voiceai_pipeline.defs.texts import SHOWN_AT_ONCE
from voiceai_pipeline.sandbox.calls import day_start_ms
from voiceai_pipeline.sandbox.cast import DemoUser, SandboxAgent, make_location
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web.server import listen, serve_in_thread
from voiceai_pipeline_tests.support.chromium import running_chromium
from voiceai_pipeline_tests.support.hostile_texts import REQUESTED, hostile_texts
from voiceai_pipeline_tests.support.product import Product

pytestmark = pytest.mark.acceptance


def hostile(whose: str) -> str:
    """A name that, taken for Markdown, asks for /probe, is bold, and links."""
    return f"{whose} ![x](/probe/{whose}) **b** | <img src=/probe/{whose}> www.evil.example"


LOCATION = replace(
    make_location("Shop", 1, "shop", "UTC", 4),
    name=hostile("location"),
    agents=(SandboxAgent("agent1", hostile("agent"), "+15550100101"),),
)
OWNER = DemoUser(str(UUID(int=1)), "A", "B", hostile("owner"), LOCATION.id, LOCATION.company_id)
STRANGER = DemoUser(str(UUID(int=2)), "C", "D", hostile("stranger"), None, "CoNone")


@pytest.fixture
def world() -> World:
    return World(users=(OWNER, STRANGER), locations=(LOCATION,))


@pytest.fixture
def recorded(product: Product) -> dict[str, str]:
    """A day as it is after a failed sync, and one with its marts; the ids of the runs."""
    product.connect(OWNER.business_name)
    calls = product.sandbox.world.calls
    start = day_start_ms(product.yesterday)
    for call in calls.outlines(LOCATION, start, start + 86_399_999):
        at = datetime.fromtimestamp(call.created_ms / 1000, UTC).isoformat()
        done = {
            "actionId": "a",
            "actionType": "SMS",  # the name of an unknown type is redacted
            "actionName": hostile("action"),
            "executedAt": at,
            "triggerReceivedAt": at,
        }
        calls.change(
            LOCATION.id,
            call.id,
            executedCallActions=[done],
            extractedData={hostile("key"): "yes"},
            transcript="bot:Hello\nhuman:Hi\nbot:Yes?\nhuman:Bye",
        )
    assert product.run("update_directory").success
    assert product.sync([product.yesterday]).success
    assert product.run("build_marts", partition_key=str(product.yesterday)).success
    product.instance.add_dynamic_partitions(partitions.USERS, [OWNER.id])
    assert product.run("inspect_connections").success
    product.sandbox.world.add_fault(Fault("server_error", LOCATION.id))
    red = product.sync([product.bad_day])
    assert not red.success
    return {"red": red.run_id}


@contextmanager
def webserver(instance: dg.DagsterInstance, *workspaces: str) -> Iterator[str]:
    workspace = WorkspaceFileTarget(list(workspaces))
    with WorkspaceProcessContext(instance, workspace) as context:
        app = create_app_from_workspace_process_context(context)
        with serve_in_thread(app, listen("127.0.0.1", 0), "webserver") as url:
            yield url


def seen(page: Page, *names: str) -> None:
    """Each name is on the page as it was typed, shortened at most."""
    for name in names:
        typed = hostile(name)[:60]
        page.wait_for_function(
            "typed => document.body.innerText.replaceAll('\u2060', '').replaceAll('\u00a0', ' ')"
            ".includes(typed)",
            arg=typed,
        )
    assert page.locator("img[src*=probe], a[href*=evil], a[href*=probe]").count() == 0
    assert page.locator("strong").get_by_text("b", exact=True).count() == 0


def test_hostile_names_are_seen_as_typed_and_ask_for_nothing(
    product: Product, recorded: dict[str, str]
) -> None:
    asked: list[str] = []
    with (
        webserver(product.instance, str(PROJECT / "workspace.yaml")) as url,
        running_chromium() as chromium,
        chromium.new_context(viewport={"width": 1600, "height": 1400}) as context,
    ):
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))

        day = f"?view=partitions&partition={product.yesterday}"
        page.goto(f"{url}/assets/sync_status?view=partitions&partition={product.bad_day}")
        seen(page, "owner", "stranger")
        page.goto(f"{url}/assets/user_tokens?view=partitions&partition={OWNER.id}")
        seen(page, "owner", "location")
        page.goto(f"{url}/assets/agent_performance{day}")
        seen(page, "agent")
        page.goto(f"{url}/assets/daily_call_metrics{day}")
        seen(page, "location")
        page.goto(f"{url}/assets/action_metrics{day}")
        seen(page, "action")
        page.goto(f"{url}/assets/data_capture_metrics{day}")
        seen(page, "key")
        checks = f"{url}/assets/call_logs?view=checks&checkDetail="
        page.goto(f"{checks}every_connected_user_is_complete")
        seen(page, "owner")
        page.goto(f"{checks}no_user_waits_for_a_person")
        seen(page, "stranger")
        page.goto(f"{url}/runs/{recorded['red']}")
        # Plain text, in which a backslash of the Markdown's would be seen.
        seen(page, "owner")
    assert [one for one in asked if "probe" in one or "evil" in one] == []


AT_ONCE = 100
"""Entries of metadata that the UI shows of a materialization; the others follow a click."""

PER_TABLE = 10

SHOWN = """
() => [...document.querySelectorAll('.dagster-markdown')].flatMap(one => {
    const cells = [...one.querySelectorAll('tbody td:last-child')];
    return (cells.length ? cells : [one]).map(cell => cell.textContent.replaceAll('\u2060', ''));
})
"""
"""What Markdown says on a page: the last cell of each row of a table, or all there is."""


def tables(texts: list[str]) -> list[str]:
    """The texts in tables so short that the UI shows them without a click."""
    parts = (texts[first : first + PER_TABLE] for first in range(0, len(texts), PER_TABLE))
    written = ["\n".join(markdown.table(["n", "text"], list(enumerate(part)))) for part in parts]
    assert max(map(len, written)) <= SHOWN_AT_ONCE
    return written


def test_a_thousand_hostile_texts_ask_for_nothing_and_are_seen_as_typed() -> None:
    texts = list(hostile_texts())
    alone = texts[:AT_ONCE]
    pages = {
        "tables": (tables(texts), texts),
        "alone": ([markdown.shown(text) for text in alone], alone),
    }
    first = f"seen {texts[0]}"
    asked: list[str] = []

    def of_a_text() -> list[str]:
        return [one for one in asked if "probe" in one or "evil" in one.lower()]

    with dg.instance_for_test() as instance:
        # Last the texts as they are, to see that the browser would ask.
        for name, (written, _) in {**pages, "raw": (alone, alone)}.items():
            entries = {f"e{n}": dg.MetadataValue.md(one) for n, one in enumerate(written)}
            instance.report_runless_asset_event(
                dg.AssetMaterialization(name, markdown.shown(first), entries)
            )
        with (
            webserver(instance) as url,
            running_chromium() as chromium,
            chromium.new_context() as context,
        ):
            context.set_default_timeout(30_000)
            page = context.new_page()
            page.on("request", lambda request: asked.append(request.url))
            for name, (written, typed) in pages.items():
                page.goto(f"{url}/assets/{name}?view=events")
                page.wait_for_function(
                    "count => document.querySelectorAll('.dagster-markdown').length === count",
                    arg=1 + len(written),
                )
                assert page.evaluate(SHOWN) == [cleaned(one) for one in (first, *typed)]
                assert page.evaluate(REQUESTED) == []
                assert of_a_text() == []
            page.goto(f"{url}/assets/raw?view=events")
            page.wait_for_function(f"() => ({REQUESTED})().length > 10")
            assert of_a_text()
