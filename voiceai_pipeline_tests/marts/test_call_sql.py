"""SQL about stored calls: it tells speakers as the page of a call does."""

from itertools import product
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.calls.transcript import Speaker, turns
from voiceai_pipeline.marts.call_sql import IS_SPEAKER_UNKNOWN, SAID, TURNS

LINES: Final = (
    *("human:Hi", "USER: Hi", "bot:Yes?", "Ai:Yes?", "Speaker 1: Hi", " human:Hi", "human :Hi"),
    *("\tuser:Hi", "u\N{LATIN SMALL LETTER LONG S}er:Hi", "humans:Hi", "user\N{FULLWIDTH COLON}Hi"),
    *("bot:a\rhuman:b", "bot:a\u2028human:b", "bot:a\x0buser:b", "user:a\r", " ", ""),
)


def test_speakers_are_the_same_on_the_page_of_a_call_and_in_the_metrics(engine: sa.Engine) -> None:
    transcripts = ["\n".join(lines) for lines in product(LINES, repeat=2)]
    query = sa.text(
        f"SELECT {TURNS} AS turns, {IS_SPEAKER_UNKNOWN} AS is_unknown "  # noqa: S608
        "FROM unnest(CAST(:said AS text[])) WITH ORDINALITY AS t(transcript, number), "
        f"LATERAL (SELECT {SAID} AS said) AS s ORDER BY number"
    )
    with engine.begin() as db:
        counted = db.execute(query, {"said": transcripts}).all()
    for transcript, (caller_turns, is_unknown) in zip(transcripts, counted, strict=True):
        speakers = [turn.speaker for turn in turns(transcript, None)]
        assert speakers.count(Speaker.CALLER) == caller_turns, transcript
        assert (bool(speakers) and set(speakers) == {Speaker.UNKNOWN}) == is_unknown, transcript
