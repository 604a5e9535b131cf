"""A user's pause: an operator has stopped the user's syncs; the connection stays alive.

HighLevel can pause a location too; that is a state of the connection (``core/connection.py``).
"""

from dataclasses import dataclass
from datetime import datetime

from voiceai_pipeline.core.failures import FailureClass, PipelineError


@dataclass(frozen=True)
class Pause:
    """Since when (UTC), by whom and why a user's calls are not read.

    Attributes:
        by: the actor, as in the history.
        reason: one line that the operator entered; empty if none. Not for logs, nor for Dagster.
    """

    since: datetime
    by: str
    reason: str = ""

    @property
    def error(self) -> PipelineError:
        """The error with which a read of the user's calls fails."""
        return PipelineError(FailureClass.SYNC_PAUSED, f"since {self.since:%Y-%m-%d %H:%M} UTC")
