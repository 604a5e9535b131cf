"""Reads a location that several users share, with the credentials of any one of them.

Failures of a single user's credentials are listed in ``core/failures.py``; any other 401 or 403 may
be one too. The caller decides what to read and what to do with it.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import (
    CREDENTIAL_FAILURES,
    PROVIDER_FAILURES,
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.highlevel.errors import HighLevelError

T = TypeVar("T")


class AllRefusedError(PipelineError):
    """No user's credentials can read the location; class and detail are the last user's."""


def read_with_any(
    users: Iterable[Connection],
    request: Callable[[Connection], T],
    refused: dict[UUID, PipelineError] | None = None,
) -> T:
    """The result of ``request`` for the first user whose credentials work, tried in order.

    Args:
        refused: users whose credentials have failed, and why; they are skipped, and new refusals
            are added.

    Raises:
        AllRefusedError: all users were refused; NO_CONNECTION if there is no user.
        PipelineError: a failure that another user's credentials would not avoid, raised at once;
            or the last refusal, if it may be about the location or the request.
    """
    refused = {} if refused is None else refused
    last = PipelineError(FailureClass.NO_CONNECTION)
    for connection in users:
        if connection.user.id in refused:
            last = refused[connection.user.id]
            continue
        try:
            return request(connection)
        except PipelineError as error:
            if not _is_about_the_user(error):
                raise
            refused[connection.user.id] = last = error
    if last.failure not in CREDENTIAL_FAILURES:
        raise last  # it may be about the location or the request after all
    raise AllRefusedError(last.failure, last.detail)


def _is_about_the_user(error: PipelineError) -> bool:
    """Whether another user's credentials may help. HighLevel words a 401 or 403 in many ways; only
    a pause and an outage are known to affect all users alike."""
    return error.failure in CREDENTIAL_FAILURES or (
        isinstance(error, HighLevelError)
        and error.status in (401, 403)
        and error.failure not in PROVIDER_FAILURES | {FailureClass.LOCATION_PAUSED}
    )
