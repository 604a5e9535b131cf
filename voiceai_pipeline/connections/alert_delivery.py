"""Tells people what ``connections.alerts`` holds for them: the words, the channels, and who knows.

A channel is told of a problem once when it begins and once when it ends. A notice is marked only
if its channel has taken it, so what fails is told the next time. Which problems there are is
decided where they arise, and when to deliver by whoever calls ``deliver``. Dagster's UI is a
channel as well, but one that ``defs/`` brings along.
"""

import contextlib
import hashlib
import http.client
import json
import logging
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts
from voiceai_pipeline.connections.alerts import Notice
from voiceai_pipeline.core.failures import FailureClass, for_user
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import AlertSettings, PageSettings
from voiceai_pipeline.core.settings_parsing import is_loopback
from voiceai_pipeline.core.unexpected import unexpected

log = logging.getLogger(__name__)

DIGEST_ABOVE: Final = 20
"""More notices at once than this become one message: what strikes a fleet sends no 500 mails."""

LINES: Final = 50
"""How many of its notices a digest names."""

TIMEOUT: Final = 10.0
"""Seconds that a channel may take for each step of taking a message."""

_NAME_LENGTH: Final = 80


class DeliveryError(Exception):
    """A channel did not take a message. Its text never holds an address, password or answer.

    Args:
        reason: what happened, a sentence without its full stop.
        fix: what to do, likewise.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}. Fix: {fix}.")


@dataclass(frozen=True)
class Message:
    """What a channel tells, in plain text.

    Attributes:
        id: the same however often the same is told, in ASCII letters, digits and dots.
        headline: one line.
        body: the lines below it.
        user_id: whom it is about; None for the whole app, and for several.
        link: the Connections page, where something can be done.
    """

    id: str
    headline: str
    body: tuple[str, ...]
    user_id: UUID | None
    link: str

    @property
    def text(self) -> str:
        return "\n".join((self.headline, *self.body))


class Channel(Protocol):
    """A way to reach people. ``name`` is what ``connections.alerts`` remembers it by."""

    @property
    def name(self) -> str: ...

    def send(self, message: Message) -> None:
        """Return once the message is taken.

        Raises:
            DeliveryError: it is not.
        """


@dataclass(frozen=True)
class Delivery:
    """What became of a channel's notices.

    Attributes:
        told: how many it took.
        kept: how many are told the next time.
        reasons: why, each with what to do.
    """

    channel: str
    told: int
    kept: int = 0
    reasons: tuple[str, ...] = ()


# Delivering --------------------------------------------------------------------------------------


def channels(settings: AlertSettings) -> list[Channel]:
    """The configured channels; nothing is connected yet."""
    found: list[Channel] = []
    if settings.webhook_url:
        found.append(Webhook(settings.webhook_url))
    if settings.email_to and settings.smtp_url:
        found.append(Email(settings.smtp_url, settings.email_from, settings.email_to))
    return found


def deliver(engine: sa.Engine, channel: Channel, page: PageSettings) -> Delivery:
    """Tell ``channel`` what it has not been told yet; a notice that fails stops no other."""
    with engine.begin() as db:
        notices = alerts.pending(db, channel.name)
    told, kept, reasons = 0, 0, dict[str, None]()
    for batch in _batches(notices):
        try:
            # Of two deliveries at once one tells, and what is not sent is not marked.
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
            # A bug in one channel silences no other.
            reasons[str(unexpected(error))] = None
        else:
            told += len(news)
            continue
        kept += len(batch)
    return Delivery(channel.name, told, kept, tuple(reasons))


def _batches(notices: Sequence[Notice]) -> list[Sequence[Notice]]:
    return [notices] if len(notices) > DIGEST_ABOVE else [[notice] for notice in notices]


# Words -------------------------------------------------------------------------------------------


def message_of(notice: Notice, page: PageSettings) -> Message:
    """One notice: who, what happened, since when, what to do, and where."""
    user_id = notice.user.id if notice.user else None
    link = page_link(page, user_id)
    if notice.moment == "closed":
        body = [f"Since {_utc(notice.at)}; nothing is left to do. {_what_comes_back(notice)}"]
    else:
        body = [
            f"Since {_utc(notice.at)}. {_what_it_costs(notice)}",
            f"What to do: {_fix(notice)}.",
        ]
    if notice.reason is FailureClass.DAGSTER_SILENT:
        body += [f"Dagster: {page.dagster_url}/deployment/daemons"]
    else:
        body += [f"Connection: {link}", f"Dagster: {dagster_link(page, user_id)}"]
    return Message(
        id=_id(notice),
        headline=headline(notice),
        body=tuple(body),
        user_id=user_id,
        link=link,
    )


def digest(notices: Sequence[Notice], page: PageSettings) -> Message:
    """Many notices in one message: how many of each kind, a line for each of the first fifty."""
    began = [notice for notice in notices if notice.moment == "opened"]
    ended = [notice for notice in notices if notice.moment == "closed"]
    # What concerns everybody explains the rest.
    first = sorted(notices, key=lambda notice: notice.user is not None)
    lines = [f"- {headline(notice)}, since {_utc(notice.at)}" for notice in first[:LINES]]
    rest = len(notices) - len(lines)
    link = page_link(page, None)
    ids = "/".join(_id(notice) for notice in notices)
    return Message(
        id=f"digest.{hashlib.sha256(ids.encode()).hexdigest()[:16]}",
        headline=f"{_count(began, 'problem')} began, {_count(ended, 'problem')} ended",
        body=(
            *lines,
            *([f"and {rest} more"] if rest else []),
            f"Who needs what: {link}",
            f"Dagster: {dagster_link(page, None)}",
        ),
        user_id=None,
        link=link,
    )


def headline(notice: Notice) -> str:
    """A notice in a line without its full stop."""
    said = notice.reason.explanation.message
    who = _name(notice)
    if notice.reason is FailureClass.DAGSTER_SILENT:
        ended = notice.moment == "closed"
        return "Dagster works again" if ended else f"Nothing is scheduled any more: {said}"
    if notice.moment == "closed":
        return f"{who} works again" if notice.user else "Tokens of all users are renewed again"
    if not notice.user:
        return f"Renewals of all users are suspended: {said}"
    if notice.reason is FailureClass.LOCATION_PAUSED:
        return f"{who} has been paused for so long that the connection will be lost"
    if not notice.reason.needs_action:
        return f"{who}: renewing the token keeps failing: {said}"
    return f"{who} needs a person: {said}"


def page_link(page: PageSettings, user_id: UUID | None) -> str:
    """Where a person mends it."""
    return f"{page.url}/users/{user_id}" if user_id else f"{page.url}/"


def dagster_link(page: PageSettings, user_id: UUID | None) -> str:
    """Where Dagster's UI shows the connection, or the renewals of everybody."""
    if user_id is None:
        return f"{page.dagster_url}/assets/refreshed_credentials"
    return f"{page.dagster_url}/assets/user_tokens?view=partitions&partition={user_id}"


