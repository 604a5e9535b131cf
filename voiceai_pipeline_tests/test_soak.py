"""The soak in small, kept working by this test: ten users, three hours, and a calm night."""

from pathlib import Path

import sqlalchemy as sa

from benchmarks.soak import opened, soak
from voiceai_pipeline.database.embedded import EmbeddedPostgres


def test_after_three_hours_of_faults_the_tables_are_highlevels_own_calls(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with opened(10, 3, "v3", postgres, tmp_path, patience=2.0) as one:
        facts = dict(soak(one, hours=3, share=0.05))
    assert one.tally.wrong == []
    assert one.tally.red == {}
    assert one.tally.greens > 50
    assert int(facts["red days seen"]) > 0
    assert int(facts["faults injected"]) > 0


def test_the_soak_notices_a_single_forged_call(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with opened(2, 4, "dated", postgres, tmp_path, patience=2.0) as one:
        with one.engine.begin() as db:
            db.execute(
                sa.text(
                    "CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                    "IF NOT EXISTS (SELECT FROM call_logs WHERE raw->>'summary' = 'Forged') "
                    "THEN NEW.raw := coalesce(NEW.raw, '{}') "
                    "|| jsonb_build_object('summary', 'Forged'); END IF; "
                    "RETURN NEW; END $$"
                )
            )
            db.execute(
                sa.text(
                    "CREATE TRIGGER forge BEFORE INSERT ON call_logs "
                    "FOR EACH ROW EXECUTE FUNCTION forge()"
                )
            )
        soak(one, hours=1, share=0.0)
    assert one.tally.wrong
    assert all(" stale" in text for text in one.tally.wrong)
