"""docs/superset-dashboard.zip: a dashboard over the views, in the form that Superset imports; run
as a program it writes the file."""

import io
import json
import sys
import zipfile
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID, uuid5

import sqlalchemy as sa
import yaml

from voiceai_pipeline.database.view_sources import SCHEMA
from voiceai_pipeline.database.views import VIEWS, View

HOW_TO_WRITE_IT: Final = (
    "python -m voiceai_pipeline_tests.support.superset_dashboard > docs/superset-dashboard.zip"
)

_OURS: Final = UUID("6d1f5f3e-3f0c-4f5e-9a55-7f6f69636561")
_VERSION: Final = "1.0.0"
_STAMP: Final = (2026, 1, 1, 0, 0, 0)
_DATABASE: Final = {
    "database_name": "voiceai",
    # Superset asks for what the mask hides.
    "sqlalchemy_uri": "postgresql+psycopg2://voiceai_sql:XXXXXXXXXX@127.0.0.1:15432/voiceai",
    "expose_in_sqllab": True,
    "extra": {"allows_virtual_table_explore": True},
}

_TIMES: Final = {"period_metrics": "first_day"}
"""The time column of a view, where it is not ``day``."""


def _metric(label: str, expression: str) -> dict[str, Any]:
    return {
        "expressionType": "SQL",
        "sqlExpression": expression,
        "label": label,
        "optionName": f"metric_{label.lower().replace(' ', '_')}",
        "hasCustomLabel": True,
    }


def _only(expression: str) -> dict[str, Any]:
    return {"expressionType": "SQL", "sqlExpression": expression, "clause": "WHERE"}


_CALLS: Final = _metric("Calls", "SUM(calls)")
_LAST_28_DAYS: Final = _only("day >= current_date - 28")

_CHARTS: Final[Mapping[str, tuple[str, str, dict[str, Any]]]] = {
    "Calls a day": (
        "daily_call_metrics",
        "echarts_timeseries_bar",
        {
            "x_axis": "day",
            "time_grain_sqla": "P1D",
            "metrics": [_CALLS],
            "groupby": ["location_name"],
            "stack": "Stack",
            "adhoc_filters": [_LAST_28_DAYS],
        },
    ),
    "How calls ended": (
        "outcome_metrics",
        "pie",
        {"groupby": ["outcome"], "metric": _CALLS, "adhoc_filters": [_LAST_28_DAYS]},
    ),
    "Agents": (
        "agent_performance",
        "table",
        {
            "query_mode": "aggregate",
            "groupby": ["agent_name", "agent_id"],
            "metrics": [
                _CALLS,
                _metric("Minutes", "SUM(talk_minutes)"),
                _metric("Goals", "SUM(goal_calls)"),
                _metric(
                    "Goal rate", "SUM(engaged_goal_calls)::float8 / NULLIF(SUM(engaged_calls), 0)"
                ),
            ],
            "adhoc_filters": [_LAST_28_DAYS],
        },
    ),
    "When people call": (
        "hourly_activity",
        "heatmap_v2",
        {
            "x_axis": "hour",
            "groupby": "weekday",
            "metric": _CALLS,
            "adhoc_filters": [_LAST_28_DAYS],
            "normalize_across": "heatmap",
            "sort_x_axis": "alpha_asc",
            "sort_y_axis": "alpha_desc",
        },
    ),
    "Callers by week": (
        "period_metrics",
        "echarts_timeseries_bar",
        {
            "x_axis": "first_day",
            "time_grain_sqla": "P1D",
            "metrics": [
                _metric("New", "SUM(new_callers)"),
                _metric("Returning", "SUM(returning_callers)"),
            ],
            "stack": "Stack",
            "adhoc_filters": [_only("period = 'week'")],
        },
    ),
    "Days that are not complete": (
        "sync_days",
        "table",
        {
            "query_mode": "raw",
            "all_columns": ["day", "user_name", "state", "message", "fix"],
            "adhoc_filters": [_only("state <> 'complete' AND day >= current_date - 28")],
        },
    ),
}
"""By title: view, kind of chart, and what it shows."""


