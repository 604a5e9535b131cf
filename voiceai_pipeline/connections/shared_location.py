"""A location that several users share: reading it with the credentials of any one of them.

Which failures are about a single user's credentials is in ``core/failures.py``; what is read, and
what becomes of it, is up to the caller.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import CREDENTIAL_FAILURES, FailureClass, PipelineError

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
        AllRefusedError: every user was refused; NO_CONNECTION if there is no user.
        PipelineError: a failure that another user's credentials would not avoid; it is raised at
            once.
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
            if error.failure not in CREDENTIAL_FAILURES:
                raise
            refused[connection.user.id] = last = error
    raise AllRefusedError(last.failure, last.detail)
