"""HighLevel's webhook messages: whether HighLevel signed one, and what it says (CONTRACT 13).

A message is only a hint: it says that a call has ended or an app was removed, and the pipeline then
asks the API. So only ids and times are read from it. No HTTP and no SQL here.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from voiceai_pipeline.core.webhook import MessageType, WebhookMessage
from voiceai_pipeline.highlevel.calls import parse_instant

SIGNATURE_HEADER: Final = "X-GHL-Signature"
"""An Ed25519 signature of the raw body. The RSA header ``X-WH-Signature`` is retired: ignored."""

_ID: Final = re.compile(r"[\x21-\x7e]{1,100}")
"""HighLevel's ids are short ASCII words; anything else is not an id."""


_TYPES: Final = {
    "VOICEAICALLEND": MessageType.CALL_ENDED,
    "INSTALL": MessageType.INSTALLED,
    "UNINSTALL": MessageType.UNINSTALLED,
}
"""By ``type``, ignoring case and underscores: VOICE_AI_CALL_END was seen too (CONTRACT 13.2)."""


def is_signed(body: bytes, signature: str | None, keys: Iterable[bytes]) -> bool:
    """Whether one of the keys signed the body.

    Args:
        body: as received: JSON that was parsed and serialized again would not match the signature.
        signature: the header's value, base64 of 64 bytes; None if there was none.
        keys: raw Ed25519 public keys, 32 bytes each.
    """
    try:
        given = base64.b64decode(signature or "", validate=True)
    except ValueError:  # also if it is not ASCII, or HighLevel's literal "N/A"
        return False
    return len(given) == 64 and any(_verifies(key, given, body) for key in keys)


def _verifies(key: bytes, signature: bytes, body: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, body)
    except InvalidSignature:
        return False
    return True


class _Body(msgspec.Struct):
    """The fields that are read, by HighLevel's names; a value of an unexpected type is ignored."""

    type: Any = None
    webhookId: Any = None  # noqa: N815
    appId: Any = None  # noqa: N815
    locationId: Any = None  # noqa: N815
    companyId: Any = None  # noqa: N815
    id: Any = None
    agentId: Any = None  # noqa: N815
    createdAt: Any = None  # noqa: N815


_BODY: Final = msgspec.json.Decoder(_Body)


def message_of(body: bytes) -> WebhookMessage | None:
    """What a message says; None if it is not a JSON object."""
    try:
        said = _BODY.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    kind = _type_of(said)
    is_call = kind is MessageType.CALL_ENDED
    return WebhookMessage(
        message_id=_id(said.webhookId) or f"sha256:{hashlib.sha256(body).hexdigest()}",
        type=kind,
        location_id=_id(said.locationId),
        company_id=_id(said.companyId),
        app_id=_id(said.appId),
        call_id=_id(said.id) if is_call else None,
        call_started_at=_instant(said.createdAt) if is_call else None,
    )


def _type_of(said: _Body) -> MessageType:
    if said.type is None:
        # The published schema of a call's end has no type (CONTRACT 13.2).
        has_ids = all(_id(one) for one in (said.id, said.locationId, said.agentId))
        return MessageType.CALL_ENDED if has_ids else MessageType.OTHER
    name = said.type if isinstance(said.type, str) else ""
    return _TYPES.get(name.replace("_", "").upper(), MessageType.OTHER)


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _instant(value: Any) -> datetime | None:
    try:
        return parse_instant(value)
    except ValueError:
        return None