def _id(notice: Notice) -> str:
    # With the time, because another database begins to count at 1 again.
    return f"{notice.alert_id}.{notice.moment}.{notice.at.timestamp():.0f}"


def _name(notice: Notice) -> str:
    """The business, on one line whatever was typed into it."""
    return cleaned(notice.user.name, _NAME_LENGTH) if notice.user else ""


def _fix(notice: Notice) -> str:
    fix = notice.reason.explanation.fix
    return for_user(fix, notice.user.id) if notice.user else fix


def _what_it_costs(notice: Notice) -> str:
    if notice.reason is FailureClass.DAGSTER_SILENT:
        return "No day is read and no token is renewed until it runs again; nothing is lost yet."
    if notice.user is None:
        return "No user has to reconnect; calls arrive as long as the tokens at hand are valid."
    if notice.reason is FailureClass.LOCATION_PAUSED:
        return (
            "HighLevel has paused the location (billing or agency). In less than 30 days the "
            "stored grant ends, and then the user has to reconnect."
        )
    if not notice.reason.needs_action:
        return "It is tried again by itself; calls arrive as long as the token at hand is valid."
    return "Until it is done no calls of this user arrive; then they are filled in by themselves."


def _what_comes_back(notice: Notice) -> str:
    if notice.reason is FailureClass.DAGSTER_SILENT:
        return "The next night reads the last days again; days before them show as missing."
    if notice.user is None:
        return "Renewals that were left out are made up for."
    return "Days that waited are filled in by themselves."


def _count(notices: Sequence[Notice], noun: str) -> str:
    return f"{len(notices)} {noun}{'s' * (len(notices) != 1)}"


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


