"""Delivers pending alerts to a channel.

A notice is marked as delivered only after the channel has accepted it, so the next delivery sends a
failed one again. Which alerts exist is in ``alerts.py``; the caller decides when to deliver.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts
from voiceai_pipeline.connections.alert_channels import Channel, DeliveryError
from voiceai_pipeline.connections.alert_messages import digest, message_of
from voiceai_pipeline.connections.alerts import Notice
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.core.unexpected import unexpected

DIGEST_ABOVE: Final = 20
"""More notices than this are sent as one message: 500 users' problem must not send 500 mails."""


@dataclass(frozen=True)
class Delivery:
    """The result of a delivery to one channel.

    Attributes:
        delivered: number of notices that the channel accepted.
        kept: number of notices left for the next delivery.
        reasons: why they were not accepted, each with its fix.
    """

    channel: str
    delivered: int
    kept: int = 0
    reasons: tuple[str, ...] = ()


def deliver(engine: sa.Engine, channel: Channel, page: PageSettings) -> Delivery:
    """Deliver the notices that ``channel`` has not received; a failure does not stop the others."""
    with engine.begin() as db:
        notices = alerts.pending(db, channel.name)
    delivered, kept, reasons = 0, 0, dict[str, None]()
    for batch in _batches(notices):
        try:
            # With the lock, two deliveries run one after the other. What fails is not marked.
            with engine.begin() as db:
                alerts.lock_channel(db, channel.name)
                news = [one for one in batch if not alerts.is_delivered(db, one, channel.name)]
                if news:
                    is_one = len(news) == 1
                    channel.send(message_of(news[0], page) if is_one else digest(news, page))
                for one in news:
                    alerts.mark_delivered(db, one, channel.name)
        except DeliveryError as error:
            reasons[str(error)] = None
        except Exception as error:
            # A bug in one channel must not silence the others.
            reasons[str(unexpected(error))] = None
        else:
            delivered += len(news)
            continue
        kept += len(batch)
    return Delivery(channel.name, delivered, kept, tuple(reasons))


def _batches(notices: Sequence[Notice]) -> list[Sequence[Notice]]:
    return [notices] if len(notices) > DIGEST_ABOVE else [[notice] for notice in notices]
