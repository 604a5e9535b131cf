"""A user's pause: an operator has stopped the syncs, and the connection stays alive.

HighLevel pauses locations, too: that is a state of the connection (``core/connection.py``).
"""

from dataclasses import dataclass
from datetime import datetime

from voiceai_pipeline.core.failures import FailureClass, PipelineError


@dataclass(frozen=True)
class Pause:
    """Since when (UTC), by whom and why nothing of a user is read.

    Attributes:
        by: the actor, as in the history.
        reason: one line that the operator entered; empty if none. Not for logs, nor for Dagster.
    """

    since: datetime
    by: str
    reason: str = ""

    @property
    def error(self) -> PipelineError:
        """What a read of the user's calls fails with."""
        return PipelineError(FailureClass.SYNC_PAUSED, f"since {self.since:%Y-%m-%d %H:%M} UTC")