# Channels ----------------------------------------------------------------------------------------


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Whoever knows the address can post there: it is given to nobody else."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True)
class Webhook:
    """Posts Slack-compatible JSON. Not by way of ``requests``, which logs the path of an address:
    here the path is the secret."""

    url: Secret
    name: str = "webhook"

    def send(self, message: Message) -> None:
        request = urllib.request.Request(  # noqa: S310 - http or https, the settings see to it
            self.url.reveal(),
            data=json.dumps({"text": _escaped(message.text)}).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "voiceai-pipeline"},
            method="POST",
        )
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            with opener.open(request, timeout=TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            error.close()
            raise _refused(error.code) from None
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(
                f"The webhook could not be reached ({_kind(error)})",
                "check the network and the host in VOICEAI_ALERT_WEBHOOK_URL; it is tried again "
                "by itself",
            ) from None


def _refused(status: int) -> DeliveryError:
    if 300 <= status < 400:
        return DeliveryError(
            f"The webhook answered with a redirect ({status}), which is not followed",
            "set VOICEAI_ALERT_WEBHOOK_URL to the address that it leads to",
        )
    if status == 429 or status >= 500:
        return DeliveryError(f"The webhook answered {status}", "wait; it is tried again by itself")
    return DeliveryError(
        f"The webhook refused the message ({status})",
        "see whether it still exists, and set VOICEAI_ALERT_WEBHOOK_URL to one that does",
    )


def _escaped(text: str) -> str:
    """Slack reads <...> as a link or as a call to everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True)
class Email:
    """Sends mail, encrypted on its way unless the server is on this machine."""

    url: Secret
    sender: str
    recipients: tuple[str, ...]
    name: str = "email"

    def send(self, message: Message) -> None:
        try:
            server = self._connect()
            try:
                refused = server.send_message(self._mail(message))
            finally:
                # The message is taken or refused by now; how the goodbye goes changes nothing.
                with contextlib.suppress(OSError, smtplib.SMTPException):
                    server.quit()
                server.close()
        except smtplib.SMTPAuthenticationError as error:
            raise DeliveryError(
                f"The mail server refused user and password ({error.smtp_code})",
                "correct them in VOICEAI_SMTP_URL",
            ) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            raise DeliveryError(
                f"The mail server refused every recipient ({', '.join(map(str, codes))})",
                "correct VOICEAI_ALERT_EMAIL_TO, or let the server relay for this sender",
            ) from None
        except smtplib.SMTPResponseException as error:
            raise DeliveryError(
                f"The mail server refused the message ({error.smtp_code})",
                "check VOICEAI_ALERT_EMAIL_FROM; it is tried again by itself",
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryError(
                f"The mail server could not be used ({_kind(error)})",
                "check the network and VOICEAI_SMTP_URL; it is tried again by itself",
            ) from None
        if refused:
            # Told again, those whom it has reached would get it twice.
            log.warning("the mail server refused %d of the recipients", len(refused))

    def _connect(self) -> smtplib.SMTP:
        parts = urlsplit(self.url.reveal())
        host, is_local = parts.hostname or "", is_loopback(parts.hostname or "")
        context = ssl.create_default_context()
        if is_local:
            # No certificate is made out to this machine's own address.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if parts.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                host, parts.port or 465, timeout=TIMEOUT, context=context
            )
        else:
            server = smtplib.SMTP(host, parts.port or 587, timeout=TIMEOUT)
        try:
            if parts.scheme == "smtp":
                server.ehlo()
                if server.has_extn("starttls"):
                    server.starttls(context=context)
                elif not is_local:
                    raise DeliveryError(
                        "The mail server offers no encryption",
                        "use one that offers STARTTLS, or smtps:// in VOICEAI_SMTP_URL",
                    )
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
        except BaseException:
            server.close()
            raise
        return server

    def _mail(self, message: Message) -> EmailMessage:
        domain = parseaddr(self.sender)[1].rpartition("@")[2] or "localhost"
        mail = EmailMessage()
        mail["Subject"] = f"[voiceai_pipeline] {message.headline}"
        mail["From"] = self.sender
        mail["To"] = ", ".join(self.recipients)
        mail["Date"] = format_datetime(datetime.now(UTC))
        # The same when it is sent again: mail programs then show it once.
        mail["Message-ID"] = f"<{message.id}@{domain}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text + "\n")
        return mail


def _kind(error: Exception) -> str:
    """What went wrong, without the text of the error, which may quote an address."""
    reason = getattr(error, "reason", error)
    return type(reason if isinstance(reason, Exception) else error).__name__
