"""The requests that the sandbox received, without their secrets."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RecordedRequest:
    """One request that was answered or cut off (status 0), without its secrets."""

    n: int
    method: str
    path: str
    location_id: str | None
    status: int
    query: Mapping[str, str]
    version: str | None
    grant_type: str | None
    fault: str | None
    at: dt.datetime
