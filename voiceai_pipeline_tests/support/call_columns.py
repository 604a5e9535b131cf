"""The columns of a call, compared whichever way they were read."""

from dataclasses import fields, replace
from typing import Any

import msgspec

from voiceai_pipeline.core.call import CallLog


def values_of(call: CallLog) -> CallLog:
    """The call with its JSON as values, also where only its text was kept."""
    return replace(call, **{one.name: _value(getattr(call, one.name)) for one in fields(call)})


def _value(kept: Any) -> Any:
    return msgspec.json.decode(kept) if isinstance(kept, msgspec.Raw) else kept
