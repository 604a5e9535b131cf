"""What is kept of a call and of an agent: the published fields, if they have the published type.

Of everything else, only names and types are kept (``redaction.shape``). Call actions hold secrets
of third parties in more fields than a list could name: ``apiDetails.authenticationValue``, headers,
bodies, example values (CONTRACT 2.4). So this lists what may stay (REQUIREMENTS X7).
"""

import math
import re
from collections.abc import Callable
from typing import Any, Final

from voiceai_pipeline.core.call import ACTION_TYPES
from voiceai_pipeline.highlevel.redaction import (
    bare_address,
    clean,
    redact,
    shape,
    without_header_values,
)

RULES: Final = 2
"""Version of the rules: of this list and of what is removed from texts. Increase it whenever they
change what is stored: ``migrate`` then redacts stored rows again (a test checks it)."""

_Rule = Callable[[Any], Any]
"""Returns what is kept of a value. Applied to its own result, a rule changes nothing."""


def redact_call(item: Any) -> Any:
    """What is kept of an item of the call log (CONTRACT 2.3)."""
    return clean(_CALL(item))


def allowed(item: Any) -> Any:
    """``redact_call`` without ``clean``, which most calls do not need."""
    return _CALL(item)


def redact_agent(item: Any) -> Any:
    """What is kept of an item of the list of agents (CONTRACT 3)."""
    return clean(_AGENT(item))


def parameters_of_action(kind: str, parameters: Any) -> Any:
    """What is kept of the parameters of an action of a documented type, before ``clean``."""
    return _PARAMETERS[kind](parameters)


def translation_of_call(translation: Any) -> Any:
    """What is kept of the translation of a call, before ``clean``."""
    return _TRANSLATION(translation)


def is_instant(value: str) -> bool:
    """Whether a text is kept in a field that is published as a time."""
    return _INSTANT.fullmatch(value) is not None


def _text(value: Any) -> Any:
    return value if type(value) is str else shape(value)


def _number(value: Any) -> Any:
    kind = type(value)
    is_number = kind is int or (kind is float and math.isfinite(value))
    return value if is_number else shape(value)


def _scalar(value: Any) -> Any:
    """Keep a text, a number or a flag: ``calls.py`` converts one that is sent as another."""
    return value if type(value) is str else _number(value)


def _address(value: Any) -> Any:
    return bare_address(value) if type(value) is str else shape(value)


_flag: Final = shape

_USUAL: Final[dict[_Rule, type]] = {_text: str, _scalar: str, _number: int, _flag: bool}
"""Values of this type are kept without calling the rule, to save time: most members have it."""


def _matching(pattern: str) -> _Rule:
    """Keep a text of this form, and a number."""
    matches = re.compile(pattern).fullmatch

    def rule(value: Any) -> Any:
        return value if type(value) is str and matches(value) else _number(value)

    return rule


def _list_of(rule: _Rule) -> _Rule:
    def rule_of_list(value: Any) -> Any:
        return [rule(item) for item in value] if type(value) is list else shape(value)

    return rule_of_list


def _object(**fields: _Rule) -> _Rule:
    """Keep these members by their rules, and the shape of all others."""
    names = fields.keys()
    usual = {name: _USUAL[rule] for name, rule in fields.items() if rule in _USUAL}
    usual_type = usual.get

    def rule(value: Any) -> Any:
        if type(value) is not dict:
            return shape(value)
        kept = {} if value.keys() <= names else shape(value)
        for name, item in value.items():
            if type(item) is usual_type(name):
                kept[name] = item
            elif name in names:
                kept[name] = fields[name](item)
        return kept

    return rule


_id: Final = _text
_INSTANT: Final = re.compile(r"[0-9T:.Z +-]{4,40}")
_instant: Final = _matching(_INSTANT.pattern)
_type: Final = _matching(r"[A-Z][A-Z_]{0,39}")
"""A type of action that is not documented is kept too: it counts as unknown (REQUIREMENTS S7)."""

_PROMPTS: Final[dict[str, _Rule]] = {"triggerPrompt": _text, "triggerMessage": _text}

_EXTRACTION: Final = _object(
    contactFieldId=_id, description=_text, examples=_list_of(_text), overwriteExistingValue=_flag
)

