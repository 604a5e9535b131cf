"""Which runs are requested for what is due, without a database."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from voiceai_pipeline.defs import run_requests

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = date(2026, 11, 19)


def test_a_refresh_is_requested_once_in_ten_minutes_and_names_its_users() -> None:
    users = [UUID(int=1), UUID(int=2)]
    first = run_requests.refresh(users, NOW)
    assert first.run_key == run_requests.refresh(users, NOW + timedelta(minutes=9)).run_key
    assert first.run_key != run_requests.refresh(users, NOW + timedelta(minutes=10)).run_key
    named = first.run_config["ops"]["refresh_due_tokens"]["config"]["user_ids"]
    assert named == [str(user_id) for user_id in users]


def test_a_request_for_too_many_users_names_none() -> None:
    many = [UUID(int=number) for number in range(run_requests.BATCH + 1)]
    request = run_requests.refresh(many, NOW)
    assert request.run_config["ops"]["refresh_due_tokens"]["config"]["user_ids"] == []
    (resync,) = run_requests.resyncs("retry", [(u, DAY) for u in many], NOW, timedelta(minutes=15))
    assert resync.run_config["ops"]["call_logs"]["config"]["user_ids"] == []


def test_a_new_alert_is_requested_at_once_and_the_same_ones_are_not_requested_twice() -> None:
    first = run_requests.alerts({"1.opened", "2.opened"}, NOW)
    assert first.run_key == run_requests.alerts(["2.opened", "1.opened"], NOW).run_key
    assert first.run_key != run_requests.alerts({"1.opened"}, NOW).run_key


def test_consecutive_days_are_one_run_and_a_tick_requests_a_limited_number_of_runs() -> None:
    user = UUID(int=1)
    week = [(user, DAY - timedelta(days=ago)) for ago in range(7)]
    (request,) = run_requests.resyncs("retry", week, NOW, timedelta(minutes=15))
    assert request.tags["dagster/asset_partition_range_start"] == str(DAY - timedelta(days=6))
    assert request.tags["dagster/asset_partition_range_end"] == str(DAY)
    apart = [(user, DAY - timedelta(days=2 * ago)) for ago in range(20)]
    requests = run_requests.resyncs("retry", apart, NOW, timedelta(minutes=15))
    assert len(requests) == run_requests.RUNS_PER_TICK


def test_marts_are_built_newest_first_for_the_locations_that_are_stale() -> None:
    stale = {DAY - timedelta(days=9): {"LocB"}, DAY: {"LocB", "LocA"}}
    newest, oldest = run_requests.marts(stale, "abc", NOW)
    assert newest.tags["dagster/asset_partition_range_start"] == str(DAY)
    assert newest.run_config["ops"]["marts"]["config"]["location_ids"] == ["LocA", "LocB"]
    assert oldest.run_config["ops"]["marts"]["config"]["location_ids"] == ["LocB"]
    assert newest.run_key != run_requests.marts(stale, "abd", NOW)[0].run_key


def test_new_users_are_looked_at_once_and_their_locations_named() -> None:
    looks = run_requests.first_looks([str(UUID(int=1))])
    assert [look.job_name for look in looks] == ["refresh_tokens", "update_directory"]
    many = [str(UUID(int=number)) for number in range(run_requests.BATCH + 1)]
    jobs = [look.job_name for look in run_requests.first_looks(many)]
    assert jobs == ["inspect_connections", "update_directory"]
