"""Testing a connection: read one page of calls with it, and record the result."""

from dataclasses import dataclass

from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.highlevel.published_shape import Drift


@dataclass(frozen=True)
class Check:
    """The outcome of testing a connection for real.

    Attributes:
        failure: None if calls can be read with it.
        missing_scopes: needed and not granted.
        drift: how the calls read differ from the shape that HighLevel publishes.
    """

    connection: Connection
    failure: PipelineError | None
    missing_scopes: tuple[str, ...]
    drift: Drift


def _also(drift: Drift) -> str:
    return f"; {drift}" if drift else ""
