"""The checks on a real instance: each seen true and seen false."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline_tests.support.dagster_runs import checks_of, facts_of
from voiceai_pipeline_tests.support.product import Product

ACTION = {"actionType": "TELEPATHY", "actionName": "Guess"}


def test_a_call_that_is_stored_under_two_locations_fails_the_run_and_is_named(
    product: Product,
) -> None:
    pine = product.connect("Pine Realty")
    maple = product.connect("Maple Plumbing")
    first = product.sync([product.yesterday])
    assert first.success
    assert checks_of(first)["no_call_is_stored_twice"].passed

    # Maple's connection gives Pine's calls: HighLevel's own mistake, or the user's at consent.
    with product.pipeline.engine.begin() as db:
        call = db.execute(
            sa.text("SELECT call_id FROM call_logs WHERE location_id = :pine LIMIT 1"),
            {"pine": pine.location_id},
        ).scalar_one()
        moment = datetime.combine(product.yesterday, datetime.min.time(), UTC) + timedelta(hours=9)
        added = product.sandbox.world.calls.add(str(maple.location_id), moment)
        product.sandbox.world.calls.change(str(maple.location_id), added["id"], id=call)
        db.execute(sa.text("UPDATE call_logs SET started_at = :at WHERE call_id = :call"),
                   {"at": moment, "call": call})  # fmt: skip
    again = product.sync([product.yesterday], reread=True)
    assert not again.success  # blocking: what adds the calls up must not run on
    twice = checks_of(again)["no_call_is_stored_twice"]
    assert not twice.passed
    assert twice.severity is dg.AssetCheckSeverity.ERROR
    assert f"- {call}: " in str(twice.description)
    assert str(pine.location_name) in str(twice.description)
    assert str(maple.location_name) in str(twice.description)

    product.sandbox.world.calls.remove(str(maple.location_id), added["id"])
    fixed = product.sync([product.yesterday], reread=True)
    assert fixed.success  # what is no longer listed counts nowhere
    assert checks_of(fixed)["no_call_is_stored_twice"].passed


def test_undocumented_action_types_are_named_and_counted(product: Product) -> None:
    pine = product.connect("Pine Realty")
    first = product.sync([product.yesterday])
    assert checks_of(first)["every_action_type_is_known"].passed

    location_id = str(pine.location_id)
    moment = datetime.combine(product.yesterday, datetime.min.time(), UTC)
    for call in product.sandbox.world.calls.between(location_id, moment)[:2]:
        actions = [ACTION, {"actionType": "SMS"}, {"actionType": "<b>\n"}]
        product.sandbox.world.calls.change(location_id, call["id"], executedCallActions=actions)
    result = product.sync([product.yesterday], reread=True)
    assert result.success
    check = checks_of(result)["every_action_type_is_known"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert str(check.description).splitlines()[-2:] == [
        "- TELEPATHY: 2 actions",
        r"- \[redacted\]: 2 actions",
    ]
    assert facts_of(check) == {"unknown_types": 2, "unknown_actions": 4}


def test_what_cannot_be_stored_as_a_call_is_a_warning_that_says_where_it_is_kept(
    product: Product,
) -> None:
    pine = product.connect("Pine Realty")
    first = product.sync([product.yesterday])
    assert checks_of(first)["no_call_was_set_aside"].passed

    noon = datetime.combine(product.yesterday, datetime.min.time(), UTC) + timedelta(hours=12)
    product.sandbox.world.calls.add(str(pine.location_id), noon, id="")
    result = product.sync([product.yesterday], reread=True)
    assert result.success  # no rerun helps
    check = checks_of(result)["no_call_was_set_aside"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "table set_aside_calls" in str(check.description)
    assert facts_of(check) == {"set_aside": 1}


def test_a_refresh_that_keeps_failing_needs_action_though_the_connection_still_works(
    product: Product,
) -> None:
    pine = product.connect("Pine Realty")

    def fails(times: int) -> dg.AssetCheckEvaluation:
        with product.pipeline.engine.begin() as db:
            db.execute(
                sa.text(
                    "UPDATE api_keys SET failed_attempts = :times, last_failure = 'unreachable' "
                    "WHERE user_id = :id"
                ),
                {"times": times, "id": pine.user.id},
            )
        return checks_of(product.run("inspect_connections"))["no_connection_needs_a_person"]

    assert fails(11).passed
    after_two_hours = fails(12)
    assert not after_two_hours.passed
    assert "- Pine Realty: " in str(after_two_hours.description)


def test_a_day_with_far_fewer_calls_than_its_weekday_has_is_a_warning_with_the_band(
    product: Product,
) -> None:
    pine = product.connect("Pine Realty")
    young = checks_of(product.sync([product.yesterday]))["volume_is_within_its_usual_band"]
    assert young.passed
    assert "Not enough history yet" in str(young.description)

    def past_weeks(calls: int) -> dg.AssetCheckEvaluation:
        with product.pipeline.engine.begin() as db:
            db.execute(
                sa.text(
                    "INSERT INTO sync_ledger (user_id, location_id, day, state, read_until, stored)"
                    # A week that failed is not known: no week without calls.
                    " SELECT :id, :location, CAST(:day AS date) - 7 * ago, "
                    "CASE ago WHEN 8 THEN 'failed' ELSE 'complete' END, "
                    "now(), CASE ago WHEN 8 THEN NULL ELSE CAST(:calls AS int) END "
                    "FROM generate_series(1, 8) AS ago "
                    "ON CONFLICT (user_id, location_id, day) DO UPDATE SET stored = excluded.stored"
                ),
                {
                    "id": pine.user.id,
                    "location": pine.location_id,
                    "day": product.yesterday,
                    "calls": calls,
                },
            )
        # Today is not judged, for it is not over; yesterday is, whatever was read.
        result = product.sync([product.today])
        assert result.success
        return checks_of(result)["volume_is_within_its_usual_band"]

    stored = len(product.calls())
    usual = past_weeks(stored)
    assert usual.passed
    day = f"{product.yesterday:%A} {product.yesterday}"
    assert f"All locations on {day}: {stored} calls; usual:" in str(usual.description)

    odd = past_weeks(stored * 10)
    assert not odd.passed
    assert odd.severity is dg.AssetCheckSeverity.WARN
    shown = facts_of(odd)
    assert (shown["compared"], shown["unusual"], shown["calls"]) == (2, 2, stored)
    assert shown["usual_from"] < stored * 10 < shown["usual_to"]
    assert (
        f"- {pine.location_name}, {day}: {stored} calls, fewer than the usual "
        f"{shown['usual_from']} to {shown['usual_to']} (last 7 weeks)"
    ) in str(odd.description)
