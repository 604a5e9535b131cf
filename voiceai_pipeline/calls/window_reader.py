"""Reads a window of one location, with one user's credentials, into an ``Intake``.

``window_sync`` and ``hinted_sync`` decide which windows are read, with whose credentials, and what
happens to the result.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.calls.lease import Lease
from voiceai_pipeline.connections.spender import RowAhead
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.highlevel.calls import Page
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.window import WindowRead, read_window


class Reading:
    """The calls of a read in progress; a restart discards them.

    Attributes:
        calls: takes in the calls read so far.
    """

    def __init__(self, new_calls: Callable[[], Intake]) -> None:
        self._new_calls = new_calls
        self.calls = new_calls()

    def start(self) -> Callable[[Sequence[ListedCall]], None]:
        """Start or restart; returns the function that takes the read's calls."""
        self.close()
        self.calls = self._new_calls()
        return self.calls.take

    def close(self) -> None:
        """Delete the temporary files."""
        self.calls.close()


def read_with(
    tokens: Tokens,
    client: HighLevelClient,
    user_id: UUID,
    location_id: str,
    window: Window,
    reading: Reading,
    lease: Lease,
    ahead: RowAhead | None = None,
) -> WindowRead:
    """Read a window completely into ``reading``.

    Args:
        ahead: the user's token row, if it was read ahead.

    Raises:
        LeaseLostError: the lease expired.
        PipelineError: as in ``Tokens.spend`` and ``read_window``.
    """
    spend = tokens.spender(user_id, ahead)

    def fetch(start: datetime, end: datetime, page: int) -> Page:
        with lease.requesting():
            return spend(lambda token: client.call_logs_page(token, location_id, start, end, page))

    read = read_window(fetch, window, reading.start)
    reading.calls.finish(window.end, read.set_aside)
    return read
