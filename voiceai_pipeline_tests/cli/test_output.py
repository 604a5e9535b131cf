"""What ``users`` prints: every state, what to do about it, and the history of a connection."""

import json
import re
from uuid import UUID

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import STATES, ConnectionState
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.command_line import (
    Program,
)
from voiceai_pipeline_tests.support.demo_users import DEMO


def test_users_lists_every_user_in_any_state(program: Program) -> None:
    _, unreadable, gone, revoked = program.connect(
        "Harbor Dental", "Quiet Law", "Pine Realty", "Larch Auto Care"
    )
    program.add("Juniper Fitness")
    program("disconnect", str(gone), "--yes")
    program.execute(
        "UPDATE api_keys SET access_token = 'enc:v1:lost:AAAA', refresh_token = 'enc:v1:lost:AAAA' "
        "WHERE user_id = :user",
        user=unreadable,
    )
    program.execute(
        "UPDATE api_keys SET connection_state = 'needs_reconnect', "
        "connection_reason = 'refresh_rejected' WHERE user_id = :user",
        user=revoked,
    )

    table = program("users")
    users = {user["name"]: user for user in program("users", "--json").json}

    assert {name: user["state"] for name, user in users.items()} == {
        "Harbor Dental": "connected",
        "Juniper Fitness": "never_connected",
        "Larch Auto Care": "needs_reconnect",
        "Pine Realty": "disconnected",
        "Quiet Law": "connected",
    }
    assert users["Harbor Dental"]["what_to_do"] is None
    assert users["Pine Realty"]["what_to_do"] == (
        f"No valid OAuth connection found. Fix: Reconnect the user: voiceai-pipeline connect {gone}"
    )
    assert users["Larch Auto Care"]["what_to_do"].startswith("Failed to refresh token (")
    for user in users.values():
        (line,) = [line for line in table.out.splitlines() if user["id"] in line]
        assert user["name"] in line
        assert STATES[ConnectionState(user["state"])].label in line
        assert user["what_to_do"] is None or user["what_to_do"] in line
        assert line.rstrip().endswith("never")


def test_users_shows_the_last_sync(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")
    program.execute(
        "INSERT INTO sync_status (id, service, user_id, last_sync_at, last_sync_status, "
        "last_sync_message, records_synced) VALUES (gen_random_uuid(), 'highlevel', :user, "
        "'2026-11-20 12:00+00', 'failure', 'Failed to refresh token', 0)",
        user=user,
    )

    assert "2026-11-20 12:00Z failure" in program("users").out
    (user,) = program("users", "--json").json
    assert user["last_sync_status"] == "failure"
    assert user["last_sync_message"] == "Failed to refresh token"


def test_one_user_is_shown_with_state_fix_and_history(program: Program, world: World) -> None:
    (user,) = program.connect("Larch Auto Care")
    program("check", str(user))
    world.revoke(DEMO["Larch Auto Care"].installs_on)
    program("check", str(user))

    shown = program("users", "larch auto care").out

    for text in (
        f"Larch Auto Care  {user}",
        "needs reconnection: revoked",
        "Failed to refresh token",
        f"voiceai-pipeline connect {user}",
        "voice-ai-dashboard.readonly",
        "command line",
    ):
        assert text in shown
    assert " USER" not in shown
    detail = program("users", str(user), "--json").json
    assert [(e["event"], e["actor"]) for e in detail["history"]] == [
        ("tested", "command line"),
        ("refresh_failed", "command line"),
        ("tested", "command line"),
        ("connected", "pipeline"),
    ]
    assert "SANDBOX-" not in json.dumps(detail)
    # Newest event first.
    assert shown.index("Token refresh failed") < shown.index("Connected by consent")


def test_a_user_without_events_is_shown_too(program: Program) -> None:
    program.add("Juniper Fitness")
    shown = program("users", "Juniper Fitness").out
    assert "never connected" in shown
    assert "No events yet." in shown


def test_a_user_whose_refresh_keeps_failing_is_shown_with_the_reason(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")
    program.execute(
        "UPDATE api_keys SET failed_attempts = 3, last_failure = 'unreachable', "
        "token_expires_at = now() - interval '1 hour' WHERE user_id = :user",
        user=user,
    )
    (user,) = program("users", "--json").json
    assert user["state"] == "expiring"
    assert "failed 3 times in a row: HighLevel could not be reached" in user["what_to_do"]
    assert "expiring" in program("users").out


def test_a_name_with_brackets_or_colons_is_shown_literally(program: Program) -> None:
    for number, name in enumerate(("Acme [/] Dental", "[red]Brush[/red]", "Dr. :smile:")):
        with program.engine.begin() as db:
            connections.add_user(db, UUID(int=number), business_name=name)

    shown = program("users").out

    assert "Acme [/] Dental" in shown
    assert "[red]Brush[/red]" in shown
    assert "Dr. :smile:" in shown


def test_a_narrow_terminal_gets_whole_ids_or_none_and_no_colour_where_none_is_wanted(
    program: Program,
) -> None:
    program.connect("Harbor Dental", "Larch Auto Care")
    program.execute("UPDATE api_keys SET connection_state = 'needs_reconnect'")
    for words in (["users"], ["users", "Harbor Dental"]):
        shown = program.on_a_terminal(*words, COLUMNS="80", NO_COLOR="1")
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", shown)
        shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        assert max(map(len, shown.splitlines())) <= 80
        ids = re.findall(r"\b[0-9a-f]{8}-[0-9a-f-]*", shown)
        assert ids
        assert {len(one) for one in ids} == {36}
