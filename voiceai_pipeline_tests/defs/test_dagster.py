"""The Dagster wing on a real instance: dagster-postgres, real runs, the sandbox over HTTP.

Time is real here, because Dagster's partitions follow the clock of the machine.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.cli import launch
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import checks, partitions, sensors
from voiceai_pipeline.sandbox.cast import DEMO_USERS, SANDBOX_CLIENT_SECRET
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline_tests.conftest import DEMO, free_port
from voiceai_pipeline_tests.support.product import Product
from voiceai_pipeline_tests.support.receivers import (
    HOOK_SECRET,
    MAIL_PASSWORD,
    Hook,
    Mailbox,
    running_hook,
    running_mailbox,
)

COPPER = "Copper Kettle Catering"
EXPIRE = "UPDATE api_keys SET token_expires_at = now() - interval '1 day', refresh_at = now()"
WAITING = {"Juniper Fitness", "Larch Auto Care", "Willow Spa", "Cedar Vets"}


@dataclass
class Receivers:
    """The people who are told: a webhook and a mailbox, as the product is configured to use."""

    hook: Hook
    mailbox: Mailbox

    @property
    def headlines(self) -> list[str]:
        return [text.splitlines()[0] for text in self.hook.texts]

    @property
    def subjects(self) -> list[str]:
        return [mail["Subject"].strip() for mail in self.mailbox.mails]


@pytest.fixture
def people(
    product: Product, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Receivers]:
    folder = tmp_path_factory.mktemp("mail")
    with running_hook() as hook, running_mailbox(folder) as mailbox:
        login = f"robot:{quote(MAIL_PASSWORD, safe='')}@"
        monkeypatch.setenv("VOICEAI_ALERT_WEBHOOK_URL", hook.url)
        monkeypatch.setenv("VOICEAI_ALERT_EMAIL_TO", "ops@agency.test")
        monkeypatch.setenv("VOICEAI_ALERT_EMAIL_FROM", "alerts@agency.test")
        monkeypatch.setenv("VOICEAI_SMTP_URL", mailbox.url.replace("//", f"//{login}"))
        monkeypatch.setenv("VOICEAI_PAGE_URL", "https://voice.test")
        yield Receivers(hook, mailbox)


def _checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def _failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [e for e in result.all_events if e.is_step_failure]
    return str(event.step_failure_data.error_display_string)


def test_a_bad_day_is_red_and_a_rerun_reads_only_who_failed(demo: Product) -> None:
    result = demo.sync(demo.week)

    assert not result.success
    assert demo.days("call_logs") == set(demo.week) - {demo.bad_day}
    assert demo.days("sync_status") == set(demo.week)
    text = _failure(result)
    assert "1 user failed on 1 day" in text
    assert f"{COPPER}, {demo.bad_day}: HighLevel answered with a server error" in text
    assert "Failed and missing" in text
    check = _checks(result)["every_connected_user_is_complete"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert COPPER in str(check.description)

    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    with demo.requests() as asked:
        mended = demo.sync([demo.bad_day])

    assert mended.success
    assert _checks(mended)["every_connected_user_is_complete"].passed
    assert asked == {("/voice-ai/dashboard/call-logs", DEMO[COPPER].location_id): 1}
    assert demo.days("call_logs") == set(demo.week)


def test_a_sync_of_one_user_leaves_a_day_as_it_stands_for_everybody(demo: Product) -> None:
    assert not demo.sync(demo.week[-4:]).success
    harbor = DEMO["Harbor Dental"].id
    days = {"first": str(demo.week[-4]), "last": str(demo.week[-1])}
    config = {"ops": {"read_user_days": {"config": {"user_ids": [harbor], **days}}}}
    run = demo.run("sync_users", run_config=config)
    assert run.success
    # No run of the asset: its red stays, for it is the last run that was to fill the day.
    assert not [e for e in run.all_events if e.is_asset_materialization_planned]
    assert demo.bad_day not in demo.days("call_logs")
    copper = {"ops": {"read_user_days": {"config": {"user_ids": [DEMO[COPPER].id], **days}}}}
    assert COPPER in _failure(demo.run("sync_users", run_config=copper))
    demo.sandbox.world.clear_faults()
    assert demo.run("sync_users", run_config=copper).success
    assert demo.bad_day in demo.days("call_logs")
    bad = {"ops": {"read_user_days": {"config": {"user_ids": [harbor], "first": "x", "last": "y"}}}}
    assert "YYYY-MM-DD" in _failure(demo.run("sync_users", run_config=bad))


def test_users_who_wait_for_a_person_turn_no_day_red_and_are_named_with_the_fix(
    demo: Product,
) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    result = demo.sync(demo.week)

    assert result.success
    assert demo.days("call_logs") == set(demo.week)
    warning = _checks(result)["no_user_waits_for_a_person"]
    assert not warning.passed
    assert warning.severity is dg.AssetCheckSeverity.WARN
    for name in WAITING:
        assert name in str(warning.description)
    assert f"voiceai-pipeline connect {DEMO['Larch Auto Care'].id}" in str(warning.description)
    assert _checks(result)["every_connected_user_is_complete"].passed


def test_every_call_of_every_connected_user_is_stored_once(demo: Product) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    demo.sync(demo.week)
    start = datetime.combine(demo.week[0], datetime.min.time(), UTC)
    connected = {u.location_id for u in DEMO_USERS if u.business_name not in WAITING}
    expected = {
        (place, call["id"])
        for place in connected
        for call in demo.sandbox.world.calls.between(place, start, start + timedelta(days=7))
    }
    assert len(expected) > 500
    assert sorted((place, call) for place, call, _ in demo.calls()) == sorted(expected)


def test_a_green_day_that_is_materialized_again_is_read_again_and_changes_nothing(
    demo: Product,
) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    day = demo.week[-1]
    demo.sync([day])
    with demo.pipeline.engine.begin() as db:
        before = db.execute(sa.text("SELECT call_id, xmin FROM call_logs ORDER BY 1")).all()
    with demo.requests() as asked:
        assert demo.sync([day]).success
    with demo.pipeline.engine.begin() as db:
        after = db.execute(sa.text("SELECT call_id, xmin FROM call_logs ORDER BY 1")).all()
    assert len(asked) == 7  # seven locations can be read
    assert after == before


def test_however_the_days_are_asked_for_the_same_calls_arrive(
    demo: Product,
) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    days = demo.week[-3:]

    def empty() -> None:
        with demo.pipeline.engine.begin() as db:
            db.execute(sa.text("TRUNCATE call_logs, sync_ledger, sync_status"))

    def by_range() -> None:
        demo.sync(days)

    def by_partition() -> None:
        for day in days:
            demo.run("sync_calls", partition_key=str(day))

    def by_command_line() -> None:
        assert launch.sync_calls(days, None, only_failed=False) is None

    def by_materialize() -> None:
        asset = defs.get_assets_def("call_logs")
        resources = defs.get_repository_def().get_top_level_resources()
        for day in days:
            assert dg.materialize(
                [asset],
                partition_key=str(day),
                instance=demo.instance,
                resources={name: resources[name] for name in ("pipeline", "settings")},
                selection=[asset],
            ).success

    seen = []
    for way in (by_range, by_partition, by_materialize):
        empty()
        way()
        seen.append(demo.calls())
    os.environ["DAGSTER_HOME"] = str(PROJECT)
    try:
        empty()
        by_command_line()
        seen.append(demo.calls())
    finally:
        del os.environ["DAGSTER_HOME"]
    assert seen[0]
    assert all(calls == seen[0] for calls in seen)


def test_a_run_for_one_user_does_not_turn_a_day_green_that_others_have_not_been_read_for(
    product: Product,
) -> None:
    product.connect("Pine Realty")
    product.connect("Maple Plumbing")
    result = product.sync(product.week[-1:], user_ids=[DEMO["Pine Realty"].id])
    assert result.success
    assert product.days("call_logs") == set()
    check = _checks(result)["every_connected_user_is_complete"]
    assert not check.passed
    assert "Maple Plumbing" in str(check.description)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"user_ids": ["x'; DROP TABLE users;--"]}, "A user is named by id"),
        ({"user_ids": ["00000000-0000-4000-8000-00000000ffff"]}, "No user with id"),
        ({"only_failed": True, "reread": True}, "contradict each other"),
    ],
)
def test_run_config_that_makes_no_sense_fails_with_a_sentence_and_no_request(
    product: Product, config: dict[str, Any], sentence: str
) -> None:
    with product.requests() as asked:
        result = product.sync(product.week[-1:], **config)
    assert not result.success
    assert sentence in _failure(result)
    assert not asked


def test_an_unreachable_highlevel_turns_the_day_red_with_a_sentence(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    product.connect("Pine Realty")
    monkeypatch.setenv("HIGHLEVEL_API_URL", "http://127.0.0.1:9")
    result = product.sync(product.week[-1:])
    assert "HighLevel could not be reached" in _failure(result)
    assert product.days("call_logs") == set()


def test_user_tokens_shows_every_user_and_refreshed_credentials_only_the_valid_ones(
    demo: Product,
) -> None:
    user_ids = [user.id for user in DEMO_USERS]
    config = {"ops": {"refresh_due_tokens": {"config": {"user_ids": user_ids}}}}
    assert demo.run("refresh_tokens", run_config=config).success
    shown = demo.instance.get_materialized_partitions(dg.AssetKey("user_tokens"))
    valid = demo.instance.get_materialized_partitions(dg.AssetKey("refreshed_credentials"))
    assert shown == set(user_ids)
    assert shown - valid == {DEMO["Juniper Fitness"].id, DEMO["Cedar Vets"].id}


def test_one_token_that_cannot_be_renewed_leaves_the_others_renewed(demo: Product) -> None:
    pine, maple = DEMO["Pine Realty"], DEMO["Maple Plumbing"]
    with demo.pipeline.engine.begin() as db:
        db.execute(sa.text(EXPIRE))
        db.execute(
            sa.text("UPDATE api_keys SET refresh_token = 'enc:v1:gone:AAAA' WHERE user_id = :id"),
            {"id": pine.id},
        )
    config = {"ops": {"refresh_due_tokens": {"config": {"user_ids": [pine.id, maple.id]}}}}
    result = demo.run("refresh_tokens", run_config=config)
    assert "1 of 2 tokens could not be renewed" in _failure(result)
    assert "cannot be decrypted" in _failure(result)
    with demo.pipeline.engine.begin() as db:
        renewed = connections.one(db, UUID(maple.id))
    assert renewed is not None
    assert renewed.token_version == 2


def test_who_is_paused_or_must_reconnect_turns_no_refresh_red(demo: Product) -> None:
    _set(demo, EXPIRE)
    assert demo.run("refresh_tokens").success
    with demo.pipeline.engine.begin() as db:
        states = {one.user.name: one.state for one in connections.all_connections(db)}
    assert states["Willow Spa"] is ConnectionState.PAUSED
    assert states["Larch Auto Care"] is ConnectionState.NEEDS_RECONNECT
    assert states["Pine Realty"] is ConnectionState.CONNECTED


def test_what_befalls_every_renewal_is_said_once_with_what_to_do(
    demo: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(demo, EXPIRE)
    monkeypatch.setenv("HIGHLEVEL_CLIENT_SECRET", "wrong")
    demo.run("refresh_tokens")
    text = _failure(demo.run("refresh_tokens")).partition("Stack Trace")[0]
    assert text.count("renewals of all users have been suspended since") == 1
    assert text.count("Correct HIGHLEVEL_CLIENT_ID and HIGHLEVEL_CLIENT_SECRET") == 1
    assert "no user has to reconnect" in text
    with demo.pipeline.engine.begin() as db:
        states = {one.user.name: one.state for one in connections.all_connections(db)}
    assert states["Larch Auto Care"] is ConnectionState.CONNECTED  # its revocation is not known yet


def test_a_users_cell_says_what_happened_when_by_whom_and_what_to_do(
    product: Product, people: Receivers
) -> None:
    larch = product.connect("Larch Auto Care")
    product.sandbox.world.revoke(str(larch.location_id))
    _set(product, EXPIRE)
    run = product.run("refresh_tokens")
    facts = _cell(product, larch.user.id)
    assert facts["state"] == "needs reconnection: revoked"
    assert str(facts["cause"]).startswith("Failed to refresh token (the app was removed")
    assert f"voiceai-pipeline connect {larch.user.id}" in facts["what_to_do"]
    assert facts["connection_page"] == f"https://voice.test/users/{larch.user.id}"
    newest, oldest = facts["history"].splitlines()[2:]
    assert "The token could not be renewed: Failed to refresh token" in newest
    assert f"[{run.run_id[:8]}](http://127.0.0.1:3000/runs/{run.run_id})" in newest
    assert "|dagster|" in newest
    assert "Connected by consent in the browser" in oldest


def test_the_check_on_connections_is_recorded_whenever_they_are(product: Product) -> None:
    pine, larch, willow = map(product.connect, ("Pine Realty", "Larch Auto Care", "Willow Spa"))
    assert product.run("inspect_connections").success
    (first,) = _recorded(product)
    assert first.passed
    assert first.description == "No connection needs a person."

    product.sandbox.world.revoke(str(larch.location_id))
    product.sandbox.world.pause(str(willow.location_id))
    _set(product, EXPIRE)
    assert product.run("refresh_tokens", run_config=_only(pine.user.id)).success
    assert product.run("refresh_tokens").success
    latest, before, _ = _recorded(product)
    assert before.passed  # nobody has asked for the others yet
    assert not latest.passed
    assert latest.severity is dg.AssetCheckSeverity.WARN
    assert "- Larch Auto Care: Failed to refresh token (the app was removed in HighLevel" in str(
        latest.description
    )
    assert "- Willow Spa: HighLevel has paused the location" in str(latest.description)
    assert "Pine Realty" not in str(latest.description)
    assert latest.metadata["need_a_person"].value == 2
    assert latest.metadata["never_connected"].value == 9


def test_the_check_on_connections_looks_at_everybody_when_one_users_cell_is_materialized(
    product: Product,
) -> None:
    pine, larch = map(product.connect, ("Pine Realty", "Larch Auto Care"))
    product.sandbox.world.revoke(str(larch.location_id))
    _set(product, EXPIRE)
    product.run("refresh_tokens", run_config=_only(larch.user.id))
    product.instance.add_dynamic_partitions(partitions.USERS, [str(pine.user.id)])
    asset = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey("user_tokens")},
        asset_check_selection={checks.no_connection_needs_a_person.check_key},
    )
    assert asset.execute_in_process(
        instance=product.instance, partition_key=str(pine.user.id)
    ).success
    # The asset records it, and Dagster executes the check: one record of the run, not two.
    assert [check.passed for check in _recorded(product)] == [False, False]


def _recorded(product: Product) -> list[dg.AssetCheckEvaluation]:
    """What the check on connections has found, newest first."""
    key = dg.AssetCheckKey(dg.AssetKey("user_tokens"), "no_connection_needs_a_person")
    records = product.instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
    found = []
    for record in records:
        assert record.event is not None
        assert record.event.dagster_event is not None
        found.append(record.event.dagster_event.asset_check_evaluation_data)
    return found


def _cell(product: Product, user_id: UUID) -> Mapping[str, Any]:
    """The metadata that a user's cell shows."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey("user_tokens"), asset_partitions=[str(user_id)])
    (record,) = product.instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def test_a_day_that_no_longer_holds_what_highlevel_counts_is_shown_and_mended_by_itself(
    product: Product,
) -> None:
    pine, harbor = product.connect("Pine Realty"), product.connect("Harbor Dental")
    assert product.sync(product.week).success
    day = product.week[1]
    moment = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=9)
    late = product.sandbox.world.calls.add(str(pine.location_id), moment)
    held = len([c for c in product.calls() if c[0] == pine.location_id])

    result = product.run("reconcile")
    assert result.success
    check = _checks(result)["stored_calls_equal_highlevels_totals"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert f"1 of {2 * len(product.week)} days compared differ." in str(check.description)
    (shown,) = [m for m in result.asset_materializations_for_node("reconciliation")
                if m.asset_key == dg.AssetKey("reconciliation")]  # fmt: skip
    facts = {name: value.value for name, value in shown.metadata.items()}
    line = facts.pop("differences").splitlines()[2]
    assert str(day) in line
    assert str(pine.location_name or pine.location_id) in line
    assert "+1" in line
    assert facts == {
        "days_checked": 2 * len(product.week),
        "days_that_differ": 1,
        "days_opened": 1,
        "days_without_total": 0,
        "calls_to_fetch": 1,
        "calls_gone_upstream": 0,
        "locations_asked": 2,
        "locations_not_asked": 0,
    }
    assert _users_failed(product, day) == 1

    assert not _tick(product, sensors.failed_user_syncs).run_requests
    _set(product, "UPDATE sync_ledger SET finished_at = finished_at - interval '16 minutes'")
    (request,) = _tick(product, sensors.failed_user_syncs).run_requests or ()
    with product.requests() as asked:
        assert product.run(
            str(request.job_name), tags=dict(request.tags), run_config=request.run_config
        ).success
    assert asked == {("/voice-ai/dashboard/call-logs", pine.location_id): 1}
    stored = [c[1] for c in product.calls() if c[0] == pine.location_id]
    assert len(stored) == held + 1
    assert late["id"] in stored
    assert _users_failed(product, day) == 0

    with product.requests() as asked:
        result = product.run("reconcile")
    assert _checks(result)["stored_calls_equal_highlevels_totals"].passed
    assert asked == {
        ("/voice-ai/dashboard/call-logs", user.location_id): 1 for user in (pine, harbor)
    }


def test_a_location_that_cannot_be_asked_for_its_totals_turns_only_that_run_red(
    product: Product,
) -> None:
    pine, harbor = product.connect("Pine Realty"), product.connect("Harbor Dental")
    larch = product.connect("Larch Auto Care")
    assert product.sync(product.week).success
    product.sandbox.world.add_fault(Fault("forbidden_location", str(harbor.location_id)))
    product.sandbox.world.set_envelope(str(pine.location_id), "no_total")
    result = product.run("reconcile")
    assert result.success  # a wrong location waits for a person
    description = str(_checks(result)["stored_calls_equal_highlevels_totals"].description)
    assert f"0 of {len(product.week)} days compared differ." in description
    assert f"HighLevel gave no total for {len(product.week)} more." in description
    assert "Locations not asked for all their totals: 1." in description

    product.sandbox.world.add_fault(Fault("server_error", str(larch.location_id)))
    result = product.run("reconcile")
    assert not result.success
    assert "1 of 2 locations could not be asked for all their totals" in _failure(result)
    assert "HighLevel answered with a server error" in _failure(result)
    assert "stored_calls_equal_highlevels_totals" in _checks(result)
    assert product.days("call_logs") == set(product.week)


def _users_failed(product: Product, day: date) -> Any:
    """What the day's newest cell of ``sync_status`` says."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey("sync_status"), asset_partitions=[str(day)])
    (record,) = product.instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization is not None
    return record.asset_materialization.metadata["users_failed"].value


def test_a_day_keeps_the_hour_at_which_it_became_complete_until_it_is_incomplete_again(
    product: Product,
) -> None:
    product.connect("Pine Realty")
    day = product.week[-2]

    def hours() -> Any:
        wanted = dg.AssetRecordsFilter(dg.AssetKey("sync_status"), asset_partitions=[str(day)])
        (record,) = product.instance.fetch_materializations(wanted, limit=1).records
        assert record.asset_materialization is not None
        value = record.asset_materialization.metadata.get("hours_until_complete")
        return value.value if value else None

    assert product.sync([day]).success
    late = hours()
    assert 24 <= late <= 49
    known = dg.AssetMaterialization(
        "sync_status", partition=str(day), metadata={"hours_until_complete": 1.5}
    )
    product.instance.report_runless_asset_event(known)
    assert product.sync([day], reread=True).success
    assert hours() == 1.5

    _set(product, "UPDATE sync_ledger SET state = 'failed', failure_class = 'incomplete'")
    assert product.run("update_sync_status", partition_key=str(day)).success
    assert hours() is None
    assert product.sync([day]).success
    assert late <= hours() <= late + 1


def test_the_directory_keeps_names_and_skips_who_waits(demo: Product) -> None:
    assert demo.sync(demo.week[-1:]).success  # finds out who waits
    assert demo.run("update_directory").success
    with demo.pipeline.engine.begin() as db:
        names = set(db.execute(sa.text("SELECT name FROM agents")).scalars())
        zones = dict(db.execute(sa.text("SELECT name, timezone FROM locations")).all())
    assert {"Front desk", "After hours"} <= names
    assert zones["Northwind Motors"] == "Europe/Berlin"


def test_nothing_that_is_secret_or_personal_reaches_dagster_or_a_message(
    demo: Product, people: Receivers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    demo.sync(demo.week)
    config = {"ops": {"refresh_due_tokens": {"config": {"user_ids": [DEMO[COPPER].id]}}}}
    demo.run("refresh_tokens", run_config=config)
    demo.run("update_directory")
    demo.run("inspect_connections")
    _set(demo, EXPIRE)
    demo.run("refresh_tokens")
    people.hook.answers, people.mailbox.refusals = [500], {"AUTH": "535 no"}
    assert "email" in _failure(demo.run("send_alerts"))
    people.mailbox.refusals = {}
    assert demo.run("send_alerts").success
    with demo.pipeline.engine.begin() as db:
        numbers = list(db.execute(sa.text("SELECT DISTINCT from_number FROM call_logs")).scalars())
        speech = db.execute(
            sa.text("SELECT max(transcript) FROM call_logs WHERE length(transcript) > 60")
        ).scalar_one()
        stored = db.execute(
            sa.text("SELECT refresh_token FROM api_keys WHERE refresh_token IS NOT NULL LIMIT 1")
        ).scalar_one()
    canaries = ["SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", "THIRD-PARTY-SECRET"]
    canaries += [SANDBOX_CLIENT_SECRET, stored, speech[:60], *filter(None, numbers)]
    canaries += [HOOK_SECRET, MAIL_PASSWORD, quote(MAIL_PASSWORD, safe="")]
    engine = sa.create_engine(os.environ["DAGSTER_POSTGRES_URL"])
    with engine.begin() as db:
        tables = sa.inspect(db).get_table_names()
        text = "\n".join(
            str(row)
            for table in tables
            for row in db.execute(sa.text(f'SELECT t::text FROM "{table}" AS t')).scalars()  # noqa: S608
        )
    engine.dispose()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    text += "\n".join(path.read_text(errors="replace") for path in files)
    text += "\n".join([*people.hook.texts, *map(str, people.mailbox.mails), caplog.text])
    # The scan sees what was logged and what was told.
    assert COPPER in text
    assert "Larch Auto Care needs a person" in text
    assert [canary for canary in canaries if canary in text] == []


# Sensors -----------------------------------------------------------------------------------------


def _tick(product: Product, sensor: dg.SensorDefinition) -> dg.SensorResult:
    """Evaluate a sensor as the daemon does, with its real database."""
    context = dg.build_sensor_context(
        instance=product.instance,
        resources={
            "database": product.pipeline.engine,
            "settings": Settings.load(os.environ),
        },
        definitions=defs,
        sensor_name=sensor.name,
    )
    found = sensor(context)
    match found:
        case dg.SensorResult():
            return found
        case dg.RunRequest():
            return dg.SensorResult(run_requests=[found])
        case dg.SkipReason():
            return dg.SensorResult(skip_reason=found)
        case list():
            return dg.SensorResult(run_requests=found)
    raise AssertionError(found)


def _set(product: Product, statement: str) -> None:
    with product.pipeline.engine.begin() as db:
        db.execute(sa.text(statement))


def test_the_token_sensor_skips_when_nothing_expires(product: Product) -> None:
    product.connect("Pine Realty")
    result = _tick(product, sensors.expiring_tokens)
    assert not result.run_requests
    assert "No token is due" in str(result.skip_reason)


def test_expiring_and_long_expired_tokens_are_asked_for_in_one_run(product: Product) -> None:
    pine, maple = product.connect("Pine Realty"), product.connect("Maple Plumbing")
    product.connect("Harbor Dental")
    expire = (
        "UPDATE api_keys SET token_expires_at = now() + CAST(:left AS interval), "
        "refresh_at = now() + CAST(:left AS interval) - interval '30 minutes' WHERE user_id = :id"
    )
    with product.pipeline.engine.begin() as db:
        db.execute(sa.text(expire), {"left": "20 minutes", "id": pine.user.id})
        db.execute(sa.text(expire), {"left": "-300 days", "id": maple.user.id})
    (request,) = _tick(product, sensors.expiring_tokens).run_requests or ()
    users = request.run_config["ops"]["refresh_due_tokens"]["config"]["user_ids"]
    assert set(users) == {str(pine.user.id), str(maple.user.id)}
    assert product.run("refresh_tokens", run_config=request.run_config).success
    assert not _tick(product, sensors.expiring_tokens).run_requests


def test_a_sensor_asks_highlevel_nothing(demo: Product) -> None:
    _set(demo, EXPIRE)
    with demo.requests() as asked:
        for sensor in (
            sensors.expiring_tokens,
            sensors.connection_alerts,
            sensors.failed_user_syncs,
            sensors.new_users,
        ):
            _tick(demo, sensor)
    assert not asked


def test_a_failed_day_is_asked_for_again_after_a_while_for_that_user_only(demo: Product) -> None:
    demo.sync(demo.week)
    assert not _tick(demo, sensors.failed_user_syncs).run_requests
    _set(demo, "UPDATE sync_ledger SET finished_at = finished_at - interval '16 minutes'")
    (request,) = _tick(demo, sensors.failed_user_syncs).run_requests or ()
    config = request.run_config["ops"]["call_logs"]["config"]
    assert config == {"user_ids": [DEMO[COPPER].id], "only_failed": True}
    assert request.tags["dagster/asset_partition_range_start"] == str(demo.bad_day)
    assert request.tags["dagster/asset_partition_range_end"] == str(demo.bad_day)


def test_after_too_many_failures_a_day_is_left_to_people(demo: Product) -> None:
    demo.sync(demo.week)
    _set(demo, "UPDATE sync_ledger SET finished_at = now() - interval '30 days', attempt = 7")
    assert not _tick(demo, sensors.failed_user_syncs).run_requests


def test_a_failed_day_of_a_user_who_has_disconnected_since_is_not_asked_for(demo: Product) -> None:
    demo.sync([demo.bad_day])
    _set(demo, "UPDATE sync_ledger SET finished_at = finished_at - interval '16 minutes'")
    demo.pipeline.consent.disconnect(UUID(DEMO[COPPER].id))
    assert not _tick(demo, sensors.failed_user_syncs).run_requests


def test_users_who_wait_for_a_person_are_not_retried(demo: Product) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    demo.sync(demo.week)
    _set(demo, "UPDATE sync_ledger SET finished_at = now() - interval '30 days'")
    assert not _tick(demo, sensors.failed_user_syncs).run_requests
    assert not [
        r
        for r in _tick(demo, sensors.new_users).run_requests or ()
        if r.job_name == "resync_failed_users"
    ]


def test_every_user_gets_a_partition_keyed_by_id_and_a_first_look(demo: Product) -> None:
    result = _tick(demo, sensors.new_users)
    (request,) = result.dynamic_partitions_requests or ()
    assert set(request.partition_keys) == {user.id for user in DEMO_USERS}
    names = [r.job_name for r in result.run_requests or ()]
    assert {"refresh_tokens", "update_directory"} <= set(names)
    demo.instance.add_dynamic_partitions(partitions.USERS, list(request.partition_keys))
    assert not _tick(demo, sensors.new_users).dynamic_partitions_requests


def test_a_new_user_is_filled_for_the_last_30_days(product: Product) -> None:
    product.connect("Pine Realty")
    requests = _tick(product, sensors.new_users).run_requests or ()
    (fill,) = [r for r in requests if r.job_name == "resync_failed_users"]
    first, last = product.today - timedelta(days=30), product.today - timedelta(days=1)
    assert fill.tags["dagster/asset_partition_range_start"] == str(first)
    assert fill.tags["dagster/asset_partition_range_end"] == str(last)


def test_the_days_of_a_user_who_is_back_are_filled_without_anybody_asking(demo: Product) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    demo.sync(demo.week)
    larch = demo.connect("Larch Auto Care")
    assert larch.state is ConnectionState.CONNECTED
    requests = _tick(demo, sensors.new_users).run_requests or ()
    (fill,) = [r for r in requests if r.job_name == "resync_failed_users"]
    with demo.requests() as asked:
        assert demo.run("resync_failed_users", run_config=fill.run_config, tags=fill.tags).success
    assert {place for _, place in asked} == {larch.location_id}
    again = _tick(demo, sensors.new_users).run_requests or ()
    assert not [r for r in again if r.job_name == "resync_failed_users"]


def test_nobody_is_filled_while_a_sync_is_under_way(product: Product) -> None:
    product.connect("Pine Realty")
    run = product.instance.create_run_for_job(
        defs.resolve_job_def("sync_calls"), status=dg.DagsterRunStatus.STARTED
    )
    result = _tick(product, sensors.new_users)
    assert not [r for r in result.run_requests or () if r.job_name == "resync_failed_users"]
    product.instance.delete_run(run.run_id)
    assert [
        r
        for r in _tick(product, sensors.new_users).run_requests or ()
        if r.job_name == "resync_failed_users"
    ]


def test_more_users_than_a_run_request_should_name_are_left_to_the_run_to_find(
    product: Product,
) -> None:
    _many_users(product, sensors.BATCH)
    (request,) = _tick(product, sensors.expiring_tokens).run_requests or ()
    named = request.run_config["ops"]["refresh_due_tokens"]["config"]["user_ids"]
    assert len(named) == sensors.BATCH
    product.connect("Pine Realty")
    _set(product, EXPIRE)
    (request,) = _tick(product, sensors.expiring_tokens).run_requests or ()
    assert request.run_config["ops"]["refresh_due_tokens"]["config"]["user_ids"] == []


def test_failed_days_of_more_users_than_a_run_should_name_are_asked_for_once(
    product: Product,
) -> None:
    _many_users(product, sensors.BATCH + 1)
    _set(
        product,
        "INSERT INTO sync_ledger (user_id, location_id, day, state, failure_class, attempt, "
        "finished_at) SELECT user_id, location_id, current_date - n, 'failed', 'unreachable', 1, "
        "now() - interval '16 minutes' FROM api_keys, generate_series(1, 2) AS n",
    )
    (request,) = _tick(product, sensors.failed_user_syncs).run_requests or ()
    assert request.run_config["ops"]["call_logs"]["config"] == {"user_ids": [], "only_failed": True}
    asked = product.instance.create_run_for_job(
        defs.resolve_job_def("resync_failed_users"), status=dg.DagsterRunStatus.STARTED
    )
    result = _tick(product, sensors.failed_user_syncs)
    assert not result.run_requests
    assert "being read again" in str(result.skip_reason)
    product.instance.delete_run(asked.run_id)
    (again,) = _tick(product, sensors.failed_user_syncs).run_requests or ()
    assert again.run_key == request.run_key  # a tick that was killed asks for nothing twice


def test_a_slow_database_ends_a_tick_with_a_sentence_before_dagster_kills_it(
    engine: sa.Engine,
) -> None:
    assert timedelta(seconds=50) > 4 * sensors.PATIENCE
    with (
        pytest.raises(dg.Failure, match="The next tick looks again"),
        sensors._reading(engine, timedelta(milliseconds=50)) as db,
    ):
        db.execute(sa.text("SELECT pg_sleep(10)"))
    with sensors._reading(engine) as db:
        assert db.execute(sa.text("SHOW statement_timeout")).scalar_one() == "12s"
    with engine.begin() as db:  # nobody else inherits it
        assert db.execute(sa.text("SHOW statement_timeout")).scalar_one() == "0"


@pytest.mark.parametrize(
    "sensor",
    [
        sensors.expiring_tokens,
        sensors.connection_alerts,
        sensors.failed_user_syncs,
        sensors.new_users,
        sensors.stale_marts,
    ],
    ids=lambda sensor: sensor.name,
)
def test_a_database_that_cannot_be_reached_ends_any_tick_with_a_sentence(
    sensor: dg.SensorDefinition,
) -> None:
    nowhere = open_engine(Secret(f"postgresql+psycopg://127.0.0.1:{free_port()}/voiceai"))
    parts = {"database": nowhere, "settings": Settings.load({})}
    with (
        dg.build_sensor_context(resources=parts) as context,
        pytest.raises(dg.Failure, match=r"The database refused .* The next tick looks again\."),
    ):
        sensor(context)


def _many_users(product: Product, number: int) -> None:
    """That many connected users whose tokens have expired."""
    statements = (
        "INSERT INTO users (id, business_name) "
        "SELECT gen_random_uuid(), 'Shop ' || n FROM generate_series(1, :number) AS n",
        "INSERT INTO api_keys (id, user_id, name, service, is_active, access_token, refresh_token, "
        "location_id, token_expires_at) SELECT gen_random_uuid(), id, 'HighLevel', 'highlevel', "
        "true, repeat('a', 900), repeat('r', 900), 'Loc' || business_name, "
        "now() - interval '1 day' FROM users WHERE business_name LIKE 'Shop %'",
    )
    with product.pipeline.engine.begin() as db:
        for statement in statements:
            db.execute(sa.text(statement), {"number": number})


# Alerts ------------------------------------------------------------------------------------------


def _tell(product: Product) -> dg.ExecuteInProcessResult | None:
    """Evaluate the sensor and do what it asks for; None if nobody has to be told anything."""
    requests = _tick(product, sensors.connection_alerts).run_requests or ()
    return product.run("send_alerts") if requests else None


def _shown(product: Product, asset: str, user_id: UUID | None) -> dg.AssetObservation:
    """What Dagster's UI was told, in a user's cell or for everybody."""
    cells = [str(user_id)] if user_id else None
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=cells)
    (record,) = product.instance.fetch_observations(wanted, limit=1).records
    assert record.asset_observation is not None
    return record.asset_observation


def test_failing_renewals_tell_people_once_and_a_reconnection_once_more(
    product: Product, people: Receivers
) -> None:
    larch = product.connect("Larch Auto Care")
    product.sandbox.world.revoke(str(larch.location_id))
    _set(product, EXPIRE)
    deliveries = []
    for _ in range(3):
        product.run("refresh_tokens", run_config=_only(larch.user.id))
        deliveries.append(_tell(product))
    assert [done is not None for done in deliveries] == [True, False, False]
    began = "Larch Auto Care needs a person: Failed to refresh token"
    assert people.headlines == [began]
    assert people.subjects == [f"[voiceai_pipeline] {began}"]
    assert people.mailbox.logins == [("robot", MAIL_PASSWORD, False)]
    seen = _shown(product, "user_tokens", larch.user.id)
    assert seen.description == began
    assert seen.metadata["connection_page"].value == f"https://voice.test/users/{larch.user.id}"

    assert _cell(product, larch.user.id)["state"] == "needs reconnection: revoked"
    product.connect("Larch Auto Care")
    recovery = _tell(product)
    assert recovery is not None
    assert _checks(recovery)["no_connection_needs_a_person"].passed
    assert _cell(product, larch.user.id)["state"] == "connected"
    assert _tell(product) is None
    assert people.headlines[1:] == ["Larch Auto Care works again"]
    assert people.subjects[1:] == ["[voiceai_pipeline] Larch Auto Care works again"]


def _only(user_id: UUID) -> dict[str, Any]:
    return {"ops": {"refresh_due_tokens": {"config": {"user_ids": [str(user_id)]}}}}


def test_a_paused_location_asks_for_no_delivery(product: Product, people: Receivers) -> None:
    willow = product.connect("Willow Spa")
    product.sandbox.world.pause(str(willow.location_id))
    _set(product, EXPIRE)
    assert product.run("refresh_tokens").success
    result = _tick(product, sensors.connection_alerts)
    assert not result.run_requests
    assert "Everybody knows" in str(result.skip_reason)


def test_a_channel_that_fails_turns_the_run_red_after_the_others_were_told_and_is_tried_again(
    product: Product, people: Receivers
) -> None:
    larch = product.connect("Larch Auto Care")
    product.sandbox.world.revoke(str(larch.location_id))
    _set(product, EXPIRE)
    product.run("refresh_tokens")
    people.hook.answers = [500]
    (first,) = _tick(product, sensors.connection_alerts).run_requests or ()
    text = _failure(product.run("send_alerts"))
    assert "- webhook, 1 kept: The webhook answered 500. Fix: wait" in text
    assert "email" not in text.partition("Stack Trace")[0]
    assert len(people.subjects) == 1
    assert _shown(product, "user_tokens", larch.user.id)

    (again,) = _tick(product, sensors.connection_alerts).run_requests or ()
    # The same notices in the same ten minutes are not asked for twice.
    assert str(again.run_key).rsplit(" ", 1)[0] == str(first.run_key).rsplit(" ", 1)[0]
    assert product.run("send_alerts").success
    assert _tell(product) is None
    assert (len(people.headlines), len(people.subjects)) == (1, 1)


def test_a_wrong_client_secret_is_told_once_for_everybody(
    demo: Product, people: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(demo, EXPIRE)
    monkeypatch.setenv("HIGHLEVEL_CLIENT_SECRET", "wrong")
    for _ in range(2):
        demo.run("refresh_tokens")
        _tell(demo)
    (headline,) = people.headlines
    assert headline.startswith("Renewals of all users are suspended: HighLevel refused this app's")
    assert _shown(demo, "refreshed_credentials", None).description == headline


def test_people_are_told_by_one_run_at_a_time(product: Product) -> None:
    larch = product.connect("Larch Auto Care")
    product.sandbox.world.revoke(str(larch.location_id))
    _set(product, EXPIRE)
    product.run("refresh_tokens")
    run = product.instance.create_run_for_job(
        defs.resolve_job_def("send_alerts"), status=dg.DagsterRunStatus.STARTED
    )
    result = _tick(product, sensors.connection_alerts)
    assert "being delivered" in str(result.skip_reason)
    product.instance.delete_run(run.run_id)
    assert _tick(product, sensors.connection_alerts).run_requests
