"""dlt's ``rest_api`` source, tuned: the obvious alternative. docs/performance.md
says what was tried and what each setting gave.

Imported by the contender's process only, since dlt is no dependency of the product or its tests.
"""

import os
import re
from collections.abc import Callable
from typing import Any

import dlt
from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator
from dlt.sources.rest_api import rest_api_source
from dlt.sources.rest_api.typing import RESTAPIConfig
from requests import Response

from benchmarks.contenders import Job
from benchmarks.figures import Figures, measured
from benchmarks.server import PATH
from benchmarks.world import PAGE_SIZE, location_id, request_headers

SETTINGS = {
    "EXTRACT__WORKERS": "16",
    "EXTRACT__MAX_PARALLEL_ITEMS": "64",
    "NORMALIZE__WORKERS": "1",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "LOAD__DELETE_COMPLETED_JOBS": "true",
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    "RUNTIME__DLTHUB_TELEMETRY": "false",
}


class _UntilTotal(PageNumberPaginator):
    """Ends with the page that holds the last call, which saves the request for an empty one."""

    def update_state(self, response: Response, data: list[Any] | None = None) -> None:
        super().update_state(response, data)
        # The total comes first, so the page need not be parsed a second time.
        found = re.search(rb'"total":(\d+)', response.content[:64])
        total = int(found[1]) if found else 0
        self._has_next_page = self.current_value <= -(-total // PAGE_SIZE)


def load(job: Job) -> Figures:
    """Load with one resource per location, all into one table, merged by key."""
    os.environ.update(SETTINGS)
    start, end = job.epoch_ms
    with measured() as figures:
        config: RESTAPIConfig = {
            "client": {"base_url": job.api_url},
            "resource_defaults": {
                "table_name": "call_logs",
                "primary_key": ["location_id", "id"],
                "write_disposition": {"disposition": "merge", "strategy": "upsert"},
                "max_table_nesting": 0,
                "columns": {
                    "location_id": {"data_type": "text"},
                    "created_at": {"data_type": "timestamp"},
                    "duration": {"data_type": "double"},
                },
            },
            "resources": [_resource(number, start, end) for number in range(job.locations)],
        }
        pipeline = dlt.pipeline(
            pipeline_name="bench",
            dataset_name="bench",
            destination=dlt.destinations.postgres(_complete(job.database_url)),
        )
        # ``parallelized`` of a resource is silently ignored in 1.31; that of the source is not.
        source = rest_api_source(config, name="highlevel", parallelized=True)
        pipeline.run(source, loader_file_format="csv")
    return figures


def _resource(number: int, start: int, end: int) -> Any:
    return {
        "name": f"calls_{number}",
        "endpoint": {
            "path": PATH,
            "params": {
                "locationId": location_id(number),
                "startDate": start,
                "endDate": end,
                "sortBy": "createdAt",
                "sort": "ascend",
                "pageSize": PAGE_SIZE,
            },
            "headers": request_headers(number),
            "data_selector": "callLogs",
            "paginator": _UntilTotal(base_page=1, page_param="page", total_path=None),
        },
        "processing_steps": [{"map": _belonging_to(location_id(number))}],
    }


def _belonging_to(location: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda item: item | {"location_id": location}


def _complete(url: str) -> str:
    """dlt requires a password and a host; libpq still uses the socket that the query names."""
    return url.replace("+psycopg", "").replace("@/", ":none@localhost/")
