"""Who called: withheld numbers, and one number in several spellings (REQUIREMENTS M11)."""

from datetime import UTC, datetime, timedelta

import pytest

from voiceai_pipeline.marts.phone_numbers import number_of
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, D, Desk

NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)
ONE = "+15550100001"
SPELLINGS = (ONE, "15550100001", "(555) 010-0001", "+1 555-010-0001", "tel:+1-555-010-0001")
WITHHELD = (
    "+266696687", "266696687", "+7378742833", "+2562533", "+8656696", "anonymous", "Anonymous",
    "UNKNOWN", "restricted", "Private Number", "No Caller ID", "0", "+",
)  # fmt: skip


@pytest.mark.parametrize("text", WITHHELD)
def test_a_withheld_number_is_no_number(text: str) -> None:
    assert number_of(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((spelling, ONE) for spelling in SPELLINGS),
        ("+44 (0)20 7946 0958", "+442079460958"),
        ("sip:alice@example.test", "sip:alice@example.test"),
        ("12", "12"),
    ],
)
def test_a_number_has_one_form_and_what_is_none_stays(text: str, number: str) -> None:
    assert number_of(text) == number


def test_a_withheld_number_is_no_caller_and_spellings_are_one(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D - 13 * DAY, D + DAY)
    for nth, number in enumerate((*SPELLINGS, *WITHHELD)):
        contact = "contact-of-all-withheld" if number == "+266696687" else None
        at = NOON + timedelta(minutes=nth)
        book.call(LOCATION, at, from_number=number, contact_id=contact)
    desk.build(D)
    row = desk.row()
    assert row["calls_without_caller"] == len(WITHHELD)
    assert (row["unique_callers"], row["callers_7d"], row["repeat_callers_7d"]) == (1, 1, 1)
    assert row["callback_judged_calls"] == len(SPELLINGS)
    assert row["called_back_calls"] == len(SPELLINGS) - 1


def test_speaker_labels_count_in_any_case_and_unknown_ones_are_counted(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    known = (
        "Bot: Hello\nHuman: Hi\nBot: Ok\nHuman: Bye",
        "AGENT: Hello\nUSER: Hi\nuser: Bye",
        "bot:Hello\r\nhuman:Hi\r\nHUMAN: Bye",
    )
    unknown = (
        "Speaker 1: Hello\nSpeaker 2: Hi",
        "Just text.",
        " bot: Hello\n human: Hi\n human: Bye",  # no line begins with a label
        "Bot : Hello\nHuman : Hi\nHuman : Bye",
    )
    for transcript in (*known, *unknown, "bot:Hello?", None):
        book.call(LOCATION, NOON, transcript=transcript)
    desk.build(D)
    row = desk.row()
    assert row["engaged_calls"] == len(known)
    assert row["calls_with_unknown_speakers"] == len(unknown)
    assert row["short_calls"] == 2  # the bot alone, and nothing said
    assert row["calls_without_transcript"] == 1
