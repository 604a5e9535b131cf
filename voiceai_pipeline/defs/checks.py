"""The check on ``user_tokens``: whether somebody has to do something about a connection.

It can be executed alone, and it is recorded whenever connections are (``assets.py``). The checks of
``call_logs`` are recorded by the sync itself and live with it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.defs import metadata
from voiceai_pipeline.models import Connection, ConnectionState
from voiceai_pipeline.storage import connections, token_rows

NAME: Final = "no_connection_needs_a_person"


@dg.asset_check(
    asset="user_tokens",
    name=NAME,
    description="No user has to reconnect, no location is paused, and no renewal keeps failing.",
)
def no_connection_needs_a_person(
    database: dg.ResourceParam[sa.Engine],
) -> dg.AssetCheckResult:
    with database.begin() as db:
        return outcome(connections.everyone(db))


def outcome(people: Sequence[Connection]) -> dg.AssetCheckResult:
    """The check's result for ``people``: a warning at most, for a rerun cannot help."""
    in_need = [person for person in people if _needs_person(person)]
    states = Counter(person.status for person in people)
    return dg.AssetCheckResult(
        asset_key="user_tokens",
        check_name=NAME,
        passed=not in_need,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(in_need)} of {len(people)} users need a person:\n\n"
        f"{metadata.connections_text(in_need)}"
        if in_need
        else "No connection needs a person.",
        metadata={
            "need_a_person": len(in_need),
            **{state.value: count for state, count in sorted(states.items())},
        },
    )


def evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """The same for an op that is not the check: Dagster takes it as an event of the run."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("user_tokens"),
        check_name=NAME,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )


def _needs_person(connection: Connection) -> bool:
    """Whoever was disconnected by hand, or has never been connected, needs nobody: that may be
    what is wanted."""
    return (
        connection.state in (ConnectionState.NEEDS_RECONNECT, ConnectionState.PAUSED)
        or connection.failed_attempts >= token_rows.ATTENTION_AFTER
    )
