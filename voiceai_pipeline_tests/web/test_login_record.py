"""Who logged in and who failed to: recorded, shown to operators, and alerted when it repeats."""

import re
from datetime import timedelta

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts
from voiceai_pipeline.core.dagster_access import Role
from voiceai_pipeline.web import login_record
from voiceai_pipeline_tests.support.installation import Open
from voiceai_pipeline_tests.support.visitor import PASSWORD

ANALYSTS = "looking is free 123"


def test_logins_and_failures_are_recorded_without_a_password_and_shown_to_operators(
    open_page: Open,
) -> None:
    passwords = {"VOICEAI_PAGE_SECRET": PASSWORD, "VOICEAI_ANALYST_SECRET": ANALYSTS}
    with open_page(**passwords) as page, page.visitor() as operator, page.visitor() as analyst:
        operator.log_in("a wrong password")
        analyst.log_in(ANALYSTS)
        operator.log_in()
        shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", operator.get("/logins").text))
        linked = [name for name in (operator, analyst) if "/logins" in name.get().text]
        refused = analyst.get("/logins")
        with page.pipeline.engine.begin() as db:
            found = login_record.newest(db)
            stored = str(db.execute(sa.text("SELECT l::text FROM page_logins AS l")).all())

    assert [one.role for one in found] == [Role.OPERATOR, Role.ANALYST, None]
    assert {one.address for one in found} == {"127.0.0.1"}
    assert re.search("operator .* from 127.0.0.1 analyst .* failed .* from 127.0.0.1", shown)
    assert linked == [operator]
    assert refused.status_code == 403
    assert not [one for one in ("a wrong password", PASSWORD, ANALYSTS) if one in stored]


def test_ten_failures_within_ten_minutes_are_one_alert_from_wherever_they_come(
    engine: sa.Engine,
) -> None:
    def open_alerts() -> list[str]:
        with engine.begin() as db:
            return [one.subject for one in alerts.open_problems(db)]

    def earlier(by: timedelta) -> None:
        with engine.begin() as db:
            db.execute(sa.text("UPDATE page_logins SET at = at - :by"), {"by": by})

    for number in range(5):
        login_record.record(engine, f"192.0.2.{number}", None)
    earlier(timedelta(minutes=11))
    for number in range(login_record.ALERT_AFTER - 1):
        login_record.record(engine, f"198.51.100.{number}", None)
    assert open_alerts() == []
    for number in range(login_record.RECORDED):
        login_record.record(engine, f"203.0.113.{number}", None)
    assert open_alerts() == [alerts.LOGINS]
    with engine.begin() as db:
        assert len(alerts.pending(db, "webhook")) == 1
        # Of an attack only some are recorded.
        assert len(login_record.newest(db)) == 5 + login_record.RECORDED
    # A login in between says nothing; after a quiet hour the next one closes it.
    login_record.record(engine, "192.0.2.1", Role.OPERATOR)
    assert open_alerts() == [alerts.LOGINS]
    earlier(login_record.QUIET)
    login_record.record(engine, "192.0.2.1", Role.OPERATOR)
    assert open_alerts() == []


def test_a_database_that_takes_no_record_prevents_no_login(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as page, page.visitor() as operator:
        with page.pipeline.engine.begin() as db:
            db.execute(sa.text("ALTER TABLE page_logins RENAME TO gone"))
        assert operator.log_in("a wrong password").status_code == 401
        assert operator.log_in().status_code == 303
        assert operator.get().status_code == 200
