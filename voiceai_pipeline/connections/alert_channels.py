"""Channels that send alerts: a webhook and e-mail. Sending returns once the message is accepted.

Dagster's UI is a channel too; it is in ``defs/``.
"""

import contextlib
import http.client
import json
import logging
import smtplib
import ssl
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from voiceai_pipeline.connections.alert_messages import Message
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import AlertSettings
from voiceai_pipeline.core.settings_parsing import is_local, is_loopback

log = logging.getLogger(__name__)

TIMEOUT: Final = 10.0
"""Seconds that each step of a delivery may take."""


class DeliveryError(Exception):
    """A channel did not accept a message. The text never holds an address, password or response.

    Args:
        reason: what happened, as a sentence without a full stop.
        fix: what to do, in the same form.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}. Fix: {fix}.")


class Channel(Protocol):
    """A way to send alerts. ``name`` identifies it in ``connection_alerts``."""

    @property
    def name(self) -> str: ...

    def send(self, message: Message) -> None:
        """Send a message; return once it is accepted.

        Raises:
            DeliveryError: it is not accepted.
        """


# Delivering --------------------------------------------------------------------------------------


def channels(settings: AlertSettings) -> list[Channel]:
    """The configured channels. Nothing is connected yet."""
    found: list[Channel] = []
    if settings.webhook_url:
        found.append(Webhook(settings.webhook_url))
    if settings.email_to and settings.smtp_url:
        found.append(Email(settings.smtp_url, settings.email_from, settings.email_to))
    return found


# Channels ----------------------------------------------------------------------------------------


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the address is a secret, which no other server may learn."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True)
class Webhook:
    """Posts Slack-compatible JSON. Not with ``requests``, which logs a URL's path: here that is the
    secret."""

    url: Secret
    name: str = "webhook"

    def send(self, message: Message) -> None:
        request = urllib.request.Request(  # noqa: S310 - http or https, the settings see to it
            self.url.reveal(),
            data=json.dumps({"text": _escaped(message.text)}).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "voiceai-pipeline"},
            method="POST",
        )
        direct = [urllib.request.ProxyHandler({})] if is_local(self.url.reveal()) else []
        opener = urllib.request.build_opener(_NoRedirects, *direct)
        try:
            with opener.open(request, timeout=TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            error.close()
            raise _refused(error.code) from None
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(
                f"The webhook could not be reached ({_kind(error)})",
                "check the network and the host in VOICEAI_ALERT_WEBHOOK_URL; it is retried "
                "automatically",
            ) from None


def _refused(status: int) -> DeliveryError:
    if 300 <= status < 400:
        return DeliveryError(
            f"The webhook answered with a redirect ({status}), which is not followed",
            "set VOICEAI_ALERT_WEBHOOK_URL to the target address",
        )
    if status == 429 or status >= 500:
        return DeliveryError(
            f"The webhook answered {status}", "none needed; it is retried automatically"
        )
    return DeliveryError(
        f"The webhook refused the message ({status})",
        "check that the webhook still exists, and correct VOICEAI_ALERT_WEBHOOK_URL",
    )


def _escaped(text: str) -> str:
    """Escaped for Slack, which reads <...> as a link or as a mention of all members."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True)
class Email:
    """Sends mail, over TLS unless the server is on this machine."""

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
                # The message is accepted or refused by now; an error in QUIT changes nothing.
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
                "check VOICEAI_ALERT_EMAIL_FROM; it is retried automatically",
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryError(
                f"The mail server could not be used ({_kind(error)})",
                "check the network and VOICEAI_SMTP_URL; it is retried automatically",
            ) from None
        if refused:
            # Not retried: the other recipients would get the message twice.
            log.warning("the mail server refused %d of the recipients", len(refused))

    def _connect(self) -> smtplib.SMTP:
        parts = urlsplit(self.url.reveal())
        host, is_local = parts.hostname or "", is_loopback(parts.hostname or "")
        context = ssl.create_default_context()
        if is_local:
            # No certificate is issued for a loopback address.
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
        # Stable across retries, so that mail programs show the message once.
        mail["Message-ID"] = f"<{message.id}@{domain}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text + "\n")
        return mail


def _kind(error: Exception) -> str:
    """What went wrong, without the text of the error, which may quote an address."""
    reason = getattr(error, "reason", error)
    return type(reason if isinstance(reason, Exception) else error).__name__
