"""What ``sync_status`` says of how new calls arrive."""

from datetime import UTC, datetime

from voiceai_pipeline.calls.freshness import Freshness
from voiceai_pipeline.defs import freshness_texts

AT = datetime(2026, 11, 29, 14, 5, tzinfo=UTC)
EARLIER = datetime(2026, 11, 29, 12, tzinfo=UTC)
FINE = ("Harbor Dental", Freshness(AT, AT, is_polled=False))


def said(*found: tuple[str, Freshness]) -> str:
    return str(freshness_texts.of_locations(found)["how_fresh"].value)


def test_announced_calls_say_when_the_last_message_came() -> None:
    assert said(FINE) == (
        "Calls have been seen up to 2026-11-29 14:05 UTC or later. "
        "HighLevel last announced a call at 2026-11-29 14:05 UTC."
    )


def test_a_location_that_only_syncs_look_at_is_named_with_what_to_do() -> None:
    odd = ("*Quiet* Law", Freshness(None, EARLIER, is_polled=True))
    facts = freshness_texts.of_locations([odd, FINE])
    text = said(odd, FINE)
    assert text.startswith("Calls have been seen up to 2026-11-29 12:00 UTC or later.")
    assert r"**Found by syncs only: \*Quiet\* Law.** Check that delivery is on" in text
    assert facts["found_by_syncs_only"] == 1
    table = str(facts["location_freshness"].value)
    assert "found by syncs only" in table
    assert "|announced|" in table


def test_without_messages_and_without_reads_nothing_is_claimed() -> None:
    never = ("New Shop", Freshness(None, None, is_polled=False))
    assert said(never) == (
        "No location has been read recently. "
        "HighLevel announces no calls: each sync finds the new ones."
    )
    assert "no recent read of 1 of 2 locations" in said(FINE, never)
    assert freshness_texts.of_locations([]) == {}
