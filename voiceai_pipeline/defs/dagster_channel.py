"""Dagster's own UI as an alert channel, beside those of ``connections/alert_channels.py``."""

from dataclasses import dataclass
from typing import Final

import dagster as dg

from voiceai_pipeline.connections import alert_channels
from voiceai_pipeline.connections.alert_messages import Message
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.settings import AlertSettings
from voiceai_pipeline.defs.markdown import shown

DAGSTER: Final = "dagster"


@dataclass(frozen=True)
class DagsterEvents:
    """Sends an alert as a log line and an observation: of the user's partition, or of
    ``refreshed_credentials`` if the alert is about no single user."""

    context: dg.OpExecutionContext
    name: str = DAGSTER

    def send(self, message: Message) -> None:
        self.context.log_event(
            dg.AssetObservation(
                "user_tokens" if message.user_id else "refreshed_credentials",
                partition=str(message.user_id) if message.user_id else None,
                description=shown(message.headline),
                metadata={
                    "alert": dg.MetadataValue.text(message.text),
                    "connection_page": dg.MetadataValue.url(message.link),
                },
            )
        )
        self.context.log.warning(cleaned(message.headline))


def names(settings: AlertSettings) -> list[str]:
    """The names of all channels that alerts are delivered to."""
    return [DAGSTER, *(channel.name for channel in alert_channels.channels(settings))]
