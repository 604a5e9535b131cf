"""Every table except the marts, to import from one place.

A table is defined in the module of its concept: ``connection_tables``, ``call_tables``,
``call_page_tables``, ``retention_table``, ``webhook_tables``, ``page_tables``, ``pause_table``,
``user_sync_table`` or ``work_tables``.
"""

from voiceai_pipeline.database.call_page_tables import (
    call_words,
    content_openings,
)
from voiceai_pipeline.database.call_tables import (
    agent_names,
    agent_settings,
    agents,
    call_logs,
    drifting_days,
    location_leases,
    locations,
    redaction_progress,
    run_heartbeats,
    set_aside_calls,
    sync_ledger,
    sync_status,
)
from voiceai_pipeline.database.connection_tables import (
    NAME,
    alerts,
    api_keys,
    connect_requests,
    token_circuit,
    token_events,
    users,
)
from voiceai_pipeline.database.fact_tables import call_facts, caller_key
from voiceai_pipeline.database.page_tables import page_logins
from voiceai_pipeline.database.pause_table import sync_pauses
from voiceai_pipeline.database.retention_table import deleted_months
from voiceai_pipeline.database.schema import (
    ADOPTED,
    VERSION_TABLE,
    metadata,
)
from voiceai_pipeline.database.user_sync_table import user_syncs
from voiceai_pipeline.database.webhook_tables import (
    call_hints,
    hinted_days,
    hinted_reads,
    webhook_messages,
    webhook_refusals,
)
from voiceai_pipeline.database.work_tables import work_units

__all__ = [
    "ADOPTED",
    "NAME",
    "VERSION_TABLE",
    "agent_names",
    "agent_settings",
    "agents",
    "alerts",
    "api_keys",
    "call_facts",
    "call_hints",
    "call_logs",
    "call_words",
    "caller_key",
    "connect_requests",
    "content_openings",
    "deleted_months",
    "drifting_days",
    "hinted_days",
    "hinted_reads",
    "location_leases",
    "locations",
    "metadata",
    "page_logins",
    "redaction_progress",
    "run_heartbeats",
    "set_aside_calls",
    "sync_ledger",
    "sync_pauses",
    "sync_status",
    "token_circuit",
    "token_events",
    "user_syncs",
    "users",
    "webhook_messages",
    "webhook_refusals",
    "work_units",
]
