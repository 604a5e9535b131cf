"""The pages on a real socket, with what stands behind them: a database, the sandbox, and a stand-in
for Dagster's webserver.

Fixtures that open one are in ``web/conftest.py``.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from socket import socket
from uuid import UUID

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.pipeline import Pipeline
from voiceai_pipeline.sandbox.cast import DEMO_LOCATIONS, make_location
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web.app import create_app
from voiceai_pipeline.web.server import serve_in_thread
from voiceai_pipeline.web.site import Site
from voiceai_pipeline.web.sync_watch import watching
from voiceai_pipeline_tests.support.dagster_stand_in import DagsterStandIn
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.visitor import Visitor

API_KEY = "test-api-key-0123456789"

HARBOR = UUID(DEMO["Harbor Dental"].id)
MAPLE = UUID(DEMO["Maple Plumbing"].id)
CEDAR = UUID(DEMO["Cedar Vets"].id)
AGENCY = UUID(DEMO["Northwind Agency"].id)


def agency_world() -> World:
    """An agency with two locations, one of which is its demo user's."""
    motors = next(p for p in DEMO_LOCATIONS if p.id == DEMO["Northwind Agency"].location_id)
    vans = make_location("Northwind Vans", 50, "motors", "Europe/Berlin", 3)
    return World(locations=(motors, replace(vans, company_id=motors.company_id)))


@dataclass
class Installation:
    """Running pages at ``url``, and their parts."""

    url: str
    site: Site
    sandbox: RunningSandbox
    dagster: DagsterStandIn

    @property
    def pipeline(self) -> Pipeline:
        return self.site.pipeline

    def add(self, *names: str) -> list[UUID]:
        """Add demo users, none of them connected."""
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

    def end_runs(self) -> None:
        """Let every launched run have ended well, and the pages know."""
        self.dagster.statuses |= dict.fromkeys(self.dagster.run_ids, "SUCCESS")
        self.site.watch.look()

    @property
    def exchanges(self) -> int:
        """How many codes were sent to HighLevel."""
        return sum(r.grant_type == "authorization_code" for r in self.sandbox.requests)

    def visitor(self, **headers: str) -> Visitor:
        return Visitor(self.url, headers)

    def connect(self, user_id: UUID) -> Connection:
        """Connect as in a browser: the button, the authorize page, the callback."""
        with self.visitor() as visitor:
            visitor.connect(user_id)
        return self.connection(user_id)


Open = Callable[..., AbstractContextManager[Installation]]
"""Opens an installation, with environment variables that differ from the usual ones."""


@contextmanager
def running(
    site: Site, listener: socket, sandbox: RunningSandbox, dagster: DagsterStandIn
) -> Iterator[Installation]:
    """Serve the pages in a background thread."""
    with (
        watching(site.watch),
        serve_in_thread(
            create_app(site), listener, "page", stopping=site.watch.end, websockets=True
        ) as url,
    ):
        yield Installation(url, site, sandbox, dagster)
