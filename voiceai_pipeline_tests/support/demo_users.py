"""The sandbox's users: who they are, and connecting them as a browser would."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import requests
import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.cast import DEMO_USERS, DemoUser
from voiceai_pipeline.sandbox.demo import authorize

DEMO = {user.business_name: user for user in DEMO_USERS}
"""The sandbox's users by name, such as ``DEMO["Harbor Dental"]``."""


@dataclass
class Connector:
    """Adds the sandbox's users to the database and connects them as a browser would."""

    engine: sa.Engine
    client: HighLevelClient
    consent: Consent
    browser: requests.Session = field(default_factory=requests.Session)
    users: Mapping[str, DemoUser] = field(default_factory=lambda: DEMO)

    def add(self, *names: str) -> list[UUID]:
        users = [self.users[name] for name in names or self.users]
        with self.engine.begin() as db:
            for user in users:
                connections.add_user(db, UUID(user.id), business_name=user.business_name)
        return [UUID(user.id) for user in users]

    def code(self, user: DemoUser) -> Secret:
        callback = authorize(self.browser, self.client.authorize_url("state"), user.installs_on)
        return Secret(parse_qs(urlsplit(callback).query)["code"][0])

    def __call__(self, name: str) -> Connection:
        (user_id,) = self.add(name)
        return self.consent.connect(user_id, self.code(self.users[name]))