_API: Final = _object(
    url=_address,
    method=_matching("[A-Za-z]{1,10}"),
    authenticationRequired=_flag,
    headers=without_header_values,
    parameters=_list_of(_object(name=_text, description=_text, type=_text)),
)
"""Left out: ``authenticationValue``, which is secret, and ``example``, which may be a real one."""

_PARAMETERS: Final[dict[str, _Rule]] = {
    "CALL_TRANSFER": _object(
        **_PROMPTS, transferToType=_text, transferToValue=_text, hearWhisperMessage=_flag
    ),
    "DATA_EXTRACTION": _EXTRACTION,
    "IN_CALL_DATA_EXTRACTION": _EXTRACTION,
    "WORKFLOW_TRIGGER": _object(**_PROMPTS, workflowId=_id),
    "SMS": _object(**_PROMPTS, messageBody=_text),
    "APPOINTMENT_BOOKING": _object(
        calendarId=_id,
        daysOfOfferingDates=_number,
        slotsPerDay=_number,
        hoursBetweenSlots=_number,
    ),
    "CUSTOM_ACTION": _object(
        **_PROMPTS,
        apiDetails=_API,
        selectedPaths=_list_of(_text),
        responsePathsToExtract=_list_of(_text),
    ),
    "KNOWLEDGE_BASE": _object(**_PROMPTS, knowledgeBaseId=_id),
}

_ACTION: Final[dict[str, _Rule]] = {
    "actionId": _id,
    "_id": _id,
    "id": _id,
    "actionType": _type,
    "actionName": _text,
    "name": _text,
    "executedAt": _instant,
    "triggerReceivedAt": _instant,
}
"""Members of a call's action, also in the webhook's form (``_id``), and of an agent's (``id``,
``name``)."""

_ACTION_OF: Final[dict[str, _Rule]] = {
    kind: _object(**_ACTION, actionParameters=_PARAMETERS[kind]) for kind in ACTION_TYPES
}
_UNKNOWN_ACTION: Final = _object(actionType=_type, executedAt=_instant, triggerReceivedAt=_instant)


def _action(value: Any) -> Any:
    kind = value.get("actionType") if type(value) is dict else None
    known = _ACTION_OF.get(kind) if type(kind) is str else None
    return (known or _UNKNOWN_ACTION)(value)


_SPOKEN: Final[dict[str, _Rule]] = {
    "enabled": _flag,
    "language": _text,
    "transcript": _text,
    "translatedTranscript": _text,
}
_TRANSLATION: Final = _object(**_SPOKEN)
_TURN: Final = _object(
    role=_text, content=_text, startTime=_number, endTime=_number,
    toolName=_text, toolType=_text, toolCallId=_id,
)  # fmt: skip

_CALL: Final = _object(
    id=_scalar, contactId=_scalar, agentId=_scalar, messageId=_scalar, locationId=_scalar,
    traceId=_scalar, fromNumber=_scalar, createdAt=_scalar, duration=_scalar, trialCall=_scalar,
    isAgentDeleted=_scalar, agentTransferOccurred=_scalar, summary=_text, transcript=_text,
    translation=_TRANSLATION, extractedData=redact, executedCallActions=_list_of(_action),
    transcriptWithToolCalls=_list_of(_TURN),
)  # fmt: skip

_HOURS: Final = _object(startHour=_number, endHour=_number, startMinute=_number, endMinute=_number)
_AGENT: Final = _object(
    id=_id, locationId=_id, agentName=_text, businessName=_text, welcomeMessage=_text,
    agentPrompt=_text, voiceId=_id, language=_text, patienceLevel=_text,
    maxCallDuration=_number, sendUserIdleReminders=_flag, reminderAfterIdleTimeSeconds=_number,
    timezone=_text, isAgentAsBackupDisabled=_flag, actions=_list_of(_action),
    inboundNumber=_text, numberPoolId=_id, callEndWorkflowIds=_list_of(_id),
    sendPostCallNotificationTo=_object(
        admins=_flag, allUsers=_flag, contactAssignedUser=_flag, specificUsers=_list_of(_id),
        customEmails=_list_of(_text),
    ),
    agentWorkingHours=_list_of(_object(dayOfTheWeek=_number, intervals=_list_of(_HOURS))),
    translation=_object(**_SPOKEN),
)  # fmt: skip
