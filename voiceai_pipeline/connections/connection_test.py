"""Tests a connection: reads one page of calls with it, and records the result.

Its token comes from ``tokens.py``, which refreshes it first if that is due.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.queries import stored_connection
from voiceai_pipeline.core.connection import Connection, missing_scopes
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import read_clock
from voiceai_pipeline.highlevel.calls import value_of
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.published_shape import Drift, drift_of


@dataclass(frozen=True)
class Check:
    """The result of testing a connection against HighLevel's API.

    Attributes:
        failure: None if calls can be read.
        missing_scopes: scopes that are needed and were not granted.
        drift: how the calls that were read differ from the schema that HighLevel publishes.
    """

    connection: Connection
    failure: PipelineError | None
    missing_scopes: tuple[str, ...]
    drift: Drift


@dataclass(frozen=True)
class ConnectionTest:
    """Tests connections.

    Attributes:
        actor: recorded in the history.
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    engine: sa.Engine
    client: HighLevelClient
    actor: Actor
    now: Callable[[], datetime] | None

    def run(self, user_id: UUID, spend: Callable[[Callable[[Secret], Drift]], Drift]) -> Check:
        """Test a user's connection and record the result.

        Args:
            spend: makes a request with a valid token of the user.

        Raises:
            UnknownUserError: there is no such user.
        """
        failure: PipelineError | None = None
        drift = Drift()
        try:
            drift = spend(lambda token: self._read_a_page(user_id, token))
        except PipelineError as error:
            failure = error
        connection = stored_connection(self.engine, user_id, self.now)
        with self.engine.begin() as db:
            history.record(
                db,
                TokenEvent.TESTED,
                at=read_clock(db, self.now),
                actor=self.actor,
                user_id=user_id,
                state=connection.state,
                reason=failure.failure if failure else None,
                detail=failure.detail if failure else "; ".join(_findings(drift)),
            )
        return Check(connection, failure, missing_scopes(connection.scope), drift)

    def _read_a_page(self, user_id: UUID, token: Secret) -> Drift:
        with self.engine.begin() as db:
            connection = connections.one(db, user_id)
            now = read_clock(db, self.now)
        if connection is None or connection.location_id is None:
            raise PipelineError(FailureClass.NO_LOCATION)
        self.client.limits.forget_day(connection.location_id)
        page = self.client.call_logs_page(
            token, connection.location_id, now - timedelta(days=1), now, page=1
        )
        return drift_of(map(value_of, page.items))


def _findings(drift: Drift) -> list[str]:
    return ["calls can be read", *([str(drift)] if drift else [])]
