"""The tables of calls: what HighLevel lists, and how far each day has been read."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from voiceai_pipeline.database.schema import instant, metadata

sync_status = sa.Table(
    "sync_status",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True,
              comment="The row's id; user_id identifies the user."),
    sa.Column("service", sa.Text, comment="Always 'highlevel'."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), index=True,
              comment="The user who was synced."),
    instant("last_sync_at", comment="When the last sync ended."),
    sa.Column("last_sync_status", sa.Text, comment="success or failure."),
    sa.Column("last_sync_message", sa.Text, comment="The result in a sentence."),
    sa.Column("records_synced", sa.Integer, comment="Calls stored for the days of the last sync."),
    instant("created_at", server_default=sa.func.now(), comment="When the row was added."),
    instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
    comment="Each user's last sync; sync_ledger has each day. The source system's table.",
)  # fmt: skip

call_logs = sa.Table(
    "call_logs",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True,
              comment="The HighLevel location that the call belongs to."),
    sa.Column("call_id", sa.Text, primary_key=True, comment="HighLevel's id of the call."),
    sa.Column("agent_id", sa.Text, comment="The agent that took the call; names are in agents."),
    sa.Column("contact_id", sa.Text, comment="HighLevel's id of the caller's contact."),
    sa.Column("from_number", sa.Text, comment="The caller's telephone number."),
    instant("started_at", nullable=False, comment="Start of the call: HighLevel's createdAt."),
    sa.Column("duration_seconds", sa.Double, comment="Length of the call in seconds."),
    sa.Column("is_trial", sa.Boolean, comment="A trial call: metrics do not count it."),
    sa.Column("is_agent_deleted", sa.Boolean, comment="The agent was deleted in HighLevel."),
    sa.Column("summary", sa.Text, comment="HighLevel's summary of what was said."),
    sa.Column("transcript", sa.Text, comment="The transcript as text."),
    sa.Column("executed_call_actions", JSONB, nullable=False,
              comment="The agent's actions as a list. Third-party secrets are redacted."),
    sa.Column("extracted_data", JSONB, comment="The values that the agent captured, by key."),
    sa.Column("translation", JSONB,
              comment="HighLevel's translation: whether it is on, its language, its text."),
    sa.Column("message_id", sa.Text, comment="HighLevel's id of the message in the conversation."),
    sa.Column("raw", JSONB, comment="The redacted item's members that the other columns cannot "
              "reproduce exactly; NULL: none. voiceai.call_contents has the whole item."),
    sa.Column("content_hash", sa.LargeBinary, nullable=False,
              comment="SHA-256 of the whole item, redacted."),
    sa.Column("fingerprint", sa.LargeBinary,
              comment="Keyed hash of the item as sent; if equal, nothing has changed."),
    instant("first_seen_at", nullable=False, comment="When the call was first stored."),
    instant("last_changed_at", nullable=False, comment="When its stored content last changed."),
    instant("missing_since", comment="Set when a complete read no longer lists the call."),
    # The pages' lists, counts and sorts read only this index, not the wide rows.
    sa.Index("call_logs_list_idx", "location_id", "started_at", "call_id",
             postgresql_include=["agent_id", "duration_seconds", "is_trial", "missing_since",
                                 "first_seen_at"]),
    sa.Index("call_logs_agent_id_idx", "agent_id"),
    sa.Index("call_logs_started_at_idx", "started_at", postgresql_using="brin"),
    sa.Index("call_logs_last_changed_at_idx", "last_changed_at", postgresql_using="brin"),
    comment="Every call that HighLevel lists, in its latest state. A call belongs to a location; "
            "users see calls through their connection.",
)  # fmt: skip

set_aside_calls = sa.Table(
    "set_aside_calls",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("content_hash", sa.LargeBinary, primary_key=True, comment="SHA-256 of raw."),
    sa.Column("reason", sa.Text, nullable=False, comment="Why it is not a valid call."),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    instant("started_at", comment="Its start, if that can be parsed."),
    instant("first_seen_at", nullable=False, comment="When it was first listed."),
    instant("last_seen_at", nullable=False, comment="When it was last listed."),
    comment="Items that HighLevel lists among its calls but that are not valid calls, and why.",
)

redaction_progress = sa.Table(
    "redaction_progress",
    metadata,
    sa.Column("table_name", sa.Text, primary_key=True, comment="The table with these rows."),
    sa.Column("rules", sa.Integer, nullable=False, comment="Version of the rules of redaction."),
    sa.Column("location_id", sa.Text, comment="Key of the last row redacted by these rules."),
    sa.Column("row_id", sa.Text, comment="Key of the last row redacted by these rules."),
    instant("finished_at", comment="When all rows were redacted; NULL: not yet."),
    comment="How far stored rows have been redacted again since the rules changed.",
)

sync_ledger = sa.Table(
    "sync_ledger",
    metadata,
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True,
              comment="The user whose day it is."),
    sa.Column("location_id", sa.Text, primary_key=True, comment="'' before the first location."),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    sa.Column("state", sa.Text, nullable=False, comment="complete, failed, waiting or not_kept."),
    sa.Column("failure_class", sa.Text, comment="Why it is not complete, as a code."),
    sa.Column("message", sa.Text, nullable=False, server_default="",
              comment="Why the day is not complete; for a complete day, what is odd about it."),
    instant("read_until", comment="Up to when the day was read; NULL: it was not."),
    sa.Column("api_total", sa.Integer,
              comment="Number of calls that HighLevel reported; NULL: none for this day."),
    sa.Column("stored", sa.Integer,
              comment="Number of the day's calls that are stored and not missing; NULL also if "
                      "they are no longer kept."),
    sa.Column("new_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls that the last sync added."),
    sa.Column("changed_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls whose content the last sync changed."),
    sa.Column("missing_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls that the last sync no longer found."),
    sa.Column("set_aside_calls", sa.Integer, nullable=False, server_default="0",
              comment="Items that are not valid calls; they are in set_aside_calls."),
    sa.Column("unknown_actions", sa.Integer, nullable=False, server_default="0",
              comment="Actions of an undocumented type."),
    sa.Column("pages", sa.Integer, nullable=False, server_default="0",
              comment="Number of requests for the read."),
    sa.Column("run_id", sa.Text, comment="The Dagster run of the last sync."),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0",
              comment="Consecutive failures; 0 unless failed."),
    instant("started_at", comment="Start of the day's last sync."),
    instant("finished_at", comment="End of the day's last sync."),
    sa.Index("sync_ledger_day_idx", "day"),
    sa.Index("sync_ledger_finished_at_idx", "finished_at"),
    sa.Index("sync_ledger_unfinished_idx", "finished_at",
             postgresql_where=sa.text("state <> 'complete' AND state <> 'not_kept'")),
    comment="Whether a day is complete for a user, and if not, why: a row for each user, location "
            "and day.",
)  # fmt: skip

drifting_days = sa.Table(
    "drifting_days",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    sa.Column(
        "api_total", sa.Integer, nullable=False, comment="Number of calls that HighLevel reported."
    ),
    sa.Column(
        "stored",
        sa.Integer,
        nullable=False,
        comment="Number of calls we had, including those set aside.",
    ),
    instant("opened_at", nullable=False, comment="When the day was marked for a re-sync."),
    comment="Days on which HighLevel's number of calls differs from ours, until they agree again.",
)

location_leases = sa.Table(
    "location_leases",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column(
        "holder", sa.Uuid, nullable=False, comment="The sync that holds it: one in one process."
    ),
    sa.Column("run_id", sa.Text, comment="The Dagster run that holds it."),
    instant("taken_at", nullable=False, comment="When it was taken."),
    instant("expires_at", nullable=False, comment="After this the holder counts as gone."),
    comment="Per-location leases: only one sync reads a location at a time.",
)

run_heartbeats = sa.Table(
    "run_heartbeats",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True, comment="A Dagster run that is working."),
    sa.Column("process", sa.Text, nullable=False, comment="Its process, and the machine."),
    instant("seen_at", nullable=False, comment="Its last heartbeat, sent every 15 seconds."),
    comment="Heartbeats of runs: a run that stops sending them is failed, which frees its slots.",
)

agents = sa.Table(
    "voiceai_agents",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("agent_id", sa.Text, primary_key=True, comment="HighLevel's id of the agent."),
    sa.Column("name", sa.Text, nullable=False, comment="The latest name from HighLevel."),
    sa.Column("timezone", sa.Text, comment="IANA name."),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    instant("first_seen_at", nullable=False, comment="When the agent was first listed."),
    instant("last_seen_at", nullable=False, comment="When the agent was last listed."),
    instant("missing_since", comment="Set when HighLevel no longer lists it; its name is kept."),
    comment="The voice agents, including those deleted in HighLevel.",
)

agent_names = sa.Table(
    "agent_names",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("agent_id", sa.Text, primary_key=True, comment="HighLevel's id of the agent."),
    instant("since", primary_key=True, comment="When the name was first seen."),
    sa.Column("name", sa.Text, nullable=False, comment="The agent's name from then on."),
    comment="Every name that a voice agent has had.",
)

agent_settings = sa.Table(
    "agent_settings",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("agent_id", sa.Text, primary_key=True, comment="HighLevel's id of the agent."),
    instant("since", primary_key=True, comment="When the settings were first seen."),
    sa.Column("settings", JSONB, nullable=False,
              comment="timezone, maxCallDuration and agentWorkingHours from then on."),
    comment="The settings that metrics depend on, each time they changed.",
)  # fmt: skip

locations = sa.Table(
    "locations",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="HighLevel's id of the location."),
    sa.Column("name", sa.Text, comment="The latest name from HighLevel."),
    sa.Column("timezone", sa.Text, comment="IANA name."),
    sa.Column("company_id", sa.Text, comment="The HighLevel agency of the location."),
    instant("first_seen_at", nullable=False, comment="When the location was first read."),
    instant("last_seen_at", nullable=False, comment="When the location was last read."),
    comment="The HighLevel locations that a user is or was connected to.",
)