def superset_dashboard() -> bytes:
    """The file, the same each time."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name, content in _files().items():
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            archive.writestr(zipfile.ZipInfo(f"voiceai/{name}", _STAMP), text)
    return found.getvalue()


def _files() -> dict[str, dict[str, Any]]:
    views = {view.name: view for view in VIEWS}
    shown = dict.fromkeys(view for view, _, _ in _CHARTS.values())
    return {
        "metadata.yaml": {
            "version": _VERSION,
            "type": "Dashboard",
            "timestamp": "2026-01-01T00:00:00+00:00",
        },
        "databases/voiceai.yaml": _DATABASE | _named("database"),
        **{f"datasets/voiceai/{name}.yaml": _dataset(views[name]) for name in shown},
        **{f"charts/{_file(title)}.yaml": _chart(title) for title in _CHARTS},
        "dashboards/voice_ai.yaml": {
            "dashboard_title": "Voice AI",
            "slug": None,
            "position": _position(),
            "metadata": {},
        }
        | _named("dashboard"),
    }


def _named(name: str) -> dict[str, str]:
    return {"uuid": _uuid(name), "version": _VERSION}


def _uuid(name: str) -> str:
    return str(uuid5(_OURS, name))


def _file(title: str) -> str:
    return title.lower().replace(" ", "_")


def _dataset(view: View) -> dict[str, Any]:
    time = _TIMES.get(view.name, "day")
    return {
        "table_name": str(view.name),
        "schema": SCHEMA,
        "description": view.comment,
        "main_dttm_col": time,
        "database_uuid": _uuid("database"),
        "metrics": [{"metric_name": "rows", "expression": "COUNT(*)"}],
        "columns": [
            {
                "column_name": str(column.name),
                "type": "DATE" if isinstance(column.type, sa.Date) else None,
                "is_dttm": isinstance(column.type, (sa.Date, sa.DateTime)),
                "description": view.columns[column.name],
            }
            for column in view.query.selected_columns
        ],
    } | _named(f"dataset {view.name}")


def _chart(title: str) -> dict[str, Any]:
    view, kind, params = _CHARTS[title]
    return {
        "slice_name": title,
        "viz_type": kind,
        "params": {"viz_type": kind, "row_limit": 1000, **params},
        "dataset_uuid": _uuid(f"dataset {view}"),
    } | _named(f"chart {title}")


def _position() -> dict[str, Any]:
    """The charts, two in a row."""
    titles = list(_CHARTS)
    rows = [titles[start : start + 2] for start in range(0, len(titles), 2)]
    found: dict[str, Any] = {
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": {"type": "ROOT", "id": "ROOT_ID", "children": ["GRID_ID"]},
        "GRID_ID": {
            "type": "GRID",
            "id": "GRID_ID",
            "children": [f"ROW-{n}" for n in range(len(rows))],
            "parents": ["ROOT_ID"],
        },
    }
    for n, row in enumerate(rows):
        parents = ["ROOT_ID", "GRID_ID"]
        ids = [f"CHART-{_file(title)}" for title in row]
        meta = {"background": "BACKGROUND_TRANSPARENT"}
        found[f"ROW-{n}"] = {
            "type": "ROW", "id": f"ROW-{n}", "children": ids, "parents": parents, "meta": meta,
        }  # fmt: skip
        for title, key in zip(row, ids, strict=True):
            found[key] = {
                "type": "CHART",
                "id": key,
                "children": [],
                "parents": [*parents, f"ROW-{n}"],
                "meta": {
                    "width": 6,
                    "height": 50,
                    "chartId": 0,
                    "sliceName": title,
                    "uuid": _uuid(f"chart {title}"),
                },
            }
    return json.loads(json.dumps(found))  # no aliases in the YAML


if __name__ == "__main__":
    sys.stdout.buffer.write(superset_dashboard())
