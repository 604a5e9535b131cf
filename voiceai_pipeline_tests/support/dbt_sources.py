"""docs/dbt's sources, from the views and their comments; run as a program it prints the file."""

import sys
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

import sqlalchemy as sa
import yaml

from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.database.tables import agents, call_logs, locations, sync_ledger
from voiceai_pipeline.database.view_sources import SCHEMA
from voiceai_pipeline.database.views import VIEWS, View

HOW_TO_WRITE_IT: Final = (
    "python -m voiceai_pipeline_tests.support.dbt_sources > docs/dbt/models/sources.yml"
)

_HEAD: Final = f"# Written by: {HOW_TO_WRITE_IT}\n"


def _key(table: sa.Table) -> tuple[str, ...]:
    return tuple(str(column.name) for column in table.primary_key)


_CALL: Final = _key(call_logs)

KEYS: Final[Mapping[str, tuple[str, ...]]] = {table.name: _key(table) for table in ALL_MARTS} | {
    "calls": (*_CALL, "user_id"),
    "all_calls": (*_CALL, "user_id"),
    "call_contents": _CALL,
    "captured_values": (*_CALL, "data_key"),
    "sync_days": _key(sync_ledger),
    "connections": ("user_id",),
    "agents": _key(agents),
    "locations": _key(locations),
    "action_shares": ("location_id", "day", "agent_id", "action_type", "action_name"),
    "data_capture_shares": ("location_id", "day", "agent_id", "data_key"),
}
"""The columns that together name one row of each view."""

_MAY_BE_NULL: Final = {("calls", "user_id"), ("all_calls", "user_id")}

_DAILY: Final = {
    "warn_after": {"count": 26, "period": "hour"},
    "error_after": {"count": 50, "period": "hour"},
}
_FRESHNESS: Final[Mapping[str, Mapping[str, Any]]] = {
    # A quiet weekend is no fault.
    "first_seen_at": {"warn_after": {"count": 3, "period": "day"}},
    "finished_at": _DAILY,
    "computed_at": _DAILY,
}
"""By the column that says when a row came: the last days are read and computed again each night."""


def dbt_sources() -> str:
    """The file: a source of the views without content, and one of those with content."""
    plain = [_table(view) for view in VIEWS if not view.is_content]
    content = [_table(view) for view in VIEWS if view.is_content]
    sources = [
        _source("voiceai", "What a login with voiceai_analyst reads.", plain),
        _source("voiceai_content", "What needs voiceai_analyst_content, too.", content),
    ]
    file = {"version": 2, "sources": sources}
    return _HEAD + yaml.safe_dump(file, sort_keys=False, allow_unicode=True, width=100)


def _source(name: str, description: str, tables: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "schema": SCHEMA, "description": description, "tables": tables}


def _table(view: View) -> dict[str, Any]:
    key = KEYS[view.name]
    found: dict[str, Any] = {"name": str(view.name), "description": view.comment}
    if view.name not in ("agents", "locations") and not view.is_content:
        at = next((name for name in _FRESHNESS if name in view.columns), None)
        if at:
            found["config"] = {"loaded_at_field": at, "freshness": deepcopy(_FRESHNESS[at])}
    if len(key) > 1:
        found["data_tests"] = [{"unique_together": {"arguments": {"columns": list(key)}}}]
    found["columns"] = [_column(view, name, key) for name in view.columns]
    return found


def _column(view: View, name: str, key: tuple[str, ...]) -> dict[str, Any]:
    column: dict[str, Any] = {"name": str(name), "description": view.columns[name]}
    if name in key and (view.name, name) not in _MAY_BE_NULL:
        column["data_tests"] = ["not_null"] + (["unique"] if len(key) == 1 else [])
    return column


if __name__ == "__main__":
    sys.stdout.write(dbt_sources())
